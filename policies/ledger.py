"""The hot side of the ledger: hold money and open an entry, then close it, each in one Lua script.

Every entry that is closed goes to the tenant's stream in the same script; `books.py` takes it from
there into SQL. A turn of one attempt costs two round trips. Knows no prices: amounts arrive in
micro-units. Keys of one tenant share one hash slot; only the set of all tenants, written once per
process and tenant, lives in another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from importlib.resources import files
from typing import Any
from weakref import WeakValueDictionary

import orjson
from redis.asyncio import Redis

from policies.budget import Budget, BudgetState
from policies.entry import (
    EntryClosing,
    EntryOpening,
    EntryStatus,
    entry_to_json,
    opening_to_json,
    orphan_records,
)
from policies.errors import BudgetExceeded, LedgerUnavailable, TooManyOpen
from policies.reservation import LedgerKeys, Place, Reservation, ledger_keys
from policies.spending import UNAVAILABLE, SettledInBooks, Spending

__all__ = [
    "EntryClosing",
    "EntryOpening",
    "EntryStatus",
    "Ledger",
    "LedgerKeys",
    "Reservation",
    "SettledInBooks",
    "ledger_keys",
]

LEASE_S = 75.0  # a crashed gateway's holds come back within this and one sweep
TENANTS_KEY = "tw:{ledger}:tenants"
MAX_ATTEMPTS = 8
_KEEP_SPEND = timedelta(days=40)
_ORPHAN_S = 86_400  # how long the true end of an orphan may come late and still be counted
_MAX_EXACT = 2**53 - 1  # Lua counts in doubles
_SEED_ATTEMPTS = 5


class Ledger:
    """Reserve, close and sweep, for every tenant.

    `touched` holds the tenants whose streams this process has written to; the books empty it.
    `spending` is what is counted for each tenant, and what was last known of it.

    Args:
        redis: a handle with `decode_responses=False`.
        clock: aware UTC now.
        settled_in_books: asked once when a period's counter is not in Redis: a new period, a
            changed budget, a server that lost its memory. None starts such a counter at zero.
    """

    def __init__(
        self,
        redis: Redis,
        clock: Callable[[], datetime],
        settled_in_books: SettledInBooks | None = None,
    ) -> None:
        self._redis = redis
        self._clock = clock
        self.spending = Spending(redis, clock, settled_in_books)
        self._reserve = redis.register_script(_lua("reserve"))
        self._extend = redis.register_script(_lua("extend"))
        self._close = redis.register_script(_lua("close"))
        self._live: WeakValueDictionary[str, Reservation] = WeakValueDictionary()
        self._unsent: dict[str, Reservation] = {}
        self._registered: set[str] = set()
        self.touched: set[str] = set()

    async def reserve(
        self,
        opening: EntryOpening,
        budget: Budget | None,
        hold_micro: int,
        *,
        worst_micro: int | None = None,
        max_open: int | None = None,
    ) -> Reservation:
        """Hold money and open the entry, in one step.

        Args:
            opening: the first attempt.
            budget: the tenant's; None holds nothing back and still opens the entry.
            hold_micro: what the turn is expected to cost, in the budget's currency.
            worst_micro: the most it can cost; None where that is what is held.
            max_open: the most entries the tenant may have open at once; None is no limit.

        Raises:
            TooManyOpen: so many entries are open already.
            BudgetExceeded: settled + reserved + hold would pass the limit, or what every open turn
                can cost at worst would pass it by more than the overshoot; nothing was held.
            LedgerUnavailable: Redis does not answer, or the budget is in a currency in which this
                tenant's entries are not kept.
        """
        place = self._place_of(opening, budget)
        worst_micro = max(0, min(max(worst_micro or 0, hold_micro), _MAX_EXACT))
        hold_micro = max(0, min(hold_micro, worst_micro))
        outcome, settled, reserved = await self._reserve_at(
            place, opening, hold_micro, worst_micro, -1 if max_open is None else max_open
        )
        if outcome == 3 and max_open is not None:
            raise TooManyOpen(place.tenant, max_open)
        state = self.spending.note(place, settled, reserved)
        if outcome == 0:
            raise _exceeded(place, state, hold_micro)
        reservation = Reservation(opening, place, hold_micro, worst_micro, state)
        self._live[opening.id] = reservation
        return reservation

    async def extend(self, reservation: Reservation, hold_micro: int, worst_micro: int) -> None:
        """Raise a hold to at least so much: what an attempt cost is kept beside what may follow.

        Raises:
            BudgetExceeded: that does not fit what is left; the entry and its hold stay.
            LedgerUnavailable: Redis does not answer, or does not know the entry any more.
        """
        place = reservation.place
        worst_micro = min(max(worst_micro, hold_micro), _MAX_EXACT)
        hold_micro = min(hold_micro, worst_micro)
        if hold_micro <= reservation.hold_micro and worst_micro <= reservation.worst_micro:
            return
        entry_id, bounds = reservation.opening.id, _bounds(place)
        try:
            outcome, settled, reserved = await self._extend(
                [place.keys.spend, place.keys.open], [entry_id, hold_micro, worst_micro, *bounds]
            )
        except UNAVAILABLE as error:
            raise LedgerUnavailable("No more money can be held now.") from error
        if outcome == 2:
            raise LedgerUnavailable(f"No more money can be held: {entry_id} is not open any more.")
        reservation.state = self.spending.note(place, settled, reserved)
        if outcome == 0:
            raise _exceeded(place, reservation.state, hold_micro - reservation.hold_micro)
        reservation.hold_micro = max(hold_micro, reservation.hold_micro)
        reservation.worst_micro = max(worst_micro, reservation.worst_micro)

    async def next_attempt(
        self, reservation: Reservation, closing: EntryClosing, opening: EntryOpening
    ) -> None:
        """Close the open entry and open the next attempt under the same hold.

        Raises:
            LedgerUnavailable: Redis does not answer; the closing is kept and sent before the next.
        """
        self._queue(reservation, closing, None, opening)
        self._live.pop(reservation.opening.id, None)
        reservation.opening = opening
        self._live[opening.id] = reservation
        await self._send(reservation)

    async def settle(
        self,
        reservation: Reservation,
        closing: EntryClosing,
        turn_record: Mapping[str, Any] | None,
    ) -> BudgetState:
        """Close the last entry with what was really used and give the rest of the hold back.

        `turn_record` is None for a helper's call, which is no turn.

        A second call for the same reservation sends nothing new, only what Redis has not taken.

        Raises:
            LedgerUnavailable: Redis does not answer; the closing is kept, and sent by the next
                call or by `send_unsent`.
        """
        if not reservation.is_settled:
            reservation.is_settled = True
            self._queue(reservation, closing, turn_record, None)
        await self._send(reservation)
        return reservation.state

    async def record(self, tenant: str, turn_record: Mapping[str, Any]) -> None:
        """Record a turn that asked no model: a cache hit, a refusal.

        Raises:
            LedgerUnavailable: Redis does not answer.
        """
        blob = orjson.dumps({"entry": None, "turn": dict(turn_record)})
        try:
            await self._register(tenant)
            await self._redis.xadd(ledger_keys(tenant).stream, {"e": blob})
        except UNAVAILABLE as error:
            raise LedgerUnavailable("The turn cannot be recorded.") from error
        self.touched.add(tenant)

    async def state(
        self, tenant: str, budget: Budget | None, currency: str, *, max_age_s: float = 0.0
    ) -> BudgetState:
        """Return what is settled and held in the running period.

        Args:
            tenant: whose.
            budget: the tenant's; None has no limit.
            currency: the tenant's; counts where there is no budget.
            max_age_s: a state that a script of this process returned at most so long ago will do,
                which saves the round trip.

        Raises:
            LedgerUnavailable: Redis does not answer.
        """
        return await self.spending.state(self.spending.place(tenant, budget, currency), max_age_s)

    async def renew(self) -> None:
        """Extend the leases of this process's open entries; called well within `LEASE_S`."""
        lease = self._lease_until()
        by_key: dict[str, dict[str, float]] = {}
        for entry_id, reservation in list(self._live.items()):
            by_key.setdefault(reservation.place.keys.leases, {})[entry_id] = lease
        for key, members in by_key.items():
            await self._redis.zadd(key, members, xx=True)

    async def send_unsent(self) -> int:
        """Send closings that Redis did not take; return how many reservations still wait."""
        for reservation in list(self._unsent.values()):
            try:
                await self._send(reservation)
            except LedgerUnavailable:
                break  # the others would fare no better
        return len(self._unsent)

    async def tenants(self) -> list[str]:
        """Return every tenant that ever had an entry: whom to sweep, whose streams to empty."""
        names: Any = await self._redis.smembers(TENANTS_KEY)
        return sorted(name.decode() for name in names)

    async def sweep(self, tenants: Iterable[str] | None = None) -> int:
        """Close every entry whose lease ran out as failed; return how many there were.

        What the upstream charged is unknown then: the row says so (`is_estimated`), carries what
        was known at its opening, and the hold goes back. None sweeps every tenant.
        """
        now = self._clock()
        n_closed = 0
        for tenant in await self.tenants() if tenants is None else tenants:
            keys = ledger_keys(tenant)
            expired: Any = await self._redis.zrangebyscore(keys.leases, "-inf", now.timestamp())
            for entry_id in expired:
                blob: Any = await self._redis.hget(keys.open, entry_id)
                if blob is None:
                    await self._redis.zrem(keys.leases, entry_id)
                    continue
                n_closed += await self._close_orphan(tenant, blob, now)
        return n_closed

    async def pending(self, tenant: str, request_id: str) -> Mapping[str, Any] | None:
        """Return the opening of a turn that is being answered now, None when there is none."""
        ids = [f"{request_id}:{n}" for n in range(1, MAX_ATTEMPTS + 1)]
        blobs: Any = await self._redis.hmget(ledger_keys(tenant).open, ids)
        for blob in blobs:
            if blob is not None:
                return _opening_of(blob)
        return None

    async def rebuild(self, tenant: str) -> int:
        """Forget what is settled in every period, so that the next turn takes it from the books.

        What is held stays. Returns how many counters there were; without books nothing changes.

        Raises:
            LedgerUnavailable: Redis does not answer.
        """
        if self.spending.settled_in_books is None:
            return 0
        return await self.spending.forget(tenant)

    def _place_of(self, opening: EntryOpening, budget: Budget | None) -> Place:
        if budget is not None and budget.currency not in ("USD", opening.currency):
            raise LedgerUnavailable(
                f"The budget is in {budget.currency}, but {opening.tenant} counts in "
                f"{opening.currency}: put a policy with a budget in {opening.currency} or USD."
            )
        return self.spending.place(opening.tenant, budget, opening.currency)

    async def _reserve_at(
        self, place: Place, opening: EntryOpening, hold_micro: int, worst_micro: int, max_open: int
    ) -> tuple[int, int, int]:
        keys = place.keys
        limit_micro, most_micro = _bounds(place)
        first: list[Any] = [
            opening.id,
            orjson.dumps(opening_to_json(opening, keys.spend)),
            hold_micro,
        ]
        # A span, not a moment: this process and Redis need not agree on what day it is.
        kept_s = int((place.period.end + _KEEP_SPEND - self._clock()).total_seconds())
        first += [limit_micro, self._lease_until(), kept_s]
        last = [max_open, worst_micro, most_micro]
        settled_in_books = self.spending.settled_in_books
        seed, seen = ("", "") if settled_in_books else ("0", "")
        try:
            await self._register(place.tenant)
            for _ in range(_SEED_ATTEMPTS):
                outcome, settled, reserved, *newest = await self._reserve(
                    [keys.spend, keys.open, keys.leases, keys.stream], [*first, seed, seen, *last]
                )
                if outcome != 2 or settled_in_books is None:
                    return outcome, settled, reserved
                seen = newest[0]
                seed = str(await settled_in_books(place.tenant, place.period, place.currency))
        except UNAVAILABLE as error:
            raise LedgerUnavailable("Money cannot be held: the ledger does not answer.") from error
        raise LedgerUnavailable("Money cannot be held: the books change faster than they are read.")

    def _queue(
        self,
        reservation: Reservation,
        closing: EntryClosing,
        turn_record: Mapping[str, Any] | None,
        following: EntryOpening | None,
    ) -> None:
        opening, spend = reservation.opening, reservation.place.keys.spend
        turn = None if turn_record is None else dict(turn_record)
        record = {"entry": entry_to_json(opening, closing, spend), "turn": turn}
        blob = orjson.dumps(opening_to_json(following, spend)) if following else b""
        next_id = following.id if following else ""
        closed = [opening.id, closing.charge_micro, orjson.dumps(record), next_id, blob]
        reservation.unsent.append(closed)
        self._unsent[opening.request_id] = reservation

    async def _send(self, reservation: Reservation) -> None:
        """Send the kept closings in their order; Redis counts each once, however often it comes."""
        place, keys = reservation.place, reservation.place.keys
        names = [keys.spend, keys.open, keys.leases, keys.stream, keys.orphans]
        # One sender at a time: a closing that arrives late must not open its next attempt again.
        async with reservation.turnstile:
            while reservation.unsent:
                try:
                    reply = await self._close(
                        names, [*reservation.unsent[0], self._lease_until(), ""]
                    )
                except UNAVAILABLE as error:
                    raise LedgerUnavailable("An entry cannot be closed now.") from error
                del reservation.unsent[0]
                self.touched.add(place.tenant)
                reservation.state = self.spending.note(place, reply[1], reply[2])
            self._unsent.pop(reservation.opening.request_id, None)
            if reservation.is_settled:
                self._live.pop(reservation.opening.id, None)

    async def _close_orphan(self, tenant: str, blob: bytes, now: datetime) -> int:
        opening = dict(_opening_of(blob))
        keys = ledger_keys(tenant)
        outcome, _, _ = await self._close(
            [opening["spend"], keys.open, keys.leases, keys.stream, keys.orphans],
            [
                opening["id"],
                opening["estimate_charge_micro"],
                orjson.dumps(orphan_records(opening, now)),
                "",
                "",
                now.timestamp(),
                _ORPHAN_S,
            ],
        )
        self.touched.add(tenant)
        return int(outcome)

    async def _register(self, tenant: str) -> None:
        if tenant not in self._registered:
            await self._redis.sadd(TENANTS_KEY, tenant)
            self._registered.add(tenant)

    def _lease_until(self) -> float:
        return self._clock().timestamp() + LEASE_S


def _bounds(place: Place) -> tuple[int, int]:
    """Return what expected costs stay within, and worst ones; -1 without a budget."""
    budget = place.budget
    if budget is None:
        return -1, -1
    return budget.refuses_at_micro, budget.refuses_at_micro + budget.overshoot_micro


def _exceeded(place: Place, state: BudgetState, hold_micro: int) -> BudgetExceeded:
    limit_micro, _ = _bounds(place)
    return BudgetExceeded(
        place.tenant,
        limit_micro=state.limit_micro or 0,
        left_micro=max(0, limit_micro - state.settled_micro - state.reserved_micro),
        hold_micro=hold_micro,
        currency=place.currency,
        resets_at=place.period.end,
    )


def _lua(name: str) -> str:
    return files("policies").joinpath(f"{name}.lua").read_text(encoding="utf-8")


def _opening_of(blob: bytes) -> Mapping[str, Any]:
    opening: Mapping[str, Any] = orjson.loads(blob.partition(b"|")[2])
    return opening
