"""Thresholds on sets that a human can check."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml

from memory.conversation import Message
from router.calibrate import (
    Target,
    effect_of,
    effects_unseen,
    policy_lines,
    scores_of_file,
    threshold_for,
    threshold_for_share,
)
from router.curves import Outcomes
from router.judged import JudgedSet
from router.labels import Labels, Prediction


def judged_set(name: str, scores: list[float], weak: list[float]) -> JudgedSet:
    ones = np.ones(len(scores), np.float32)
    outcomes = Outcomes(np.array(weak, np.float32), ones)
    return JudgedSet(name, np.array(scores, np.float32), ones, outcomes)


PERFECT = judged_set("perfect", [0.1, 0.2, 0.8, 0.9], [1, 1, 0, 0])
UPSIDE_DOWN = judged_set("upside-down", [0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1])


def test_a_threshold_sends_the_asked_share_to_the_strong_tier():
    scores = np.linspace(0, 1, 101)
    threshold = threshold_for_share(scores.tolist(), 0.2)
    assert (scores >= threshold).mean() == pytest.approx(0.2, abs=0.01)
    assert threshold_for([PERFECT], Target("strong_share", 0.25)) == pytest.approx(0.9)


def test_a_threshold_for_quality_is_the_highest_that_recovers_enough():
    assert threshold_for([PERFECT], Target("quality", 0.5)) == pytest.approx(0.9)
    assert threshold_for([PERFECT], Target("quality", 1.0)) == pytest.approx(0.8)


def test_no_strong_turn_is_a_threshold_that_no_score_reaches():
    assert threshold_for([PERFECT], Target("quality", 0.0)) == 1.0
    assert threshold_for_share([0.5, 0.6], 0.0) == 1.0


def test_an_effect_says_share_gap_and_quality():
    effect = effect_of(PERFECT, 0.85)
    assert (effect.strong_share, effect.quality, effect.recovered) == (0.25, 0.75, 0.5)


def test_a_set_is_judged_by_a_threshold_it_had_no_part_in():
    effects = effects_unseen([PERFECT, UPSIDE_DOWN], Target("quality", 1.0))
    # The other set alone would need all of its turns strong, or the upper half of them.
    assert effects["perfect"].threshold == pytest.approx(0.1)
    assert effects["upside-down"].threshold == pytest.approx(0.8)
    assert effects["upside-down"].recovered == 0.0


def test_the_lines_are_what_a_policy_reads():
    lines = policy_lines({"strong": 0.5312})
    assert yaml.safe_load(lines) == {"routing": {"thresholds": {"strong": 0.5312}}}


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ValueError):
        Target("quality", share)
    with pytest.raises(ValueError):
        threshold_for_share([0.5], share)


class Lengths:
    version = "lengths"

    def predict(self, messages: list[Message]) -> Prediction:
        return Prediction(len(messages[-1].text) / 10, Labels())


def test_a_line_that_is_no_conversation_is_named(tmp_path):
    path = tmp_path / "own.jsonl"
    good = json.dumps({"messages": [{"role": "user", "content": "hello"}]})
    path.write_text(f"{good}\n\n{good}\n")
    assert scores_of_file(path, Lengths()) == [0.5, 0.5]
    path.write_text(f'{good}\n{{"text": "x"}}\n')
    with pytest.raises(ValueError, match=":2:"):
        scores_of_file(path, Lengths())
