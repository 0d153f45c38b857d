"""Whether an append costs the same at turn 10,000 as at turn 10.

    python -m benchmarks.memory.append [--turns 10000] [--samples 1000]

Starts its own Redis (AOF, fsync every second). Appends to a short and to a long conversation in
turn, so that whatever else runs on the machine slows both alike. Times are wall clock.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import time
from datetime import UTC, datetime

from redis.asyncio import Redis

from benchmarks.memory.latency import redis_server, text_of
from memory import ConversationStore, Message

_BATCH = 500


async def measure(store: ConversationStore, n_turns: int, n_samples: int) -> dict[str, list[float]]:
    """Return sorted times in ms of appends to conversations of about 10 and of n_turns turns."""
    for start in range(0, 2 * n_turns, _BATCH):
        batch = [Message("user", text_of(25)) for _ in range(_BATCH)]
        await store.append("bench", "long", batch, create=start == 0)
    times: dict[str, list[float]] = {"turn 10": [], f"turn {n_turns}": []}
    for i in range(n_samples):
        message = Message("user", text_of(25))
        for name, where in zip((f"short-{i // 10}", "long"), times, strict=True):
            started_s = time.perf_counter()
            await store.append("bench", name, [message], idempotency_key=f"{i}", create=True)
            times[where].append((time.perf_counter() - started_s) * 1000)
    return {name: sorted(values) for name, values in times.items()}


async def main(n_turns: int, n_samples: int) -> None:
    with redis_server() as socket:
        redis = Redis(unix_socket_path=socket)
        store = ConversationStore(redis, lambda: datetime.now(UTC), lambda: secrets.token_hex(16))
        times = await measure(store, n_turns, n_samples)
        await redis.aclose()
    p95 = []
    for name, values in times.items():
        picks = [values[int(len(values) * q)] for q in (0.5, 0.95, 0.99)]
        p95.append(picks[1])
        print(f"append at {name:12} p50 %6.2f  p95 %6.2f  p99 %6.2f ms" % tuple(picks))
    print(f"p95 of the long one over the short one: {p95[1] / p95[0]:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=10_000)
    parser.add_argument("--samples", type=int, default=1000)
    options = parser.parse_args()
    asyncio.run(main(options.turns, options.samples))
