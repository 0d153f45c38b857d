"""Memory over the handle that the gateway hands it: one shared connection, short timeouts."""

from __future__ import annotations

import asyncio
import itertools
from datetime import UTC, datetime
from pathlib import Path

from redis.asyncio import Redis

from gateway.state import open_redis
from memory import ConversationStore, Memory, MemoryConfig, Message
from memory.embedder import DIMENSIONS
from memory.embedding_cache import EmbeddingCache
from memory.jobs import JobQueue
from memory.journal import Journal
from memory.summary_keeper import SummaryKeeper
from memory.vector_store import VectorStore
from tests.memory.fakes import FakeEmbedder


def words(text: str) -> int:
    return len(text.split())


async def test_every_part_of_memory_works_on_it(
    redis_server: Path, redis: Redis, tmp_path: Path
) -> None:
    handle = open_redis(f"unix://{redis_server}", timeout_s=5)
    numbers = itertools.count()
    store = ConversationStore(handle, lambda: datetime.now(UTC), lambda: f"{next(numbers):032x}")
    failures: list[BaseException] = []
    embedder = FakeEmbedder()
    memory = Memory(
        store,
        MemoryConfig(vectors_from_tokens=10),
        encodings=EmbeddingCache(embedder, handle, failures.append),
        vectors=VectorStore(handle, embedder.revision, DIMENSIONS),
        journal=Journal(tmp_path, "a"),
        summaries=SummaryKeeper(handle, JobQueue(handle, "a", failures.append, poll_s=0.01)),
        on_failure=failures.append,
    )
    async with memory:
        opened = await memory.open("acme", "chat", create=True)
        texts = [f"My locker {n} has the code {n}X{n}" for n in range(200)]
        await memory.append(opened, [Message("user", text) for text in texts])
        opened = await memory.open("acme", "chat")
        await memory.append(opened, [Message("user", "thanks")], idempotency_key="k")
        for _ in range(500):
            if await redis.keys("*:segments") and await redis.keys("*:vectors"):
                break
            await asyncio.sleep(0.01)
        opened = await memory.open("acme", "chat")
        question = [Message("user", "the code of locker 17 ?")]
        context = await memory.build_context(
            opened, question, window_tokens=400, count_tokens=words, patience_s=5
        )
        assert "17X17" in context.messages[-2].text
        await memory.delete("acme", "chat")
    assert failures == []
    assert not [key for key in await redis.keys("*:c:*") if not key.endswith(b":gone")]
    await handle.aclose()
