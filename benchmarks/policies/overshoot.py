"""Turns against a budget used to 90 %: refused though they would have fitted, with learned holds.

    python -m benchmarks.policies.overshoot [--repeats 200]

Starts a Redis of its own; turns pass the gateway's meter. A hundred are open at once, their answers
of log-normal length far below the longest allowed one, as answers of a chat are. A turn is refused
falsely when what it would have cost, and what the turns beside it cost in the end, would have
stayed within the limit. An answer is cut when it would have been longer than there was room for.
"""

from __future__ import annotations

import argparse
import asyncio
import random
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal

from redis.asyncio import Redis

from benchmarks.policies.own_redis import own_redis
from gateway.backends.base import ReplyEnd
from gateway.backends.simulated import SimulatedBackend
from gateway.holds import Plan
from gateway.meter import Meter
from gateway.metered_turn import MeteredTurn
from gateway.models import ServedModel
from gateway.telemetry import Degradations, Metrics
from gateway.tenants import Tenant
from gateway.token_count import estimate_tokens
from gateway.turn import Disclosure, Turn
from memory.conversation import Message
from policies.budget import Budget
from policies.catalog import ModelSpec, Price
from policies.entry import EntryClosing, EntryOpening
from policies.errors import BudgetExceeded
from policies.ledger import Ledger
from policies.policy import Policy, Tier
from policies.usage import Rates, Usage

MICRO_PER_TOKEN = 10
LONGEST_TOKENS = 16_384
LIMIT_MICRO = 100_000_000
N_AT_ONCE = 100
PRICE = Price(Decimal(0), None, None, Decimal(MICRO_PER_TOKEN))
MODEL = ServedModel(
    ModelSpec("m", "b", "m", 200_000, max_output_tokens=LONGEST_TOKENS, price=PRICE),
    SimulatedBackend("b"),
    estimate_tokens,
)


def utc_now() -> datetime:
    return datetime.now(UTC)


def answer_tokens(draw: random.Random) -> int:
    return min(LONGEST_TOKENS, max(1, round(draw.lognormvariate(5.3, 0.8))))  # median 200


class Round:
    """One tenant whose budget is used to 90 %, with two hundred answers behind it."""

    def __init__(self, redis: Redis, name: str, overshoot_micro: int, draw: random.Random) -> None:
        self._draw = draw
        self._tenant = Tenant(name)
        budget = Budget(LIMIT_MICRO, "USD", overshoot_micro=overshoot_micro)
        tiers = (Tier("only", ("m",)),)
        self._policy = Policy("p", 1, tiers, {}, "only", "only", "only", budget=budget)
        self._ledger = Ledger(redis, utc_now)
        self._meter = Meter(
            self._ledger,
            models={"m": MODEL},
            rates=Rates({}),
            degradations=Degradations(Metrics()),
            clock=utc_now,
        )
        for _ in range(200):
            self._meter.expected.observe(name, "m", answer_tokens(draw), None)

    async def run(self) -> Counter[str]:
        """Ask a hundred at once; return what was refused, falsely so, cut, and passed the limit."""
        used = LIMIT_MICRO * 9 // 10
        opening = EntryOpening(
            *("req_0:1", "req_0", self._tenant.id, 1, "m", "b", "only", utc_now(), "USD", "p@1")
        )
        first = await self._ledger.reserve(opening, self._policy.budget, used)
        await self._ledger.settle(first, EntryClosing("complete", utc_now(), used), {})
        lengths = [answer_tokens(self._draw) for _ in range(N_AT_ONCE)]
        counts: Counter[str] = Counter()
        held, refused = [], []
        for number, n_tokens in enumerate(lengths, 1):
            try:
                held.append((await self._open(number), n_tokens))
            except BudgetExceeded:
                refused.append(n_tokens)
        settled = used
        for metered, n_tokens in held:
            room = metered.plan.longest.get("m", LONGEST_TOKENS)
            counts["kept short"] += bool(metered.plan.longest)
            counts["cut"] += n_tokens > room
            await self._settle(metered, min(n_tokens, room))
            settled += min(n_tokens, room) * MICRO_PER_TOKEN
        counts["refused"] = len(refused)
        counts["falsely"] = sum(
            settled + n_tokens * MICRO_PER_TOKEN <= LIMIT_MICRO for n_tokens in refused
        )
        counts["passed by"] = max(0, settled - LIMIT_MICRO)
        return counts

    async def _open(self, number: int) -> MeteredTurn:
        turn = Turn(f"req_{number:x}", (Message("user", "hello"),))
        disclosure = Disclosure(turn.request_id, utc_now(), tier="only", model="m")
        plan = Plan([MODEL], 0, lambda _: LONGEST_TOKENS)
        metered = await self._meter.open(turn, self._tenant, self._policy, disclosure, plan)
        metered.asked(MODEL, 0)
        return metered

    @staticmethod
    async def _settle(metered: MeteredTurn, n_tokens: int) -> None:
        await metered.close("complete", ReplyEnd(Usage(0, n_tokens)))


async def measure(socket: str, repeats: int) -> None:
    draw = random.Random(7)
    async with Redis(unix_socket_path=socket) as redis:
        for share in (0, 0.01, 0.02, 0.05, 0.08):
            total: Counter[str] = Counter()
            passed = 0
            for repeat in range(repeats):
                counts = await Round(
                    redis, f"t{share}-{repeat}", round(LIMIT_MICRO * share), draw
                ).run()
                passed = max(passed, counts.pop("passed by"))
                total += counts
            n_asked = repeats * N_AT_ONCE
            print(
                f"overshoot {share:.0%} of the limit: {total['falsely']} of {n_asked} turns "
                f"refused falsely ({total['falsely'] / n_asked:.2%}), {total['kept short']} kept "
                f"short, {total['cut']} answers cut ({total['cut'] / n_asked:.3%}); passed the "
                f"limit by at most {passed / LIMIT_MICRO:.2%}"
            )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=200)
    repeats = parser.parse_args().repeats
    with own_redis() as socket:
        asyncio.run(measure(socket, repeats))


if __name__ == "__main__":
    main()
