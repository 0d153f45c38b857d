"""How numbers and times are written on the pages: money, counts, shares, durations, moments. Pure.

Amounts are shown whole, to the last micro-unit, so that what a page shows adds up; `short` rounds,
for headlines that stand beside the exact amount.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

_SYMBOLS = {"INR": "₹", "USD": "$", "EUR": "€", "GBP": "£", "JPY": "¥"}
_MINUS = "\u2212"
_NOT_KNOWN = "\u2013"
_NARROW = "\u202f"


def grouped(number: int, *, is_indian: bool = True) -> str:
    """Return a whole number with its digits grouped: 12,34,567, or 1,234,567.

    Source: Unicode CLDR, locale en-IN, pattern #,##,##0.###.
    """
    sign, digits = (_MINUS if number < 0 else ""), str(abs(number))
    if not is_indian:
        return f"{sign}{abs(number):,}"
    head, tail = digits[:-3], digits[-3:]
    while head:
        tail = f"{head[-2:]},{tail}"
        head = head[:-2]
    return sign + tail


def money(micro: int | None, currency: str, *, short: bool = False) -> str:
    """Return micro-units as money: ₹12,34,567.89; six decimals where two would not be all.

    Args:
        micro: millionths of the currency's unit; None is an unknown price.
        currency: ISO 4217.
        short: round half up to two decimals.
    """
    if micro is None:
        return "unknown"
    if short:
        micro = (abs(micro) + 5_000) // 10_000 * 10_000 * (-1 if micro < 0 else 1)
    whole, rest = divmod(abs(micro), 1_000_000)
    decimals = f"{rest:06d}" if rest % 10_000 else f"{rest // 10_000:02d}"
    symbol = _SYMBOLS.get(currency, f"{currency}{_NARROW}")
    sign = _MINUS if micro < 0 else ""
    return f"{sign}{symbol}{grouped(whole, is_indian=currency == 'INR')}.{decimals}"


def share(part: float, whole: float = 1.0) -> str:
    """Return part / whole in percent; a dash where there is no whole."""
    if not whole:
        return _NOT_KNOWN
    percent = 100 * part / whole
    digits = 0 if abs(percent) >= 99.95 or percent == int(percent) else 1
    return f"{percent:.{digits}f}{_NARROW}%".replace("-", _MINUS)


def duration(ms: float | None) -> str:
    """Return milliseconds with three digits that count, in ms or s; a dash for None."""
    if ms is None:
        return _NOT_KNOWN
    if ms >= 1000:
        return f"{ms / 1000:.{2 if ms < 10_000 else 1}f}{_NARROW}s"
    return f"{ms:.{2 if ms < 1 else 1 if ms < 10 else 0}f}{_NARROW}ms"


def day(moment: date | str, *, year: bool = False) -> str:
    """Return a day, given as such or as YYYY-MM-DD: Mon 23 Nov, or Mon 23 Nov 2026."""
    if isinstance(moment, str):
        moment = date.fromisoformat(moment)
    return f"{moment:%a} {moment.day} {moment:%b}" + (f" {moment.year}" if year else "")


def clock(at: datetime, timezone: str, *, seconds: bool = True) -> str:
    """Return a time of day in a zone, with the zone's short name: 23:01:02 IST."""
    local = at.astimezone(ZoneInfo(timezone))
    return f"{local:%H:%M:%S} {local:%Z}" if seconds else f"{local:%H:%M} {local:%Z}"


def stamp(us: int | None, timezone: str, *, now: datetime | None = None) -> str:
    """Return microseconds since the epoch as day and time in a zone: 23 Nov 2026, 23:01:02.

    The year is left out where it is the one of `now`.
    """
    if us is None:
        return _NOT_KNOWN
    zone = ZoneInfo(timezone)
    local = datetime.fromtimestamp(us / 1e6, UTC).astimezone(zone)
    is_this_year = now is not None and now.astimezone(zone).year == local.year
    year = "" if is_this_year else f" {local.year}"
    return f"{local.day} {local:%b}{year}, {local:%H:%M:%S}"
