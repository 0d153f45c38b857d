"""Days: where they begin in a time zone, in whole microseconds since the epoch. Pure.

Knows no table and no amount.
"""

from __future__ import annotations

from bisect import bisect_right
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

QUARTER_US = 15 * 60 * 1_000_000
HOUR_US = 4 * QUARTER_US
DAY_US = 24 * HOUR_US


@lru_cache(maxsize=4096)
def day_start_us(at_us: int, timezone: str) -> int:
    """Return when the day began that holds a moment in the time zone."""
    zone = ZoneInfo(timezone)
    day = datetime.fromtimestamp(at_us / 1e6, zone).date()
    return _us(datetime(day.year, day.month, day.day, tzinfo=zone))


def whole_days(first_us: int, last_us: int, timezone: str) -> tuple[int, int]:
    """Return the part of a span that is whole days; where it holds none, start and end are equal.

    Args:
        first_us: included.
        last_us: excluded.
        timezone: whose days.
    """
    start_us = day_start_us(first_us, timezone)
    if start_us < first_us:
        start_us = _next_day_us(start_us, timezone)
    end_us = day_start_us(last_us, timezone)
    return (start_us, end_us) if start_us < end_us else (first_us, first_us)


def offsets(first_us: int, last_us: int, timezone: str) -> list[tuple[int, int]]:
    """Return how far the zone's clocks are ahead of UTC, and from when on, over a span.

    Returns:
        (from_us, offset_us), rising; the first from the span's start. Changes are found to the
        quarter of an hour, on which every zone of this century changes its clocks.
    """
    zone = ZoneInfo(timezone)
    found = [(first_us, _offset_us(first_us, zone))]
    at_us = first_us
    while at_us < last_us:
        at_us = min(at_us + DAY_US, last_us)
        offset_us = _offset_us(at_us, zone)
        if offset_us != found[-1][1]:
            quarters = range(at_us // QUARTER_US * QUARTER_US - DAY_US, at_us + 1, QUARTER_US)
            before = found[-1][1]
            place = bisect_right(quarters, False, key=lambda us: _offset_us(us, zone) != before)
            found.append((quarters[place], offset_us))
    return found


def _next_day_us(start_us: int, timezone: str) -> int:
    # No day is longer than 25 hours, and none that follows is shorter than 23.
    return day_start_us(start_us + DAY_US + 2 * HOUR_US, timezone)


def _offset_us(at_us: int, zone: ZoneInfo) -> int:
    offset = datetime.fromtimestamp(at_us / 1e6, zone).utcoffset() or timedelta(0)
    return round(offset.total_seconds() * 1e6)


def _us(at: datetime) -> int:
    return round((at - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1))
