"""Curves on cases that a human can check."""

from __future__ import annotations

import numpy as np
import pytest

from router.curves import Outcomes, apgr, apgr_interval, quality_at, recovered, shuffled_quality

WEAK = np.array([1, 1, 0, 0], np.float32)
STRONG = np.array([1, 1, 1, 1], np.float32)
OUTCOMES = Outcomes(WEAK, STRONG)
PERFECT = np.array([0.1, 0.2, 0.8, 0.9], np.float32)


def test_a_perfect_score_recovers_the_gap_with_half_the_calls():
    assert recovered(PERFECT, OUTCOMES).tolist() == [0, 0.5, 1, 1, 1]
    assert apgr(PERFECT, OUTCOMES) == pytest.approx(0.75)


def test_a_score_that_is_upside_down_is_as_bad_as_the_perfect_one_is_good():
    assert apgr(-PERFECT, OUTCOMES) == pytest.approx(0.25)


def test_chance_gives_one_half():
    draw = np.random.default_rng(0)
    weak = (draw.random(20_000) < 0.5).astype(np.float32)
    outcomes = Outcomes(weak, np.ones_like(weak))
    assert apgr(draw.random(20_000), outcomes) == pytest.approx(0.5, abs=0.01)


def test_an_interval_holds_its_value():
    interval = apgr_interval(np.tile(PERFECT, 50), Outcomes(np.tile(WEAK, 50), np.tile(STRONG, 50)))
    assert interval.low <= interval.value <= interval.high


def test_shuffled_decisions_cost_the_same_and_give_less():
    is_strong = PERFECT > 0.5
    assert quality_at(is_strong, OUTCOMES) == 1.0
    assert shuffled_quality(is_strong, OUTCOMES).value == pytest.approx(0.75, abs=0.05)
