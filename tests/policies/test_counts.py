from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from policies.counts import bin_of, middle_of


@given(st.floats(0.1, 1e7))
def test_a_bin_is_within_five_percent_of_what_it_holds(duration_ms: float) -> None:
    middle_ms = middle_of(bin_of(duration_ms))
    assert abs(middle_ms - duration_ms) <= 0.05 * duration_ms + 0.001
