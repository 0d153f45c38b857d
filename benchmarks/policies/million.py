"""A million entries of one tenant: does every place tell the same sum, and how fast.

    python -m benchmarks.policies.million [--turns 1100000] [--settled 20000]

Turns of thirty days (9 % answered from the cache, so without an entry) go into a Redis and a SQLite
of their own. The first `--settled` are reserved and settled by the ledger's scripts; the others are
put on the tenant's stream as those scripts leave them there. From the stream on everything is what
production runs: the consumer books them, a real gateway is started over the books, and its pages
and calls are asked over HTTP, one after the other.

Prints the sums, then of each page and call the median and 95th percentile of the time to the last
byte and the mean CPU time of the gateway. `--folder` keeps the books, and finds them there again;
`--rebuild` makes the roll-ups anew at the end, for the same and for another time zone, and compares
every row.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import csv
import io
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from hashlib import blake2b
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import aiohttp
import orjson
import psutil  # type: ignore[import-untyped]
from redis.asyncio import Redis
from sqlalchemy import Column, ColumnElement, Engine, func, select

from benchmarks.policies.filling import N_DAYS, TENANT, ZONE, fill, utc_now
from gateway.database import open_database, upgrade
from gateway.state import embedded_redis
from policies.books import Books
from policies.rollups import Level
from policies.tables import (
    coarse_table,
    counts_table,
    day_counts_table,
    entries_table,
    rollups_table,
    turns_table,
)

KEY, ADMIN_KEY = "a-tenants-key-for-this", "an-admins-key-for-this"
SETTINGS = """
server: {{port: {port}}}
redis: {{url: "{redis}"}}
ledger: {{url: "sqlite:///{folder}/ledger.db"}}
backends: {{near: {{kind: simulated, region: on_premises}}, far: {{kind: simulated}}}}
models:
  local-small: {{backend: near, name: near-1, context_tokens: 2048,
                price: {{input_usd_per_mtok: "0.05", output_usd_per_mtok: "0.2"}}}}
  strong: {{backend: far, name: far-1, context_tokens: 128000,
           price: {{input_usd_per_mtok: "1.25", output_usd_per_mtok: "10"}}}}
tenants: {{demo: {{policy: default, currency: INR, timezone: Asia/Kolkata, keys: [{key}]}}}}
fx: {{USD_INR: [{{from: 2020-01-01, rate: "85"}}]}}
"""
PAGES = (
    *("", "/spend", "/spend?days=90", "/savings", "/routing", "/routing/what-if?threshold=0.4"),
    *("/latency", "/budgets", "/turns", "/turns?reason=pinned", "/turns/{turn}"),
    *("/conversations", "/conversations?name=chat-3", "/policies", "/keys", "/audit"),
)
CALLS = (
    "/v1/costs?{days}",
    "/v1/costs?{days}&group_by=",
    "/v1/costs?{days}&group_by=day,model,tier",
    "/v1/costs?{days}&group_by=day,model,tier&tz=America/New_York",
    "/v1/costs?{days}&group_by=hour",
    "/v1/costs?{days}&group_by=end_user",
    "/v1/costs?{days}&group_by=tag",
    "/v1/costs?{days}&group_by=end_user&tz=America/New_York",
    "/v1/costs?{days}&group_by=day,end_user",
    "/v1/savings?{days}",
    "/v1/budget",
    "/v1/turns/{turn}",
    "/v1/costs/export?{days}&group_by=day,model,tier",
)


async def rebuild(engine: Engine, redis: Redis) -> bool:
    """Make the roll-ups anew, also for another time zone, and say whether they are the same."""
    books = Books(engine, redis)

    def contents() -> list[Any]:
        found: list[Any] = []
        for table in (rollups_table, coarse_table, counts_table, day_counts_table):
            keys = [table.c[key.name] for key in table.primary_key]
            amount = table.c["micro" if "micro" in table.c else "n"]
            with engine.connect() as connection:
                rows = connection.execute(select(*keys, amount).order_by(*keys))
                found.append(blake2b(repr(rows.all()).encode()).hexdigest())
        return found

    before = contents()
    began_s = time.perf_counter()
    n_rows = await books.rebuild(TENANT)
    say(f"made anew from {n_rows:,} turns and entries in {took(began_s)}")
    are_same = contents() == before
    for zone in ("UTC", ZONE):
        began_s = time.perf_counter()
        await books.keep_days_in({TENANT: zone})
        say(f"days counted in {zone} instead: {took(began_s)}")
    are_same = are_same and contents() == before
    say("every row as it was" if are_same else "rows are NOT as they were")
    return are_same


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


@contextlib.asynccontextmanager
async def served(folder: Path, redis_url: str) -> AsyncIterator[tuple[str, psutil.Process]]:
    """Yield the address and the process of a gateway over the books."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    file = folder / "turnwise.yaml"
    file.write_text(SETTINGS.format(port=port, redis=redis_url, folder=folder, key=KEY))
    command = [sys.executable, "-m", "gateway", "serve", "--config", str(file)]
    with (folder / "gateway.log").open("w") as log:
        child = subprocess.Popen(  # noqa: ASYNC220 - nothing else runs in this loop
            command,
            stdout=log,
            stderr=log,
            env={"TURNWISE_ADMIN_KEY": ADMIN_KEY, "PYTHONPATH": ".", "PATH": "/usr/bin:/bin"},
        )
    try:
        url = f"http://127.0.0.1:{port}"
        async with aiohttp.ClientSession() as session:
            for _ in range(600):
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(f"{url}/readyz") as answer:
                        if answer.status == 200:
                            break
                await asyncio.sleep(0.1)
        yield url, psutil.Process(child.pid)
    finally:
        child.terminate()
        child.wait()


