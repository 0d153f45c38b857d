from __future__ import annotations

from datetime import date
from decimal import Decimal
from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from policies.catalog import Price
from policies.savings import SpentDay, savings_of
from policies.usage import Rates, Usage, usd_of

PRICE = Price(
    input_usd_per_mtok=Decimal("1.25"),
    cached_input_usd_per_mtok=Decimal("0.125"),
    output_usd_per_mtok=Decimal(10),
)
RATES = Rates(
    {"INR": [(date(2026, 4, 1), Decimal("85.0")), (date(2026, 11, 20), Decimal("88.37"))]}
)
savings = partial(
    savings_of,
    baseline="gpt",
    usd_of=partial(usd_of, price=PRICE),
    rates=RATES,
    currency="INR",
)
DAYS = st.builds(
    SpentDay,
    day=st.dates(date(2026, 11, 1), date(2026, 11, 30)),
    kind=st.sampled_from(["chat", "cache", "failed", "unpriced", "summary", "judge"]),
    usage=st.builds(
        Usage,
        input_tokens=st.integers(0, 10**9),
        output_tokens=st.integers(0, 10**9),
        cached_input_tokens=st.integers(0, 10**6),
    ),
    cost_micro=st.integers(0, 10**12),
    attempts=st.integers(1, 10**6),
)


@given(st.lists(DAYS, max_size=40))
def test_parts_sum_to_baseline_less_actual_exactly(days: list[SpentDay]) -> None:
    saved = savings(days)
    assert saved is not None
    parts = {part.name: part.cost_micro for part in saved.parts}
    assert sum(parts.values()) == saved.baseline_micro - saved.actual_micro == saved.saved_micro
    assert saved.actual_micro == sum(day.cost_micro for day in days if day.kind != "unpriced")
    assert parts["helper_calls"] <= 0 >= parts["failed_attempts"]


def test_helpers_and_failures_can_make_savings_negative() -> None:
    day = date(2026, 11, 24)
    saved = savings(
        [
            SpentDay(day, "chat", Usage(1_000_000, 0), 100_000_000, 1),
            SpentDay(day, "summary", Usage(10, 10), 9_000_000, 1),
            SpentDay(day, "failed", Usage(10, 10), 2_000_000, 1),
        ]
    )
    assert saved is not None
    # 1.25 USD at 88.37 INR is what the baseline asks for a million input tokens.
    assert saved.baseline_micro == 110_462_500
    assert [part.cost_micro for part in saved.parts] == [10_462_500, 0, -2_000_000, -9_000_000]
    assert saved.saved_micro == -537_500


def test_a_cached_answer_saves_what_the_baseline_would_have_asked_for_it() -> None:
    saved = savings([SpentDay(date(2026, 4, 1), "cache", Usage(0, 1_000_000), 0, 0)])
    assert saved is not None
    assert [(part.name, part.cost_micro) for part in saved.parts if part.cost_micro] == [
        ("cache", 850_000_000)
    ]


def test_a_baseline_without_a_price_gives_no_figure() -> None:
    assert (
        savings([SpentDay(date(2026, 4, 1), "chat", Usage(1, 1), 1, 1)], usd_of=lambda _: None)
        is None
    )
