"""Forecast: what a budget period cost day by day, and what it will have cost at its end. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from statistics import stdev
from zoneinfo import ZoneInfo

from policies.budget import Period

_LOOK_BACK_DAYS = 28


@dataclass(frozen=True, slots=True)
class BurnPoint:
    """One day of the period: what it cost, and the period's sum up to its end."""

    day: date
    cost_micro: int
    total_micro: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """What the period will have cost at its end, in micro-units.

    `low_micro` to `high_micro` is the mean rate of the `n_days` complete days looked at, plus and
    minus two standard errors; with fewer than three such days the three are the same number.
    `spent_by` is when the limit is reached at the mean rate, None where it is not in this period.
    """

    expected_micro: int
    low_micro: int
    high_micro: int
    n_days: int
    spent_by: datetime | None


@dataclass(frozen=True, slots=True)
class BurnDown:
    """A period so far, day by day in its time zone, and where it leads."""

    period: Period
    timezone: str
    currency: str
    limit_micro: int | None
    points: tuple[BurnPoint, ...]
    forecast: Forecast


def burn_down(
    costs: Mapping[date, int],
    *,
    period: Period,
    timezone: str,
    currency: str,
    limit_micro: int | None,
    now: datetime,
) -> BurnDown:
    """Return a period's burn-down from what each day cost.

    Args:
        costs: micro-units by day in the time zone; days before the period help the forecast, days
            that are left out cost nothing.
        period: that holds `now`.
        timezone: in which days are counted.
        currency: of all amounts.
        limit_micro: None is no budget.
        now: aware.
    """
    zone = ZoneInfo(timezone)
    today = now.astimezone(zone).date()
    points, total_micro = [], 0
    day = period.start.astimezone(zone).date()
    while day <= today:
        total_micro += costs.get(day, 0)
        points.append(BurnPoint(day, costs.get(day, 0), total_micro))
        day += timedelta(days=1)
    forecast = _forecast(total_micro, _complete_days(costs, today), period, now, limit_micro)
    return BurnDown(period, timezone, currency, limit_micro, tuple(points), forecast)


def _complete_days(costs: Mapping[date, int], today: date) -> list[int]:
    """Return what the last complete days cost, from the first one that cost anything on."""
    first = min((day for day, micro in costs.items() if micro and day < today), default=today)
    n_days = min((today - first).days, _LOOK_BACK_DAYS)
    return [costs.get(today - timedelta(days=back), 0) for back in range(n_days, 0, -1)]


def _forecast(
    total_micro: int, days: Sequence[int], period: Period, now: datetime, limit_micro: int | None
) -> Forecast:
    left_days = max(0.0, (period.end - now).total_seconds() / 86_400)
    if days:
        rate = sum(days) / len(days)
    else:  # the first day ever: what it cost so far, over how long it has lasted
        passed_s = (now - period.start).total_seconds()
        rate = total_micro / max(passed_s / 86_400, 1 / 24)
    error = 2 * stdev(days) / math.sqrt(len(days)) if len(days) > 2 else 0.0
    expected, low, high = (
        total_micro + round(max(0.0, rate + change) * left_days) for change in (0.0, -error, error)
    )
    spent_by = None
    if limit_micro is not None and rate > 0 and expected >= limit_micro:
        spent_by = now + timedelta(days=max(0, limit_micro - total_micro) / rate)
    return Forecast(expected, low, high, len(days), spent_by)
