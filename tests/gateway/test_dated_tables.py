from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dated_tables import table_errors
from gateway.settings import Settings, load_settings
from gateway.settings_schema import RateSection
from policies.document import Document
from policies.errors import DocumentErrors

TODAY = datetime.now(UTC).date()
CONFIGURATION = """
backends:
  far: {kind: litellm}
  near: {kind: simulated}
models:
  strong: {backend: far, name: anthropic/claude-sonnet-4-5, context_tokens: 1000, price: %s}
  small: {backend: near, name: n, context_tokens: 1000, price: %s}
tenants: {acme: {currency: INR}}
fx: {USD_INR: %s}
"""
ONE = '{input_usd_per_mtok: "1", output_usd_per_mtok: "2"}'
RATE = '[{from: 2020-01-01, rate: "80"}]'


def dated(*rows: tuple[str, str, str]) -> str:
    """Return a price table: from, to ('' for no end) and the price of input and output."""
    written = []
    for first, last, price in rows:
        end = f"to: {last}, " if last else ""
        amounts = f'input_usd_per_mtok: "{price}", output_usd_per_mtok: "{price}"'
        written.append(f"{{from: {first}, {end}{amounts}}}")
    return f"[{', '.join(written)}]"


def load(tmp_path: Path, strong: str = ONE, small: str = ONE, rates: str = RATE) -> Settings:
    file = tmp_path / "turnwise.yaml"
    file.write_text(CONFIGURATION % (strong, small, rates), encoding="utf-8")
    return load_settings(file, {}, is_dry=True)


def error_of(tmp_path: Path, **tables: str) -> str:
    with pytest.raises(DocumentErrors) as caught:
        load(tmp_path, **tables)
    return str(caught.value)


def price_on(settings: Settings, model: str, day: str) -> Decimal | None:
    price = settings.catalog[model].price_on(date.fromisoformat(day))
    return price.input_usd_per_mtok if price else None


def test_each_row_holds_from_its_first_day_to_its_last(tmp_path: Path) -> None:
    table = dated(("2026-03-01", "", "3"), ("2026-01-01", "2026-02-28", "2"))
    settings = load(tmp_path, small=table)
    days = ("2026-01-01", "2026-02-28", "2026-03-01", "2030-01-01")
    assert [price_on(settings, "small", day) for day in days] == [2, 2, 3, 3]
    assert price_on(settings, "small", "2025-12-31") is None


def test_outside_an_override_the_list_price_counts(tmp_path: Path) -> None:
    last = (TODAY + timedelta(days=30)).isoformat()
    settings = load(tmp_path, strong=dated(("2026-02-01", last, "0.5")))
    spec = settings.catalog["strong"]
    assert spec.price is not None
    assert spec.price.input_usd_per_mtok == Decimal("0.5")
    listed = load(tmp_path, strong="null").catalog["strong"].price
    assert listed is not None
    assert listed != spec.price
    assert spec.price_on(date(2026, 1, 31)) == listed
    assert spec.price_on(TODAY + timedelta(days=31)) == listed


@pytest.mark.parametrize(
    ("rows", "place", "allowed"),
    [
        (
            [("2026-01-01", "2026-01-31", "1"), ("2026-02-02", "", "2")],
            "models.small.price[1].from: '2026-02-02'",
            "every day has a row: 2026-02-01 to 2026-02-01 has none",
        ),
        (
            [("2026-01-01", "2026-02-02", "1"), ("2026-02-02", "", "2")],
            "models.small.price[1].from: '2026-02-02'",
            "no two rows hold on the same day",
        ),
        (
            [("2026-01-01", "", "1"), ("2026-01-01", "", "2")],
            "models.small.price[1].from: '2026-01-01'",
            "no two rows hold on the same day",
        ),
        (
            [("2026-01-01", "2025-12-31", "1"), ("2026-01-02", "", "2")],
            "models.small.price[0].to: '2025-12-31'",
            "not before its first day, 2026-01-01",
        ),
        (
            [("2026-01-01", "2099-12-31", "1")],
            "models.small.price[0].to: '2099-12-31'",
            "the newest one has no end",
        ),
        (
            [("2099-01-01", "", "1")],
            "models.small.price[0].from: '2099-01-01'",
            f"today, {TODAY}, has none",
        ),
    ],
)
def test_a_price_table_that_leaves_days_out_is_refused_with_its_place(
    tmp_path: Path, rows: Any, place: str, allowed: str
) -> None:
    told = error_of(tmp_path, small=dated(*rows))
    assert f"turnwise.yaml:7: {place} is not allowed" in told
    assert allowed in told


@pytest.mark.parametrize(
    ("rates", "allowed"),
    [
        (
            '[{from: 2026-01-01, to: 2026-01-31, rate: "80"}, {from: 2026-03-01, rate: "81"}]',
            "every day has a row: 2026-02-01 to 2026-02-28 has none",
        ),
        ('[{from: 2099-01-01, rate: "80"}]', f"today, {TODAY}, has none"),
        ('[{from: 2020-01-01, to: 2026-01-01, rate: "80"}]', "the newest one has no end"),
    ],
)
def test_a_gap_between_exchange_rates_is_refused_with_its_place(
    tmp_path: Path, rates: str, allowed: str
) -> None:
    told = error_of(tmp_path, rates=rates)
    assert "turnwise.yaml:9: fx.USD_INR[" in told
    assert allowed in told


@pytest.mark.parametrize("table", ["[]", "[{from: 2026-01-01}]", '[{input_usd_per_mtok: "1"}]'])
def test_a_row_without_a_day_or_a_price_is_refused(tmp_path: Path, table: str) -> None:
    assert "turnwise.yaml:7: models.small.price" in error_of(tmp_path, small=table)


@given(
    st.lists(st.tuples(st.integers(0, 40), st.none() | st.integers(0, 40)), min_size=1, max_size=6)
)
def test_a_table_without_errors_holds_exactly_once_on_every_day_from_its_first(
    spans: list[tuple[int, int | None]],
) -> None:
    start = date(2026, 1, 1)
    rows = [
        RateSection.model_validate(
            {
                "from": start + timedelta(days=first),
                "to": None if last is None else start + timedelta(days=last),
                "rate": "1",
            }
        )
        for first, last in spans
    ]
    today = start + timedelta(days=20)
    errors = table_errors(rows, Document({}, "f", {}), ("fx",), today, may_end=False)
    firsts = sorted(first for first, _ in spans)

    def n_on(day: int) -> int:
        following = {row: min((f for f in firsts if f > row[0]), default=1000) for row in spans}
        return sum(
            row[0] <= day <= (following[row] - 1 if row[1] is None else row[1]) for row in spans
        )

    covers = [n_on(day) for day in range(firsts[0], 60)]
    is_whole = set(covers) == {1} and firsts[0] <= 20
    is_whole &= all(last is None or last >= first for first, last in spans)
    if len(set(spans)) == len(spans):  # the same row twice is one too many, whatever it covers
        assert (not errors) == is_whole
