"""Many turns at once against a budget for exactly ten, from one process and from four.

    python -m benchmarks.policies.budget_race [--repeats 50]

Starts a Redis of its own. Prints how many turns were admitted in each repeat: ten, always.
"""

from __future__ import annotations

import argparse
import asyncio
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime

from redis.asyncio import Redis

from benchmarks.policies.own_redis import own_redis
from policies.budget import Budget
from policies.entry import EntryOpening
from policies.errors import BudgetExceeded
from policies.ledger import Ledger

N_TURNS, N_FITTING, HOLD_MICRO = 200, 10, 1_000_000
BUDGET = Budget(N_FITTING * HOLD_MICRO, "INR", timezone="Asia/Kolkata")


def utc_now() -> datetime:
    return datetime.now(UTC)


async def race(socket: str, repeat: int, worker: int, n_turns: int) -> int:
    """Return how many of this worker's turns were admitted; all of them ask at once."""
    async with Redis(unix_socket_path=socket, max_connections=n_turns) as redis:
        ledger = Ledger(redis, utc_now)

        async def ask(number: int) -> bool:
            name = f"req_{worker:x}{number:03x}"
            opening = EntryOpening(
                f"{name}:1", name, f"t{repeat}", 1, "m", "b", "small", utc_now(), "INR", "p@0"
            )
            try:
                await ledger.reserve(opening, BUDGET, HOLD_MICRO)
            except BudgetExceeded:
                return False
            return True

        return sum(await asyncio.gather(*(ask(number) for number in range(n_turns))))


def run_race(socket: str, repeat: int, worker: int, n_turns: int) -> int:
    return asyncio.run(race(socket, repeat, worker, n_turns))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=50)
    repeats = parser.parse_args().repeats
    with own_redis() as socket:
        for n_workers in (1, 4):
            admitted = []
            with ProcessPoolExecutor(n_workers) as pool:
                for repeat in range(repeats):
                    place = n_workers * 1000 + repeat
                    share = N_TURNS // n_workers
                    races = [
                        pool.submit(run_race, socket, place, worker, share)
                        for worker in range(n_workers)
                    ]
                    admitted.append(sum(running.result() for running in races))
            print(
                f"{n_workers} worker(s), {repeats} repeats of {N_TURNS} turns at once: "
                f"admitted {min(admitted)} to {max(admitted)}, the budget holds {N_FITTING}"
            )


if __name__ == "__main__":
    main()
