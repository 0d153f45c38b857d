"""The hot side of the ledger: hold money and open an entry, then close it, each in one Lua script.

Owns the Redis keys of money. Every entry that is closed goes to the tenant's stream in the same
script; `books.py` takes it from there into SQL. Knows no prices: amounts arrive in micro-units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from importlib.resources import files
from typing import Any, Literal

import orjson
from redis.asyncio import Redis
from redis.exceptions import RedisError

from policies.budget import Budget, BudgetState, Period, period_of
from policies.errors import BudgetExceeded, LedgerUnavailable

EntryStatus = Literal["complete", "cancelled", "failed"]

LEASE_S = 90.0  # a crashed gateway's holds come back within this and one sweep
_KEEP_SPEND = timedelta(days=40)
_UNAVAILABLE = (RedisError, OSError, TimeoutError)


@dataclass(frozen=True, slots=True)
class EntryOpening:
    """An attempt about to be made; `id` is unique, `n` counts the attempts of a turn from 1."""

    id: str
    request_id: str
    tenant: str
    n: int
    model: str
    backend: str
    tier: str
    opened_at: datetime
    currency: str
    policy: str
    conversation: str | None = None
    end_user: str | None = None
    tags: tuple[str, ...] = ()
    kind: str = "chat"


@dataclass(frozen=True, slots=True)
class EntryClosing:
    """How an attempt ended.

    `charge_micro` is what counts against the budget, in the budget's currency; `cost` the amounts
    of record as JSON values, None where the price is unknown. Token counts are OpenAI's inclusive
    buckets.
    """

    status: EntryStatus
    closed_at: datetime
    charge_micro: int = 0
    usage: Mapping[str, Any] = field(default_factory=dict)
    cost: Mapping[str, Any] | None = None
    error: str | None = None


@dataclass(slots=True)
class Reservation:
    """Money held for a turn, and the entry that is open now; `state` is as of the last script."""

    opening: EntryOpening
    keys: LedgerKeys
    budget: Budget | None
    period: Period
    hold_micro: int
    state: BudgetState


@dataclass(frozen=True, slots=True)
class LedgerKeys:
    """The Redis keys of one tenant's money, in one hash slot."""

    spend: str
    open: str
    leases: str
    stream: str


def ledger_keys(tenant: str, period_key: str, currency: str) -> LedgerKeys:
    """Return the keys of a tenant for one budget period."""
    base = f"tw:{{t:{tenant}}}:"
    return LedgerKeys(
        f"{base}spend:{currency}:{period_key}",
        f"{base}entries",
        f"{base}leases",
        f"{base}ledger",
    )


