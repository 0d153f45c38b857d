from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from policies.budget import period_of
from policies.forecast import BurnDown, burn_down

NOW = datetime(2026, 11, 11, 0, 0, tzinfo=UTC)


def burn(costs: dict[date, int], *, limit: int | None = None, now: datetime = NOW) -> BurnDown:
    return burn_down(
        costs,
        period=period_of("month", "UTC", now),
        timezone="UTC",
        currency="INR",
        limit_micro=limit,
        now=now,
    )


def steady(n_days: int) -> dict[date, int]:
    return {date(2026, 11, 1) + timedelta(days=n): 100 for n in range(n_days)}


def test_a_steady_rate_leads_to_its_multiple() -> None:
    forecast = burn(steady(10)).forecast
    assert (forecast.expected_micro, forecast.low_micro, forecast.high_micro) == (3000,) * 3
    assert forecast.n_days == 10


def test_points_add_up_and_end_with_today() -> None:
    points = burn({**steady(10), date(2026, 11, 11): 7}).points
    assert points[-1].day == date(2026, 11, 11)
    assert points[-1].total_micro == sum(point.cost_micro for point in points) == 1007


def test_the_day_on_which_the_limit_is_reached_is_told() -> None:
    assert burn(steady(10), limit=1500).forecast.spent_by == NOW + timedelta(days=5)
    assert burn(steady(10), limit=9000).forecast.spent_by is None


def test_the_first_day_is_extrapolated_from_its_hours() -> None:
    now = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
    assert burn({date(2026, 11, 1): 50}, now=now).forecast.expected_micro == 3000


def test_days_that_vary_widen_the_range() -> None:
    uneven = {date(2026, 11, day): 200 * (day % 2) for day in range(1, 11)}
    forecast = burn(uneven).forecast
    assert forecast.low_micro < forecast.expected_micro < forecast.high_micro
