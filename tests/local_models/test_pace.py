from __future__ import annotations

from local_models.pace import Pace


def test_without_a_target_steps_are_as_long_as_allowed():
    pace = Pace(256, None)
    pace.ran(1.0)
    assert pace.step_tokens(0) == 256


def test_a_step_takes_at_most_a_quarter_of_the_target():
    pace = Pace(256, 0.4)
    pace.ran(0.001)
    assert pace.step_tokens(0) == 100


def test_the_tightest_target_heard_holds_for_a_minute():
    pace = Pace(256, 2.0)
    pace.hear(0.5, now_s=0)
    pace.hear(1.0, now_s=10)
    assert (pace.target_s(59), pace.target_s(61)) == (0.5, 2.0)


def test_a_step_never_shrinks_to_nothing():
    pace = Pace(256, 0.001)
    pace.ran(1.0)
    assert pace.step_tokens(0) == 32
