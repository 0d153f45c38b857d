from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.budget import Budget, BudgetState, PeriodKind, Rung, parse_amount, period_of

ZONES = ["UTC", "Asia/Kolkata", "Asia/Kathmandu", "America/New_York", "Europe/Berlin"]
ZONES += ["Australia/Lord_Howe", "America/Santiago", "Pacific/Apia", "Africa/Cairo"]


def test_an_indian_day_starts_at_half_past_six_in_the_evening_utc() -> None:
    period = period_of("day", "Asia/Kolkata", datetime(2026, 11, 24, 18, 30, tzinfo=UTC))
    assert period.start == datetime(2026, 11, 24, 18, 30, tzinfo=UTC)
    assert period.end == datetime(2026, 11, 25, 18, 30, tzinfo=UTC)
    assert period.key == "day:2026-11-25"


def test_a_month_follows_the_calendar_of_its_zone() -> None:
    period = period_of("month", "Asia/Kolkata", datetime(2026, 1, 31, 18, 30, tzinfo=UTC))
    assert period.key == "month:2026-02-01"
    assert period.end == datetime(2026, 2, 28, 18, 30, tzinfo=UTC)


def test_a_week_starts_on_monday() -> None:
    period = period_of("week", "UTC", datetime(2026, 11, 24, tzinfo=UTC))  # a Tuesday
    assert period.start == datetime(2026, 11, 23, tzinfo=UTC)


@pytest.mark.parametrize(("day", "hours"), [(29, 23), (30, 24)])
def test_the_day_of_a_clock_change_is_shorter(day: int, hours: int) -> None:
    period = period_of("day", "Europe/Berlin", datetime(2026, 3, day, 12, tzinfo=UTC))
    assert period.end - period.start == timedelta(hours=hours)


def test_the_day_on_which_clocks_go_back_has_25_hours() -> None:
    period = period_of("day", "America/New_York", datetime(2026, 11, 1, 12, tzinfo=UTC))
    assert period.end - period.start == timedelta(hours=25)


@given(
    kind=st.sampled_from(["day", "week", "month"]),
    zone=st.sampled_from(ZONES),
    now=st.datetimes(datetime(2000, 1, 1), datetime(2060, 1, 1)),  # noqa: DTZ001 - made aware
)
def test_periods_hold_their_moment_and_follow_each_other_without_gap(
    kind: PeriodKind, zone: str, now: datetime
) -> None:
    moment = now.replace(tzinfo=UTC)
    period = period_of(kind, zone, moment)
    assert period.start <= moment < period.end
    assert period_of(kind, zone, period.start) == period
    following = period_of(kind, zone, period.end)
    assert following.start == period.end
    assert following.key != period.key
    # Roll-ups are quarters of an hour: a period never cuts one.
    assert period.start.timestamp() % 900 == 0
    assert period.end.astimezone(ZoneInfo(zone)).day == int(following.key[-2:])


@pytest.mark.parametrize(
    ("text", "amount"),
    [("5000 INR", (5_000_000_000, "INR")), ("0.50 USD", (500_000, "USD")), ("0 INR", (0, "INR"))],
)
def test_an_amount_is_a_number_and_a_currency(text: str, amount: tuple[int, str]) -> None:
    assert parse_amount(text) == amount


@pytest.mark.parametrize(
    "text",
    ["", "5000", "INR 5000", "-1 INR", "5,000 INR", "1e9 INR", "5000 inr", "0.1234567 USD"],
)
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="such as 5000 INR"):
        parse_amount(text)


def test_an_amount_that_cannot_be_counted_exactly_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 9000000000"):
        parse_amount("9000000001 INR")
    assert parse_amount("9000000000 INR")[0] < 2**53


def test_the_lowest_refusing_rung_sets_where_turns_are_refused() -> None:
    ladder = (Rung(0.5, ceiling="small"), Rung(0.9, action="refuse"), Rung(1.0, action="refuse"))
    assert Budget(10_000_001, "INR", ladder=ladder).refuses_at_micro == 9_000_000
    assert Budget(10_000_001, "INR").refuses_at_micro == 10_000_001


def test_the_used_share_counts_what_is_held_too() -> None:
    assert BudgetState(10, 3, 2, "INR", "month", None).used_share == 0.5
    assert BudgetState(None, 3, 2, "INR", None, None).used_share == 0.0
    assert BudgetState(0, 0, 0, "INR", "month", None).used_share == 1.0
