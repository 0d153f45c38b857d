from __future__ import annotations

from local_models.pace import Pace


def test_steps_of_a_fast_model_are_as_long_as_allowed():
    pace = Pace(256, None)
    pace.ran(256, 0.02)
    assert pace.step_tokens(0) == 256


def test_a_step_takes_at_most_forty_milliseconds():
    pace = Pace(256, None)
    pace.ran(100, 0.1)
    assert pace.step_tokens(0) == 40


def test_the_first_step_is_short_because_nothing_was_timed():
    assert Pace(256, None).step_tokens(0) == 32


def test_decoding_says_nothing_about_the_rows_of_a_prompt():
    pace = Pace(256, None)
    pace.ran(100, 0.1)
    pace.ran(1, 0.02)
    assert pace.step_tokens(0) == 40


def test_a_step_takes_at_most_a_quarter_of_the_target():
    pace = Pace(256, 0.1)
    pace.ran(100, 0.1)
    assert pace.step_tokens(0) == 25


def test_the_tightest_target_heard_holds_for_a_minute():
    pace = Pace(256, 2.0)
    pace.hear(0.5, now_s=0)
    pace.hear(1.0, now_s=10)
    assert (pace.target_s(59), pace.target_s(61)) == (0.5, 2.0)


def test_a_step_never_shrinks_to_nothing():
    pace = Pace(256, 0.001)
    pace.ran(16, 16.0)
    assert pace.step_tokens(0) == 16