class Ledger:
    """Reserve, close and sweep, for every tenant.

    Args:
        redis: a handle with `decode_responses=False`.
        clock: aware UTC now.
    """

    def __init__(self, redis: Redis, clock: Callable[[], datetime]) -> None:
        self._redis = redis
        self._clock = clock
        self._reserve = redis.register_script(_lua("reserve"))
        self._close = redis.register_script(_lua("close"))
        self._live: dict[str, Reservation] = {}
        self.touched: set[str] = set()

    async def reserve(
        self, opening: EntryOpening, budget: Budget | None, hold_micro: int
    ) -> Reservation:
        """Hold money and open the entry, in one step.

        Args:
            opening: the first attempt.
            budget: the tenant's; None holds nothing back and still opens the entry.
            hold_micro: the worst case of the turn, in the budget's currency.

        Raises:
            BudgetExceeded: settled + reserved + hold would pass the limit; nothing was held.
            LedgerUnavailable: Redis does not answer.
        """
        period, keys = self._place(opening.tenant, budget, opening.currency)
        limit_micro = budget.refuses_at_micro if budget else -1
        lease = self._lease_until()
        expires = int((period.end + _KEEP_SPEND).timestamp())
        blob = orjson.dumps(_opening_to_json(opening, keys.spend))
        try:
            outcome, settled, reserved = await self._reserve(
                keys=[keys.spend, keys.open, keys.leases],
                args=[opening.id, blob, hold_micro, limit_micro, lease, expires],
            )
        except _UNAVAILABLE as error:
            raise LedgerUnavailable("Money cannot be held: the ledger does not answer.") from error
        if outcome == 0 and budget is not None:
            raise BudgetExceeded(
                opening.tenant,
                limit_micro=budget.limit_micro,
                left_micro=max(0, limit_micro - settled - reserved),
                currency=budget.currency,
                resets_at=period.end,
            )
        state = _state(budget, period, opening.currency, settled, reserved)
        reservation = Reservation(opening, keys, budget, period, hold_micro, state)
        self._live[opening.id] = reservation
        return reservation

    async def next_attempt(
        self, reservation: Reservation, closing: EntryClosing, opening: EntryOpening
    ) -> None:
        """Close the open entry and open the next attempt under the same hold.

        Raises:
            LedgerUnavailable: Redis does not answer; nothing has changed.
        """
        record = {
            "entry": _entry_to_json(reservation.opening, closing, reservation.keys.spend),
            "turn": None,
        }
        await self._finish(reservation, closing, record, opening)
        self._live.pop(reservation.opening.id, None)
        reservation.opening = opening
        self._live[opening.id] = reservation

    async def settle(
        self, reservation: Reservation, closing: EntryClosing, turn_record: Mapping[str, Any]
    ) -> BudgetState:
        """Close the last entry with what was really used and give the rest of the hold back.

        A second call for the same entry changes nothing.

        Raises:
            LedgerUnavailable: Redis does not answer; the lease will close the entry.
        """
        record = {
            "entry": _entry_to_json(reservation.opening, closing, reservation.keys.spend),
            "turn": dict(turn_record),
        }
        await self._finish(reservation, closing, record, None)
        self._live.pop(reservation.opening.id, None)
        return reservation.state

    async def record(self, tenant: str, turn_record: Mapping[str, Any]) -> None:
        """Record a turn that asked no model: a cache hit, a refusal.

        Raises:
            LedgerUnavailable: Redis does not answer.
        """
        stream = ledger_keys(tenant, "", "").stream
        try:
            await self._redis.xadd(
                stream, {"e": orjson.dumps({"entry": None, "turn": dict(turn_record)})}
            )
        except _UNAVAILABLE as error:
            raise LedgerUnavailable("The turn cannot be recorded.") from error
        self.touched.add(tenant)

    async def state(self, tenant: str, budget: Budget | None, currency: str) -> BudgetState:
        """Return what is settled and held in the running period.

        Raises:
            LedgerUnavailable: Redis does not answer.
        """
        period, keys = self._place(tenant, budget, currency)
        try:
            settled, reserved = await self._redis.hmget(keys.spend, ["settled", "reserved"])
        except _UNAVAILABLE as error:
            raise LedgerUnavailable("The budget cannot be read.") from error
        return _state(budget, period, currency, int(settled or 0), int(reserved or 0))

    async def renew(self) -> None:
        """Extend the leases of this process's open entries; called well within `LEASE_S`."""
        lease = self._lease_until()
        by_key: dict[str, dict[str, float]] = {}
        for entry_id, reservation in self._live.items():
            by_key.setdefault(reservation.keys.leases, {})[entry_id] = lease
        for key, members in by_key.items():
            await self._redis.zadd(key, members, xx=True)

    async def sweep(self, tenants: Iterable[str]) -> int:
        """Close every entry whose lease ran out as failed; return how many there were.

        What the upstream charged is unknown then: the row says so (`is_estimated`), costs nothing,
        and the hold goes back.
        """
        now = self._clock()
        n_closed = 0
        for tenant in tenants:
            keys = ledger_keys(tenant, "", "")
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
        keys = ledger_keys(tenant, "", "")
        for n in range(1, 9):
            blob: Any = await self._redis.hget(keys.open, f"{request_id}:{n}")
            if blob is not None:
                opening: Mapping[str, Any] = orjson.loads(blob.partition(b"|")[2])
                return opening
        return None

    async def _close_orphan(self, tenant: str, blob: bytes, now: datetime) -> int:
        opening = orjson.loads(blob.partition(b"|")[2])
        spend = opening.pop("spend")
        entry = {
            **opening,
            "status": "failed",
            "closed_us": _to_us(now),
            "usage": {"is_estimated": True},
            "cost": {"usd_micro": 0, "micro": 0, "rate": None, "rate_date": None},
            "error": "the gateway stopped before it could settle",
        }
        turn = {
            "request_id": opening["request_id"],
            "tenant": tenant,
            "status": "failed",
            "model": opening["model"],
            "tier": opening["tier"],
            "conversation": opening["conversation"],
            "end_user": opening["end_user"],
            "tags": opening["tags"],
            "policy": opening["policy"],
            "started_us": opening["opened_us"],
            "ended_us": _to_us(now),
            "currency": opening["currency"],
            "cache": "none",
        }
        keys = ledger_keys(tenant, "", "")
        outcome, _, _ = await self._close(
            keys=[spend, keys.open, keys.leases, keys.stream],
            args=[opening["id"], 0, orjson.dumps({"entry": entry, "turn": turn}), "", "", 0],
        )
        self.touched.add(tenant)
        return int(outcome)

    async def _finish(
        self,
        reservation: Reservation,
        closing: EntryClosing,
        record: Mapping[str, Any],
        following: EntryOpening | None,
    ) -> None:
        keys, opening = reservation.keys, reservation.opening
        blob = orjson.dumps(_opening_to_json(following, keys.spend)) if following else b""
        try:
            _, settled, reserved = await self._close(
                keys=[keys.spend, keys.open, keys.leases, keys.stream],
                args=[
                    opening.id,
                    closing.charge_micro,
                    orjson.dumps(record),
                    following.id if following else "",
                    blob,
                    self._lease_until(),
                ],
            )
        except _UNAVAILABLE as error:
            raise LedgerUnavailable("An entry cannot be closed now.") from error
        self.touched.add(opening.tenant)
        reservation.state = _state(
            reservation.budget, reservation.period, opening.currency, settled, reserved
        )

    def _place(
        self, tenant: str, budget: Budget | None, currency: str
    ) -> tuple[Period, LedgerKeys]:
        kind, timezone = (budget.period, budget.timezone) if budget else ("month", "UTC")
        period = period_of(kind, timezone, self._clock())
        return period, ledger_keys(tenant, period.key, budget.currency if budget else currency)

    def _lease_until(self) -> float:
        return self._clock().timestamp() + LEASE_S


