"""Turns of one tenant in the books, by the way that turns take: ledger, stream, consumer.

Owns how the records of `million.py` are drawn and brought in.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import orjson
from redis.asyncio import Redis
from sqlalchemy import Engine

from policies.books import Books
from policies.entry import EntryClosing, EntryOpening
from policies.ledger import Ledger, ledger_keys
from policies.usage import Rates
from tests.synthetic_books import record

TENANT, ZONE = "demo", "Asia/Kolkata"
N_DAYS, N_USERS, CHUNK = 30, 200, 20_000


def utc_now() -> datetime:
    return datetime.now(UTC)


def drawn(n_turns: int, now: datetime) -> Iterator[dict[str, Any]]:
    rng = random.Random(7)
    rates = Rates({"INR": [(date(2020, 1, 1), Decimal(85))]})
    first = now - timedelta(days=N_DAYS)
    for number in range(n_turns):
        at = first + timedelta(seconds=number / n_turns * N_DAYS * 86_400)  # as they come: in order
        yield record(rng, rates, TENANT, number, at, n_users=N_USERS)


async def settle(ledger: Ledger, one: dict[str, Any]) -> None:
    """Take a turn through the scripts: open and reserve, then close; or record it alone."""
    entry, turn = one["entry"], one["turn"]
    if entry is None:
        await ledger.record(TENANT, turn)
        return
    taken = ("id", "request_id", "tenant", "n", "model", "backend", "tier", "currency", "policy")
    opening = EntryOpening(
        **{name: entry[name] for name in taken},
        **{name: entry[name] for name in ("conversation", "end_user", "kind")},
        tags=tuple(entry["tags"]),
        opened_at=datetime.fromtimestamp(entry["opened_us"] / 1e6, UTC),
    )
    closing = EntryClosing(
        status=entry["status"],
        closed_at=datetime.fromtimestamp(entry["closed_us"] / 1e6, UTC),
        charge_micro=entry["charge_micro"],
        usage=entry["usage"],
        cost=entry["cost"],
        error=entry["error"],
    )
    held = await ledger.reserve(opening, None, entry["charge_micro"])
    await ledger.settle(held, closing, turn)


async def fill(engine: Engine, redis: Redis, n_turns: int, n_settled: int) -> float:
    """Bring turns in, and return what booking one cost, in microseconds of CPU."""
    books = Books(engine, redis)
    await books.keep_days_in({TENANT: ZONE})
    ledger = Ledger(redis, utc_now, books.settled_in)
    stream, booked_s, waiting = ledger_keys(TENANT).stream, 0.0, redis.pipeline(transaction=False)
    for number, one in enumerate(drawn(n_turns, utc_now()), 1):
        if number <= n_settled:
            await settle(ledger, one)
        else:
            waiting.xadd(stream, {"e": orjson.dumps(one)})
            if len(waiting) == 500:
                await waiting.execute()
        if number % CHUNK == 0 or number == n_turns:
            await waiting.execute()
            began_s = time.process_time()
            await books.catch_up(TENANT)
            booked_s += time.process_time() - began_s
            sys.stderr.write(f"\r{number:,} turns")
    return booked_s / n_turns * 1e6
