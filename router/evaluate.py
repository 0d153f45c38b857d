"""What the score is worth on sources it has not seen: fit without them, score them, compare.

Owns which sets leave together. `report.py` makes figures of what comes out, so that a table can be
made again without fitting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from memory.conversation import Message
from router.curves import Outcomes
from router.dataset import Example, read_examples
from router.features import turn_text_of
from router.judged import Judged
from router.network import Weights, forward
from router.prepared import prepare
from router.targets import failures
from router.teacher import load_teacher
from router.tokens import LEXICON_FILE, Vocabulary, read_lexicon, words_of
from router.train import DIM, fit
from router.written import read_written

# Sets that are close kin leave together, so that none is known through its sibling.
KIN: Mapping[str, tuple[str, ...]] = {
    "college problems": ("mmlu_pro", "gpqa"),
    "school questions": ("openbook_qa", "commonsense_qa", "arc_challenge", "mmlu"),
    "grade-school maths": ("gsm8k", "gsm8k_train"),
    "contest maths": ("math", "zeroeval_math-l5", "agieval_math"),
    "code": ("mbpp", "human_eval", "zeroeval_crux"),
    "rare facts": ("trivia_qa", "natural_qa"),
}
# A fit reports its epochs and its heads; about this many lines make a whole fold.
_LINES_OF_A_FIT = 8
Progress = Callable[[float, str], None]


def evaluate(
    data_dir: Path,
    *,
    model_dir: Path,
    seed: int = 0,
    folds: Mapping[str, tuple[str, ...]] = KIN,
    progress: Progress = lambda done, step: None,
) -> Iterator[list[Judged]]:
    """Fit once without each fold and yield what that model says of the fold's turns.

    Takes as long as `train` for each fold, so that each is given as soon as it is done.
    `progress` is told the share that is done, and the step that begins.

    Raises:
        FileNotFoundError: if a data file or the lexicon is missing.
    """
    examples = [*read_examples(data_dir), *read_written(seed)]
    teacher = load_teacher(DIM)
    vocabulary = Vocabulary(teacher.pieces, read_lexicon(model_dir / LEXICON_FILE))
    shaping = [example for example in examples if example.may_shape_weights]
    prepared = prepare(shaping, vocabulary, seed=seed)
    for number, (fold, held_out) in enumerate(folds.items()):
        lines = 0

        def told(step: str, fold: str = fold, number: int = number) -> None:
            nonlocal lines
            lines = min(lines + 1, _LINES_OF_A_FIT)
            done = (number + lines / (_LINES_OF_A_FIT + 1)) / len(folds)
            progress(done, f"without {fold}: {step}")

        told("fitting")
        weights = fit(prepared.without(held_out), teacher, seed=seed, progress=told).weights
        judged: list[Judged] = []
        for source in held_out:
            members = [e for e in examples if e.source == source and e.scores]
            judged += judged_of(members, [score_of(weights, vocabulary, e.text) for e in members])
        yield judged
    progress(1.0, "done")


def judged_of(members: Sequence[Example], scores: Sequence[float]) -> list[Judged]:
    """Return the turns of one set with their scores; none where no model's outcomes are known."""
    if not members:
        return []
    outcomes = outcomes_of(members)
    return [
        Judged(
            source=member.source,
            row=row,
            language=member.language or "und",
            n_chars=len(member.text),
            score=float(scores[row]),
            weak=float(outcomes.weak[row]),
            strong=float(outcomes.strong[row]),
        )
        for row, member in enumerate(members)
    ]


def outcomes_of(members: Sequence[Example]) -> Outcomes:
    """Return what the middling models and the best model made of the turns of one set."""
    by_model: dict[str, list[float]] = {}
    for member in members:
        for model, score in member.scores.items():
            by_model.setdefault(model, []).append(score)
    most = max(map(len, by_model.values()))
    complete = {m: np.mean(s) for m, s in by_model.items() if len(s) >= 0.95 * most}
    best = max(complete, key=lambda model: complete[model])
    weak = 1 - failures(members)
    strong = np.array([member.scores.get(best, np.nan) for member in members], np.float32)
    return Outcomes(np.asarray(weak, np.float32), np.where(np.isfinite(strong), strong, weak))


def score_of(weights: Weights, vocabulary: Vocabulary, text: str) -> float:
    """Return the score of a lone turn by the reference network."""
    read = turn_text_of([Message("user", text)])
    return float(forward(weights, vocabulary.ids_of(words_of(read.current)), read.facts)[0])
