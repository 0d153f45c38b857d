"""Reservation: money held for a turn, and the Redis keys that it is held under."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from policies.budget import Budget, BudgetState, Period
from policies.entry import EntryOpening


@dataclass(frozen=True, slots=True)
class LedgerKeys:
    """The Redis keys of one tenant's money, in one hash slot."""

    spend: str
    open: str
    leases: str
    stream: str
    orphans: str


@lru_cache(maxsize=4096)  # asked for at every turn
def ledger_keys(tenant: str, period_key: str = "", currency: str = "") -> LedgerKeys:
    """Return the keys of a tenant; `spend` is the counter of one budget period."""
    base = f"tw:{{t:{tenant}}}:"
    return LedgerKeys(
        f"{base}spend:{currency}:{period_key}",
        f"{base}entries",
        f"{base}leases",
        f"{base}ledger",
        f"{base}orphans",
    )


@dataclass(frozen=True, slots=True)
class Place:
    """Where a turn's money is counted: the tenant's running period, in the budget's currency.

    Without a budget it is counted in the tenant's own currency.
    """

    tenant: str
    budget: Budget | None
    period: Period
    keys: LedgerKeys
    currency: str

    def state(self, settled: int, reserved: int) -> BudgetState:
        """Return the state of the budget, or of a tenant without one, from its two counters."""
        budget = self.budget
        return BudgetState(
            limit_micro=budget.limit_micro if budget else None,
            settled_micro=settled,
            reserved_micro=reserved,
            currency=self.currency,
            period=budget.period if budget else None,
            resets_at=self.period.end if budget else None,
        )


@dataclass(slots=True, weakref_slot=True, eq=False)
class Reservation:
    """Money held for a turn, and the entry that is open now; `state` is as of the last script.

    `unsent` are closings that Redis did not take yet, oldest first. An owner that lets go of a
    reservation without settling it lets its lease run out.
    """

    opening: EntryOpening
    place: Place
    hold_micro: int
    worst_micro: int
    state: BudgetState
    is_settled: bool = False
    unsent: list[list[Any]] = field(default_factory=list)
    turnstile: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)
