"""Budgets: a limit per period in the tenant's time zone, and how much of it is gone. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from decimal import Decimal
from typing import Literal
from zoneinfo import ZoneInfo

PeriodKind = Literal["day", "week", "month"]
MICRO = 1_000_000
MAX_AMOUNT = 9_000_000_000  # in micro-units below 2**53, up to which Redis's Lua counts exactly
_AMOUNT = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?) ([A-Z]{3})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Amount:
    """Whole millionths of a currency."""

    micro: int
    currency: str


@dataclass(frozen=True, slots=True)
class Rung:
    """From this share of the limit on: a lower ceiling, or refusal."""

    at: float
    ceiling: str | None = None
    action: Literal["refuse"] | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """At most `limit_micro` per period; settling may pass it by `overshoot_micro`.

    Without `has_own_timezone` the zone is the tenant's, which the document does not know.
    """

    limit_micro: int
    currency: str
    period: PeriodKind = "month"
    timezone: str = "UTC"
    overshoot_micro: int = 0
    ladder: tuple[Rung, ...] = ()
    has_own_timezone: bool = True

    @property
    def refuses_at_micro(self) -> int:
        """The spending from which turns are refused: the lowest refusing rung, else the limit."""
        shares = [rung.at for rung in self.ladder if rung.action == "refuse"]
        # Shares have at most four digits after the point; money is never multiplied by a float.
        return self.limit_micro * round(min([*shares, 1.0]) * 10_000) // 10_000


@dataclass(frozen=True, slots=True)
class Period:
    """One budget period: `start` included, `end` excluded, both aware UTC; `key` names it."""

    start: datetime
    end: datetime
    key: str


@dataclass(frozen=True, slots=True)
class BudgetState:
    """What is spent and what is held in the running period; `limit_micro` None is no budget."""

    limit_micro: int | None
    settled_micro: int
    reserved_micro: int
    currency: str
    period: PeriodKind | None
    resets_at: datetime | None

    @property
    def used_share(self) -> float:
        """Spent and held over the limit; 0 without a limit, 1 or more when nothing is left."""
        if self.limit_micro is None:
            return 0.0
        used = self.settled_micro + self.reserved_micro
        return used / self.limit_micro if self.limit_micro else 1.0


def parse_amount(text: str) -> tuple[int, str]:
    """Return micro-units and currency of an amount such as `5000 INR` or `0.50 USD`.

    Raises:
        ValueError: it is no such amount, or too large to be counted exactly.
    """
    match = _AMOUNT.fullmatch(text.strip())
    if match is None:
        raise ValueError("an amount and a currency are needed, such as 5000 INR")
    amount = Decimal(match[1])
    if amount > MAX_AMOUNT:
        raise ValueError(f"an amount is at most {MAX_AMOUNT} of its currency")
    return int(amount * MICRO), match[2]


def period_of(kind: PeriodKind, timezone: str, now: datetime) -> Period:
    """Return the period that holds this moment, by the calendar of the time zone.

    Weeks start on Monday. Where midnight does not exist (a clock change), the day starts at the
    first moment that does.
    """
    zone = ZoneInfo(timezone)
    today = now.astimezone(zone).date()
    if kind == "day":
        first, following = today, today + timedelta(days=1)
    elif kind == "week":
        first = today - timedelta(days=today.weekday())
        following = first + timedelta(days=7)
    else:
        first = today.replace(day=1)
        following = (first + timedelta(days=32)).replace(day=1)
    utc = ZoneInfo("UTC")
    start, end = (
        datetime.combine(day, time.min, zone).astimezone(utc) for day in (first, following)
    )
    return Period(start, end, f"{kind}:{first.isoformat()}")
