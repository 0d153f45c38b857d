"""Training: seeded, one head for each format, and exported without loss."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")
pytest.importorskip("onnx")

from router.dataset import EVALUATION_ONLY, Example
from router.network import forward, onnx_bytes
from router.prepared import prepare
from router.targets import failures, levels, standardized_by_format
from router.teacher import Teacher
from router.tokens import Vocabulary, words_of
from router.train import fit
from router.tune import TuneConfig

PIECES = list(
    ("the", "sum", "of", "prove", "that", "hello", "thanks", "what", "is", "name")
    + ("7", "3", "+", "?", "yes", "code", "bomb", "sort", "list")
)


def teacher() -> Teacher:
    vectors = np.random.default_rng(0).normal(size=(len(PIECES), 64)).astype(np.float32)
    return Teacher(PIECES, vectors)


def examples() -> list[Example]:
    hard, easy = "prove that the sum of 7 + 3", "what is the name"
    made = []
    for number in range(40):
        text, score = (hard, 0.0) if number % 2 else (easy, 1.0)
        scores = {"a": score, "b": score if number % 3 else 0.5, "c": 0.5}
        made.append(
            Example("quiz", text, "math" if number % 2 else "question", "math", scores=scores)
        )
        made.append(Example("gsm8k_train", "sum of 7 + 3 " * (1 + number % 4), level=number % 4))
        made.append(
            Example("chatty", "hello thanks", "chat", "general", needs_context=number % 2 > 0)
        )
        made.append(Example("bad", "bomb" if number % 2 else "yes", is_unsafe=number % 2 > 0))
    return made


def fitted(seed: int = 0):
    vocabulary = Vocabulary(PIECES)
    config = TuneConfig(epochs=2, batch=32, width=8)
    prepared = prepare(examples(), vocabulary, seed=seed)
    return fit(prepared, teacher(), seed=seed, config=config), vocabulary


def test_the_same_seed_gives_the_same_model():
    first, second = fitted()[0].weights, fitted()[0].weights
    for name in ("table", "hidden", "heads", "usual"):
        assert (getattr(first, name) == getattr(second, name)).all()


def test_a_harder_text_scores_higher_and_onnx_agrees():
    trained, vocabulary = fitted()
    model = onnx_bytes(
        trained.weights, version="t", vocabulary_size=len(vocabulary), about=trained.about
    )
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    scores = {}
    for text in ("prove that the sum of 7 + 3", "hello thanks"):
        ids, facts = vocabulary.ids_of(words_of(text)), [0.3, 0.0, 0.2, 0.0, 0.0, 1.0, 0.0]
        feeds = {"tokens": np.array(ids, np.int32), "facts": np.array([facts], np.float32)}
        ((outputs,),) = session.run(None, feeds)
        np.testing.assert_allclose(outputs, forward(trained.weights, ids, facts), atol=1e-4)
        scores[text] = outputs[0]
    assert scores["prove that the sum of 7 + 3"] > scores["hello thanks"]


def test_levels_are_standardized_inside_each_format():
    easy = [Example("openbook_qa", str(n), "question", level=n) for n in range(10)]
    hard = [Example("mbpp", str(n), "code", level=n) for n in range(10)]
    level = np.array([*np.linspace(0.1, 0.3, 10), *np.linspace(0.5, 0.9, 10)], np.float32)
    numbers, _ = standardized_by_format([*easy, *hard], level)
    assert np.nanmean(numbers[:, [2, 5]], axis=0) == pytest.approx([0, 0], abs=1e-5)
    assert np.nanstd(numbers[:, [2, 5]], axis=0) == pytest.approx([1, 1], abs=1e-5)
    assert np.isfinite(numbers).sum() == 20


def test_a_set_that_small_models_fail_has_a_higher_level():
    easy = [Example("easy", str(n), scores={"a": 1.0 - n % 2 / 4, "b": 0.8}) for n in range(10)]
    hard = [Example("hard", str(n), scores={"a": n % 2 / 4, "b": 0.3}) for n in range(10)]
    assert levels(hard).mean() > levels(easy).mean()


def test_outcomes_of_word_problems_are_left_to_check_with():
    solved = [Example("gsm8k", str(n), "math", scores={"a": 1.0, "b": 0.5}) for n in range(4)]
    assert np.isnan(levels(solved)).all()
    stepped = [Example("gsm8k_train", str(n), "math", level=n) for n in range(4)]
    assert (np.diff(levels(stepped)) > 0).all()


def test_models_that_always_fail_say_nothing_of_an_item():
    items = [
        Example("s", "x", scores={"able": 1.0, "fair": 1.0, "broken": 0.0}),
        Example("s", "y", scores={"able": 0.5, "fair": 0.0, "broken": 0.0}),
    ]
    assert failures(items).tolist() == pytest.approx([0.0, 0.75])


def test_share_alike_sources_never_shape_the_weights():
    for source in ("sib200", "xquad_hi", "hinglish_top", "arc_challenge", "natural_qa"):
        assert source in EVALUATION_ONLY
        assert not Example(source, "x").may_shape_weights


def test_a_word_problem_with_outcomes_teaches_no_steps():
    problem, other = "sum of 7 + 3 is what", "sum of 3 + 3"
    made = [
        Example("gsm8k_train", problem, level=4.0),
        Example("gsm8k_train", other, level=2.0),
        Example("gsm8k", f"{problem}?".upper().rstrip("?"), scores={"a": 1.0}),
    ]
    known = np.isfinite(levels(made))
    assert known.tolist() == [False, True, False]
