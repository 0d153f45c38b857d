"""What is learned of recorded turns: only what their records can tell, each by its chance."""

from __future__ import annotations

import math
import random

import pytest

from router.correction import CORRECTION_FILE, Correction
from router.errors import ModelFileError
from router.labels import Labels, Prediction
from router.recorded import FEWEST_TURNS, RecordedTurn, fit_correction, recorded_turn

MODEL = "1.1+abcd"


def decision(**changes: object) -> dict[str, object]:
    return {
        "tier": "small",
        "reason": "score",
        "score": 0.4,
        "labels": {"task": "question", "language": "en"},
        "candidates": [{"tier": "small"}, {"tier": "strong"}],
        "classifier": MODEL,
        "propensity": 0.95,
        "inputs": {},
        **changes,
    }


def test_a_turn_of_the_cheapest_tier_teaches_its_failure_and_its_chance():
    turn = recorded_turn(decision(), "small", 0.25, MODEL)
    assert turn == RecordedTurn(0.4, "question", "en", 0.75, 0.95)


def test_the_classifiers_own_score_is_learned_from_even_where_it_was_changed():
    changed = decision(classifier=f"{MODEL}/11223344", inputs={"stage_one_score": 0.3})
    turn = recorded_turn(changed, "small", 1.0, MODEL)
    assert turn is not None and turn.score == 0.3


@pytest.mark.parametrize(
    ("changes", "tier"),
    [
        ({"tier": "strong"}, "strong"),  # how the cheapest would have done is not known
        ({}, "strong"),  # a fallback answered
        ({"reason": "pinned"}, "small"),  # the caller chose, nobody knows by what chance
        ({"reason": "ceiling"}, "small"),
        ({"score": None, "reason": "classifier_unavailable"}, "small"),
        ({"classifier": "0.9+ffff"}, "small"),
    ],
)
def test_other_turns_teach_nothing(changes, tier):
    assert recorded_turn(decision(**changes), tier, 1.0, MODEL) is None


def deployment(n: int, seed: int = 0) -> list[RecordedTurn]:
    """Turns whose true chance of failure is far below the score, but above it in Tamil."""
    draw = random.Random(seed)
    turns = []
    for _ in range(n):
        score, language = draw.uniform(0.1, 0.6), draw.choice(["en", "ta"])
        truth = min(score + 0.3, 1) if language == "ta" else score / 4
        turns.append(
            RecordedTurn(score, "question", language, float(draw.random() < truth), propensity=1.0)
        )
    return turns


def test_a_correction_learns_where_the_cheapest_tier_fails_here():
    fitted = fit_correction(deployment(3000), MODEL)
    assert fitted.helps
    english = Prediction(0.4, Labels(language="en", task="question"))
    tamil = Prediction(0.4, Labels(language="ta", task="question"))
    assert fitted.correction.of(english).score == pytest.approx(0.1, abs=0.07)
    assert fitted.correction.of(tamil).score == pytest.approx(0.7, abs=0.1)
    assert fitted.correction.of(tamil).stage_one_score == 0.4


def test_turns_that_agree_with_the_score_leave_it_about_alone():
    draw = random.Random(1)
    turns = []
    for _ in range(3000):
        score = draw.uniform(0.05, 0.95)
        turns.append(RecordedTurn(score, "chat", "en", float(draw.random() < score), 1.0))
    corrected = fit_correction(turns, MODEL).correction.of(Prediction(0.5, Labels(task="chat")))
    assert corrected.score == pytest.approx(0.5, abs=0.05)


def test_a_rare_draw_counts_for_all_it_stands_for():
    """Above the threshold only one turn in twenty is tried: unweighted, the rest would drown it."""
    draw = random.Random(2)
    turns, everybody = [], []
    for _ in range(20_000):
        score = draw.choice([0.45, 0.55])
        failed = float(draw.random() < (0.1 if score < 0.5 else 0.9))
        turn = RecordedTurn(score, "question", "en", failed, 1.0)
        everybody.append(turn)
        propensity = 0.95 if score < 0.5 else 0.05
        if draw.random() < propensity:
            turns.append(RecordedTurn(score, "question", "en", failed, propensity))
    asked = Prediction(0.55, Labels(task="question", language="en"))
    seen = fit_correction(turns, MODEL).correction.of(asked).score
    all_seen = fit_correction(everybody, MODEL).correction.of(asked).score
    assert seen == pytest.approx(all_seen, abs=0.05)


def test_too_few_turns_are_refused():
    with pytest.raises(ValueError, match=str(FEWEST_TURNS)):
        fit_correction(deployment(FEWEST_TURNS - 1), MODEL)


def test_the_same_turns_give_the_same_correction():
    assert (
        fit_correction(deployment(500), MODEL).correction.version
        == fit_correction(deployment(500), MODEL).correction.version
    )


def test_a_correction_is_read_back_and_belongs_to_one_model(tmp_path):
    assert Correction.load(tmp_path, MODEL) is None
    correction = Correction(MODEL, scale=0.9, offset=0.1, tasks={"math": -0.2})
    (tmp_path / CORRECTION_FILE).write_text(correction.to_json())
    assert Correction.load(tmp_path, MODEL) == correction
    assert Correction.load(tmp_path, "1.2+eeee") is None
    (tmp_path / CORRECTION_FILE).write_text('{"classifier": 3, "scale": "x"}')
    with pytest.raises(ModelFileError):
        Correction.load(tmp_path, MODEL)


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_a_correction_of_certainty_stays_a_probability(score):
    corrected = Correction(MODEL, scale=2.0, offset=5.0).of(Prediction(score, Labels()))
    assert 0 <= corrected.score <= 1 and math.isfinite(corrected.score)