def _lua(name: str) -> str:
    return files("policies").joinpath(f"{name}.lua").read_text(encoding="utf-8")


def _state(
    budget: Budget | None, period: Period, currency: str, settled: int, reserved: int
) -> BudgetState:
    return BudgetState(
        limit_micro=budget.limit_micro if budget else None,
        settled_micro=settled,
        reserved_micro=reserved,
        currency=budget.currency if budget else currency,
        period=budget.period if budget else None,
        resets_at=period.end if budget else None,
    )


def _to_us(at: datetime) -> int:
    return round(at.timestamp() * 1_000_000)


def _opening_to_json(opening: EntryOpening, spend: str) -> dict[str, Any]:
    return {
        "id": opening.id,
        "request_id": opening.request_id,
        "tenant": opening.tenant,
        "n": opening.n,
        "model": opening.model,
        "backend": opening.backend,
        "tier": opening.tier,
        "opened_us": _to_us(opening.opened_at),
        "currency": opening.currency,
        "policy": opening.policy,
        "conversation": opening.conversation,
        "end_user": opening.end_user,
        "tags": opening.tags,
        "kind": opening.kind,
        "spend": spend,
    }


def _entry_to_json(opening: EntryOpening, closing: EntryClosing, spend: str) -> dict[str, Any]:
    return {
        **_opening_to_json(opening, spend),
        "status": closing.status,
        "closed_us": _to_us(closing.closed_at),
        "usage": closing.usage,
        "cost": closing.cost,
        "error": closing.error,
    }