class Asker:
    """Asks one gateway, signed in to its pages as an administrator."""

    def __init__(self, url: str, process: psutil.Process, session: aiohttp.ClientSession) -> None:
        self.url, self.process, self.session = url, process, session

    async def text(self, path: str) -> str:
        """Return what is answered; anything but success ends the run."""
        headers = {} if path.startswith("/dashboard") else {"authorization": f"Bearer {KEY}"}
        async with self.session.get(self.url + path, headers=headers) as answer:
            text = await answer.text()
            if answer.status != 200:
                raise SystemExit(f"{path}: {answer.status} {text[:300]}")
            return text

    async def timed(self, path: str, n_asked: int) -> str:
        """Return a page's cells of the table: median, 95th percentile, CPU."""
        took_ms = []
        before = self.process.cpu_times()
        for _ in range(n_asked):
            began_s = time.perf_counter()
            await self.text(path)
            took_ms.append((time.perf_counter() - began_s) * 1000)
        after = self.process.cpu_times()
        cpu_ms = (after.user + after.system - before.user - before.system) / n_asked * 1000
        p95 = sorted(took_ms)[-(-n_asked * 95 // 100) - 1]
        return f"{statistics.median(took_ms):.0f} | {p95:.0f} | {cpu_ms:.0f}"


async def sums_of(engine: Engine, ask: Asker, days: str) -> dict[str, int]:
    """Return what every place makes of all thirty days, in millionths of a rupee."""
    sums: dict[str, int] = {}
    with engine.connect() as connection:

        def total(column: Column[Any], *wanted: ColumnElement[bool]) -> int:
            return int(connection.execute(select(func.sum(column)).where(*wanted)).scalar_one())

        sums["ledger"] = total(entries_table.c.micro)
        sums["roll-ups"] = total(rollups_table.c.micro)
        for level in Level:
            is_level = coarse_table.c.level == level.value
            sums[f"coarse roll-ups, {level.value}"] = total(coarse_table.c.micro, is_level)
    for groups in ("", "day,model,tier", "hour", "end_user", "day,model,tier,kind,end_user"):
        answer = orjson.loads(await ask.text(f"/v1/costs?{days}&group_by={groups}"))
        sums[f"API, {groups or 'total'}"] = sum(row["cost_micro"] for row in answer["rows"])
        sums[f"API, total beside {groups}"] = answer["total"]["cost_micro"]
    began_s = time.perf_counter()
    export = await ask.text(f"/v1/costs/export?{days}&group_by=day,model,tier,end_user")
    sums["CSV"] = sum(int(row["cost_micro"]) for row in csv.DictReader(io.StringIO(export)))
    say(f"CSV by day, model, tier, end user: {len(export):,} bytes, {took(began_s)}")
    began_s = time.perf_counter()
    focus = await ask.text(f"/v1/costs/export?{days}&format=focus")
    costs = [Decimal(row["BilledCost"]) for row in csv.DictReader(io.StringIO(focus))]
    sums["FOCUS"] = int(sum(costs) * 1_000_000)
    say(f"FOCUS: {len(costs):,} rows, {len(focus):,} bytes, {took(began_s)}")
    saved = orjson.loads(await ask.text(f"/v1/savings?{days}"))
    sums["savings, actual"] = saved["actual"]["cost_micro"]
    parts = sum(part["cost_micro"] for part in saved["parts"])
    sums["savings, baseline less its parts"] = saved["baseline"]["cost_micro"] - parts
    page = await ask.text("/dashboard/spend?days=90")
    for caption in ("By model", "By tier", "By kind of call"):
        sums[f"dashboard, {caption}"] = footer(page, caption)
    exported = await ask.text("/dashboard/spend.csv?days=90")
    rows = csv.DictReader(io.StringIO(exported))
    sums["dashboard, CSV"] = sum(int(row["cost_micro"]) for row in rows)
    return sums


def took(began_s: float) -> str:
    return f"{time.perf_counter() - began_s:.1f} s"


def footer(page: str, caption: str) -> int:
    """Return the sum under a table of a page, in micro-units."""
    table = page[page.index(f"<caption>{caption}") :]
    amount = re.search(r'<tfoot>.*?<td class="n">₹([\d,.]+)</td>', table, re.DOTALL)
    if amount is None:
        raise SystemExit(f"no sum under {caption!r}")
    return int(Decimal(amount[1].replace(",", "")) * 1_000_000)


async def run(
    folder: Path, n_turns: int, n_settled: int, n_asked: int, *, is_rebuilt: bool
) -> bool:
    engine = open_database(f"sqlite:///{folder}/ledger.db")
    upgrade(engine)
    child, redis_url = embedded_redis(folder)
    async with child, Redis.from_url(redis_url, socket_timeout=60) as redis:
        await child.wait_ready()
        with engine.connect() as connection:
            is_empty = connection.execute(select(turns_table.c.request_id).limit(1)).first() is None
        if is_empty:
            booked_us = await fill(engine, redis, n_turns, n_settled)
            say(f"booked {n_turns:,} turns, {booked_us:.0f} µs of CPU each")
        with engine.connect() as connection:
            for table in (entries_table, turns_table, rollups_table, coarse_table):
                n_rows = connection.execute(select(func.count()).select_from(table)).scalar_one()
                say(f"{table.name}: {n_rows:,} rows")
        async with served(folder, redis_url) as (url, process), signed_in(url) as session:
            ask = Asker(url, process, session)
            today = utc_now().astimezone(ZoneInfo(ZONE)).date()
            days = f"from={today - timedelta(days=N_DAYS + 1)}&to={today}"
            sums = await sums_of(engine, ask, days)
            for name, micro in sums.items():
                say(f"{name}: {micro:,}")
            are_equal = len(set(sums.values())) == 1
            say("all equal\n" if are_equal else "NOT equal\n")
            say(f"load {psutil.getloadavg()[0]:.1f}, each asked {n_asked} times\n")
            say("| page or call | p50, ms | p95, ms | CPU, ms |\n|---|---|---|---|")
            turn = f"req_{TENANT}_{n_turns // 2:08d}"
            for path in (*(f"/dashboard{page}" for page in PAGES), *CALLS):
                asked = path.format(days=days, turn=turn)
                shown = path.replace("{days}&", "").replace("?{days}", "").replace("{turn}", "ID")
                say(f"| {shown} | {await ask.timed(asked, n_asked)} |")
            is_good = are_equal and "It adds up." in await ask.text("/dashboard")
            say(f"\nthe first page says that it adds up: {is_good}")
        if is_rebuilt:
            is_good = await rebuild(engine, redis) and is_good
    engine.dispose()
    return is_good


@contextlib.asynccontextmanager
async def signed_in(url: str) -> AsyncIterator[aiohttp.ClientSession]:
    cookies = aiohttp.CookieJar(unsafe=True)  # of an address without a name
    async with aiohttp.ClientSession(cookie_jar=cookies) as session:
        async with session.post(f"{url}/dashboard/login", data={"key": ADMIN_KEY}) as answer:
            answer.raise_for_status()
        yield session


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--turns", type=int, default=1_100_000)
    parser.add_argument("--settled", type=int, default=20_000)
    parser.add_argument("--asked", type=int, default=40)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--rebuild", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as fresh:
        folder = (options.folder or Path(fresh)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        work = run(
            folder, options.turns, options.settled, options.asked, is_rebuilt=options.rebuild
        )
        is_good = asyncio.run(work)
    sys.exit(0 if is_good else 1)


if __name__ == "__main__":
    main()
