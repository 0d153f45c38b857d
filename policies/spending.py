"""Spending: what each tenant's running period has cost and holds, as counters in Redis.

Owns where money is counted and what was last known of it. Opens and closes no entry.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime

from redis.asyncio import Redis
from redis.exceptions import RedisError

from policies.budget import Budget, BudgetState, Period, period_of
from policies.errors import LedgerUnavailable
from policies.reservation import Place, ledger_keys

SettledInBooks = Callable[[str, Period, str], Awaitable[int]]
"""(tenant, period, currency) -> micro-units booked in it, with nothing left in the stream."""

UNAVAILABLE = (RedisError, OSError, TimeoutError)


class Spending:
    """The counters of every tenant's running period.

    Args:
        redis: a handle with `decode_responses=False`.
        clock: aware UTC now.
        settled_in_books: asked where a period's counter is not in Redis; None takes it as zero.
    """

    def __init__(
        self, redis: Redis, clock: Callable[[], datetime], settled_in_books: SettledInBooks | None
    ) -> None:
        self._redis = redis
        self._clock = clock
        self.settled_in_books = settled_in_books
        self._known: dict[str, tuple[Place, float, BudgetState]] = {}
        self._refusing: dict[str, str] = {}  # tenant -> counter that a turn did not fit
        self._periods: dict[tuple[str, str], Period] = {}

    def place(self, tenant: str, budget: Budget | None, currency: str) -> Place:
        """Return where the tenant's money is counted now; `currency` is its own."""
        kind, timezone = (budget.period, budget.timezone) if budget else ("month", "UTC")
        now = self._clock()
        period = self._periods.get((kind, timezone))
        if period is None or not period.start <= now < period.end:
            period = self._periods[kind, timezone] = period_of(kind, timezone, now)
        currency = budget.currency if budget else currency
        return Place(tenant, budget, period, ledger_keys(tenant, period.key, currency), currency)

    def note(self, place: Place, settled: int, reserved: int) -> BudgetState:
        """Remember what a script has just told, and return it as a state."""
        state = place.state(settled, reserved)
        self._known[place.tenant] = (place, self._clock().timestamp(), state)
        return state

    def last(self, place: Place) -> BudgetState | None:
        """Return what was told last of this place, None where nothing was."""
        known = self._known.get(place.tenant)
        if known is None or known[0].keys.spend != place.keys.spend:
            return None
        return known[2]

    def note_refusal(self, place: Place) -> None:
        """Remember that a turn did not fit what was left."""
        self._refusing[place.tenant] = place.keys.spend

    def known(self) -> Iterator[tuple[Place, BudgetState, bool]]:
        """Yield place and state of each tenant heard of, and whether a turn was refused there."""
        for place, _, state in list(self._known.values()):
            yield place, state, self._refusing.get(place.tenant) == place.keys.spend

    async def state(self, place: Place, max_age_s: float) -> BudgetState:
        """Return what is settled and held, no older than asked for.

        Raises:
            LedgerUnavailable: Redis does not answer.
        """
        known = self._known.get(place.tenant)
        if known is not None:
            at, at_s, state = known
            # A clock that went back makes nothing fresh.
            is_fresh = 0 <= self._clock().timestamp() - at_s < max_age_s
            if is_fresh and at.keys.spend == place.keys.spend:
                return place.state(state.settled_micro, state.reserved_micro)
        try:
            counts = await self._redis.hmget(place.keys.spend, ["settled", "reserved"])
            settled, reserved = (int(count or 0) for count in counts)
            if counts[0] is None and self.settled_in_books is not None:
                settled = await self.settled_in_books(place.tenant, place.period, place.currency)
        except UNAVAILABLE as error:
            raise LedgerUnavailable("The budget cannot be read.") from error
        return self.note(place, settled, reserved)

    async def forget(self, tenant: str) -> int:
        """Forget what is settled in every period; return how many counters there were.

        Raises:
            LedgerUnavailable: Redis does not answer.
        """
        self._known.pop(tenant, None)
        n_counters = 0
        pattern = ledger_keys(tenant).spend.rstrip(":") + ":*"
        try:
            async for key in self._redis.scan_iter(pattern, count=1000):
                n_counters += await self._redis.hdel(key, "settled")
        except UNAVAILABLE as error:
            raise LedgerUnavailable("The counters cannot be rebuilt now.") from error
        return n_counters
