from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dashboard import formats


@pytest.mark.parametrize(
    ("micro", "currency", "text"),
    [
        (1_234_567_890_000, "INR", "₹12,34,567.89"),
        (1_234_567_890_000, "USD", "$1,234,567.89"),
        (12_470_607, "INR", "₹12.470607"),
        (0, "INR", "₹0.00"),
        (-1, "USD", "\u2212$0.000001"),
        (None, "INR", "unknown"),
    ],
)
def test_money_is_written_as_its_readers_write_it(micro, currency, text):
    assert formats.money(micro, currency) == text


@given(st.integers(-(10**18), 10**18), st.sampled_from(["INR", "USD"]))
def test_money_as_shown_reads_back_to_the_last_micro_unit(micro, currency):
    shown = formats.money(micro, currency).translate({ord(mark): None for mark in "₹$,"})
    whole, decimals = shown.replace("\u2212", "-").split(".")
    sign = -1 if whole.startswith("-") else 1

    assert sign * (abs(int(whole)) * 10**6 + int(decimals.ljust(6, "0"))) == micro


@given(st.integers(0, 10**15))
def test_short_money_is_within_half_a_hundredth(micro):
    shown = formats.money(micro, "INR", short=True).translate({ord(mark): None for mark in "₹,."})

    assert abs(int(shown) * 10_000 - micro) <= 5_000


def test_share_of_nothing_is_a_dash():
    assert formats.share(0, 0) == "\u2013"
