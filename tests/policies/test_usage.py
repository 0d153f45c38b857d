from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.catalog import Price
from policies.errors import UnknownRate
from policies.usage import MAX_TOKENS, Rates, Usage, cost_of, usd_of, worst_case_usd

GPT = Price(Decimal("1.25"), Decimal("0.125"), None, Decimal(10))
CLAUDE = Price(Decimal(3), Decimal("0.3"), Decimal("3.75"), Decimal(15))
LOCAL = Price(busy_second_usd=Decimal("0.0008"))
RATES = Rates({"INR": [(date(2026, 4, 1), Decimal("85.0")), (date(2026, 10, 1), Decimal("86.5"))]})
AT = datetime(2026, 6, 1, tzinfo=UTC)
TOKENS = st.integers(0, 2_000_000)


def test_a_million_plain_tokens_cost_the_price() -> None:
    cost = cost_of(Usage(1_000_000, 1_000_000), GPT, currency="INR", rates=RATES, at=AT)
    assert cost is not None
    assert (cost.usd_micro, cost.micro) == (11_250_000, 956_250_000)
    assert (cost.rate, cost.rate_date) == (Decimal("85.0"), date(2026, 4, 1))


def test_cached_tokens_are_priced_once_at_their_own_price() -> None:
    usage = Usage(1_000_000, 0, cached_input_tokens=400_000)
    assert usd_of(usage, GPT) == Decimal("0.75") + Decimal("0.05")


def test_cached_tokens_without_a_price_of_their_own_cost_what_input_costs() -> None:
    price = Price(Decimal(1), None, None, Decimal(2))
    assert usd_of(Usage(1_000_000, 0, 400_000), price) == 1


def test_cache_writes_read_and_plain_tokens_are_disjoint() -> None:
    usage = Usage(1_000_000, 0, cached_input_tokens=500_000, cache_write_tokens=200_000)
    assert usd_of(usage, CLAUDE) == Decimal("0.9") + Decimal("0.15") + Decimal("0.75")


def test_reasoning_tokens_are_part_of_the_output_and_cost_nothing_more() -> None:
    assert usd_of(Usage(0, 100, reasoning_tokens=90), GPT) == usd_of(Usage(0, 100), GPT)


def test_an_unknown_price_is_not_zero() -> None:
    assert cost_of(Usage(1, 1), None, currency="USD", rates=RATES, at=AT) is None


def test_a_local_model_costs_its_busy_time() -> None:
    cost = cost_of(Usage(9, 9), LOCAL, currency="USD", rates=RATES, at=AT, busy_s=0.5)
    assert cost is not None
    assert cost.usd_micro == 400


def test_a_local_answer_of_unknown_busy_time_has_no_known_cost() -> None:
    assert usd_of(Usage(9, 9), LOCAL) is None
    assert usd_of(Usage(0, 0), LOCAL) == 0


def test_the_charge_the_provider_reports_goes_first() -> None:
    cost = cost_of(
        Usage(1_000_000, 0), GPT, currency="USD", rates=RATES, at=AT, provider_cost_usd="0.5"
    )
    assert cost is not None
    assert cost.usd_micro == 500_000


@pytest.mark.parametrize("nonsense", ["", "free", "-1", "NaN", "Infinity", "1e400"])
def test_a_reported_charge_that_makes_no_sense_is_ignored(nonsense: str) -> None:
    cost = cost_of(
        Usage(1_000_000, 0), GPT, currency="USD", rates=RATES, at=AT, provider_cost_usd=nonsense
    )
    assert cost is not None
    assert cost.usd_micro == 1_250_000


def test_each_currency_is_rounded_once_from_the_exact_amount() -> None:
    # 1 input token: 1.25 micro-dollars, 106.25 micro-rupees.
    cost = cost_of(Usage(1, 0), GPT, currency="INR", rates=RATES, at=AT)
    assert cost is not None
    assert (cost.usd_micro, cost.micro) == (1, 106)


@pytest.mark.parametrize(
    ("day", "rate"), [(date(2026, 9, 30), "85.0"), (date(2026, 10, 1), "86.5")]
)
def test_a_rate_holds_from_its_day_until_the_next(day: date, rate: str) -> None:
    assert RATES.rate_on("INR", day)[0] == Decimal(rate)


def test_a_day_before_the_first_rate_is_a_clear_error() -> None:
    with pytest.raises(UnknownRate, match=r"no USD_INR rate is known for 2026-03-31; add one"):
        RATES.rate_on("INR", date(2026, 3, 31))
    with pytest.raises(UnknownRate, match="USD_EUR"):
        RATES.rate_on("EUR", date(2026, 6, 1))


def test_counts_that_cannot_be_are_brought_into_bounds_and_marked() -> None:
    usage = Usage(10, -5, cached_input_tokens=99, cache_write_tokens=7, reasoning_tokens=3)
    assert usage == Usage(10, 0, cached_input_tokens=10, is_estimated=True)
    assert Usage(2**80, 0).input_tokens == MAX_TOKENS


@given(input_tokens=TOKENS, output_tokens=TOKENS, share=st.floats(0, 1), write=st.floats(0, 1))
def test_no_split_of_the_input_costs_more_than_the_worst_case(
    input_tokens: int, output_tokens: int, share: float, write: float
) -> None:
    cached = int(input_tokens * share)
    usage = Usage(input_tokens, output_tokens, cached, int((input_tokens - cached) * write))
    for price in (GPT, CLAUDE):
        worst = worst_case_usd(
            price, input_tokens=input_tokens, output_tokens=output_tokens, busy_s=0
        )
        usd = usd_of(usage, price)
        assert usd is not None
        assert worst is not None
        assert 0 <= usd <= worst
