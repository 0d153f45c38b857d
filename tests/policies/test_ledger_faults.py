"""What the ledger survives: a process that is killed, clocks that jump."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from sqlalchemy import select

from policies.books import Books
from policies.budget import Budget
from policies.entry import ORPHANED, EntryClosing, EntryOpening
from policies.errors import BudgetExceeded
from policies.ledger import LEASE_S, Ledger, ledger_keys
from policies.tables import entries_table

Opening = Callable[..., EntryOpening]
Closing = Callable[..., EntryClosing]
BUDGET = Budget(10_000_000, "INR")
# Reserves for five turns, settles two of them, says so, and waits to be killed.
VICTIM = """
import asyncio, sys
from datetime import UTC, datetime
from redis.asyncio import Redis
from policies.budget import Budget
from policies.entry import EntryClosing, EntryOpening
from policies.ledger import Ledger

async def main():
    redis = Redis(unix_socket_path=sys.argv[1])
    ledger = Ledger(redis, lambda: datetime.now(UTC))
    held = []
    for n in range(5):
        opening = EntryOpening(
            f"req_{n}:1", f"req_{n}", "acme", 1, "gpt", "b", "small", datetime.now(UTC), "INR",
            "p@0", input_tokens=40, estimate_charge_micro=7,
            estimate={"usd_micro": 1, "micro": 7, "rate": "85", "rate_date": "2026-04-01"},
        )
        held.append(await ledger.reserve(opening, Budget(10_000_000, "INR"), 1_000_000))
    for n in range(2):
        cost = {"usd_micro": 1, "micro": 100, "rate": "85", "rate_date": "2026-04-01"}
        closing = EntryClosing("complete", datetime.now(UTC), 100, {"input_tokens": 1}, cost)
        await ledger.settle(held[n], closing, None)
    print("held", flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_a_process_killed_between_reserve_and_settle_leaves_a_complete_ledger(
    redis_server: Path, redis: Redis, books: Books
) -> None:
    victim = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", VICTIM, str(redis_server)), stdout=asyncio.subprocess.PIPE
    )
    assert victim.stdout is not None
    assert await victim.stdout.readline() == b"held\n"
    victim.kill()
    await victim.wait()
    later = datetime.now(UTC) + timedelta(seconds=LEASE_S + 1)
    ledger = Ledger(redis, lambda: later, books.settled_in)
    assert (await ledger.state("acme", BUDGET, "INR")).reserved_micro == 3_000_000
    assert await ledger.sweep() == 3
    state = await ledger.state("acme", BUDGET, "INR")
    assert (state.settled_micro, state.reserved_micro) == (2 * 100 + 3 * 7, 0)
    await books.catch_up("acme")
    with books.database.engine.connect() as connection:
        rows = connection.execute(select(entries_table).order_by(entries_table.c.id)).all()
    assert [row.status for row in rows] == ["complete"] * 2 + ["failed"] * 3
    assert [row.is_estimated for row in rows] == [False] * 2 + [True] * 3
    assert {row.error for row in rows[2:]} == {ORPHANED}
    assert sum(row.charge_micro for row in rows) == state.settled_micro


async def test_a_state_from_before_the_clock_went_back_is_read_anew(
    redis: Redis, clock: Any, opening: Opening, closing: Closing
) -> None:
    ours, theirs = Ledger(redis, clock), Ledger(redis, clock)
    await ours.state("acme", BUDGET, "INR")
    held = await theirs.reserve(opening(), BUDGET, 500)
    await theirs.settle(held, closing(500), {})
    clock.advance(-3600)
    assert (await ours.state("acme", BUDGET, "INR", max_age_s=1.0)).settled_micro == 500


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("reserve"), st.integers(0, 3_000_000)),
            st.tuples(st.just("settle"), st.integers(0, 3_000_000)),
            st.tuples(st.just("jump"), st.sampled_from([-40 * 86_400, -3600, -80, 80, 3600])),
            st.tuples(st.just("sweep"), st.just(0)),
            st.tuples(st.just("renew"), st.just(0)),
        ),
        max_size=25,
    )
)
def test_clocks_that_jump_lose_no_money_and_count_none_twice(
    redis_server: Path,
    clock: Any,
    opening: Opening,
    closing: Closing,
    steps: list[tuple[str, int]],
) -> None:
    async def run() -> None:
        redis = Redis(unix_socket_path=str(redis_server))
        await redis.flushall()
        ledger = Ledger(redis, clock)
        open_ones: list[Any] = []
        charged = 0
        try:
            for number, (act, value) in enumerate(steps):
                if act == "reserve":
                    try:
                        held = await ledger.reserve(opening(number), BUDGET, value)
                    except BudgetExceeded:
                        continue
                    open_ones.append(held)
                elif act == "settle" and open_ones:
                    await ledger.settle(open_ones.pop(0), closing(value), {})
                    charged += value
                elif act == "jump":
                    clock.advance(value)
                elif act == "sweep":
                    await ledger.sweep()
                elif act == "renew":
                    await ledger.renew()
            for held in open_ones:
                await ledger.settle(held, closing(11), {})
                charged += 11
            counts = [
                [int(n or 0) for n in await redis.hmget(key, ["settled", "reserved", "exposed"])]
                for key in await redis.keys("*spend*")
            ]
            assert [row[1:] for row in counts] == [[0, 0]] * len(counts)
            assert sum(row[0] for row in counts) == charged
            assert await redis.hlen(ledger_keys("acme").open) == 0
            records: Any = await redis.xrange(ledger_keys("acme").stream)
            entries = [orjson.loads(fields[b"e"])["entry"] for _, fields in records]
            ends = {each["id"]: each for each in entries if not each["is_orphan"]}
            assert sum(each["charge_micro"] for each in ends.values()) == charged
        finally:
            await redis.aclose()

    asyncio.run(run())
