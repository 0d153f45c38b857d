"""A million entries of one tenant: does every place tell the same sum, and how fast.

    PYTHONPATH=. python benchmarks/policies/million.py [--entries 1000000]

Writes entries and turns of thirty days into a SQLite of its own, makes the roll-ups, then asks what
the cost API asks for its answers. Prints sums, and the 95th percentile of twenty askings of each.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import io
import random
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from redis.asyncio import Redis
from sqlalchemy import Engine, func, select

from gateway.database import open_database, upgrade
from gateway.spreadsheet import FOCUS_COLUMNS, FOCUS_GROUPS, csv_text, focus_row
from policies.booking import rebuild_rollups
from policies.books import Books, CostRow
from policies.catalog import ModelSpec, Price
from policies.reports import Reports, Span
from policies.tables import TOKENS, entries_table, turns_table
from policies.usage import Rates

START = datetime(2026, 11, 1, tzinfo=UTC)
N_DAYS, CHUNK, N_ASKED = 30, 20_000, 20
STRONG = ModelSpec(
    *("gpt", "openai", "gpt-5", 400_000),
    price=Price(input_usd_per_mtok=Decimal("1.25"), output_usd_per_mtok=Decimal(10)),
)


def rows(n_entries: int) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    draw = random.Random(7)
    for number in range(n_entries):
        at_us = round((START.timestamp() + draw.random() * N_DAYS * 86_400) * 1e6)
        model, tier = draw.choice((("local-small", "small"), ("gpt", "strong")))
        usd_micro = draw.randrange(1, 20_000)
        shared = {
            **{"tenant": "acme", "request_id": f"req_{number:x}", "model": model, "tier": tier},
            **{"end_user": f"u{draw.randrange(20)}", "tags": draw.choice(("", "a", "a\nb"))},
            **{"currency": "INR", "is_orphan": False, "status": "complete"},
        }
        tokens = {**dict.fromkeys(TOKENS, 0), "input_tokens": draw.randrange(2000)}
        entry = {
            **{**shared, **tokens, "output_tokens": draw.randrange(500)},
            **{"id": f"req_{number:x}:1", "n": 1, "backend": "b", "kind": "chat"},
            **{"policy": "p@0", "opened_us": at_us, "closed_us": at_us, "is_estimated": False},
            **{"usd_micro": usd_micro, "micro": usd_micro * 85, "rate": "85"},
            **{"rate_date": "2026-04-01", "charge_micro": usd_micro * 85, "spend_key": "s"},
        }
        turn = {
            **{**shared, "started_us": at_us, "ended_us": at_us + draw.randrange(10**6)},
            **{"reason": "score", "cache": "none", "score": draw.random(), "record": "{}"},
            **{"first_ms": draw.random() * 900, "input_tokens": 0, "output_tokens": 0},
        }
        yield entry, turn


def fill(engine: Engine, n_entries: int) -> None:
    entries: list[dict[str, Any]] = []
    turns: list[dict[str, Any]] = []

    def flush() -> None:
        with engine.begin() as connection:
            connection.execute(entries_table.insert(), entries)
            connection.execute(turns_table.insert(), turns)
        entries.clear()
        turns.clear()

    for entry, turn in rows(n_entries):
        entries.append(entry)
        turns.append(turn)
        if len(entries) == CHUNK:
            flush()
    if entries:
        flush()
    began_s = time.perf_counter()
    with engine.begin() as connection:
        rebuild_rollups(connection, None)
    print(f"roll-ups of {n_entries} entries made in {time.perf_counter() - began_s:.0f} s")


async def timed(name: str, ask: Callable[[], Awaitable[Any]]) -> Any:
    took = []
    for _ in range(N_ASKED):
        began_s = time.perf_counter()
        found = await ask()
        took.append(time.perf_counter() - began_s)
    print(f"{name}: p95 {sorted(took)[N_ASKED * 95 // 100 - 1] * 1000:.0f} ms")
    return found


async def ask_all(engine: Engine) -> None:
    books = Books(engine, Redis())
    reports = Reports(books, Rates({"INR": [(date(2026, 4, 1), Decimal(85))]}))
    end = START + timedelta(days=N_DAYS)
    zone = "Asia/Kolkata"
    span = Span(START, end, zone)

    async def costs(*groups: str) -> list[CostRow]:
        return await books.costs(
            "acme", start=START, end=end, timezone=zone, group_by=groups, currency="INR"
        )

    def focus(row: CostRow) -> dict[str, Any]:
        return focus_row(row, tenant="acme", currency="INR", timezone=zone, spec=STRONG)

    async def focus_text() -> str:
        return csv_text(FOCUS_COLUMNS, [focus(row) for row in await costs(*FOCUS_GROUPS)])

    with engine.connect() as connection:
        ledger = connection.execute(select(func.sum(entries_table.c.micro))).scalar_one()
    (whole,) = await timed("total", costs)
    by_day = await timed("by day, model, tier", lambda: costs("day", "model", "tier"))
    by_user = await timed("by end user", lambda: costs("end_user"))
    text = await timed("FOCUS file", focus_text)
    exported = csv.DictReader(io.StringIO(text))
    saved = await timed(
        "savings", lambda: reports.savings("acme", span, currency="INR", baseline=STRONG)
    )
    await timed("latencies", lambda: reports.latencies("acme", span))
    await timed("tier mix", lambda: reports.tier_mix("acme", span, currency="INR"))
    sums = {
        "ledger": int(ledger),
        "total": whole.micro,
        "by day": sum(row.micro for row in by_day),
        "by end user": sum(row.micro for row in by_user),
        "FOCUS": int(sum(Decimal(row["BilledCost"]) for row in exported) * 1_000_000),
        "savings, actual": saved.actual_micro,
    }
    print("all equal" if len(set(sums.values())) == 1 else "NOT equal", sums)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--entries", type=int, default=1_000_000)
    n_entries = parser.parse_args().entries
    with tempfile.TemporaryDirectory() as folder:
        engine = open_database(f"sqlite:///{folder}/ledger.db")
        upgrade(engine)
        fill(engine, n_entries)
        asyncio.run(ask_all(engine))
        engine.dispose()


if __name__ == "__main__":
    main()
