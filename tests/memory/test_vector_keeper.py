from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from redis.asyncio import Redis

from memory import ConversationStore, Item, Memory, MemoryConfig, Message
from memory.conversation import Context
from memory.embedder import DIMENSIONS
from memory.embedding_cache import EmbeddingCache
from memory.opened import OpenConversation
from memory.remembered import said_before
from memory.vector_store import VectorStore
from tests.memory.fakes import FakeEmbedder


def user(text: str) -> Message:
    return Message("user", text)


def words(text: str) -> int:
    return len(text.split())


@asynccontextmanager
async def running(
    store: ConversationStore, redis: Redis, embedder: FakeEmbedder, failures: list[BaseException]
) -> AsyncIterator[Memory]:
    memory = Memory(
        store,
        MemoryConfig(vectors_from_tokens=10),
        encodings=EmbeddingCache(embedder, redis),
        vectors=VectorStore(redis, embedder.revision, DIMENSIONS),
        on_failure=failures.append,
    )
    async with memory:
        yield memory


async def filled(memory: Memory, n_items: int = 100) -> OpenConversation:
    opened = await memory.open("acme", "chat", create=True)
    texts = [f"note {n} about the weather" for n in range(n_items)]
    await memory.append(opened, [user(text) for text in texts])
    return opened


async def ask(memory: Memory, opened: OpenConversation, text: str) -> Context:
    return await memory.build_context(
        opened, [user(text)], window_tokens=200, count_tokens=words, patience_s=5
    )


@pytest.fixture
def failures() -> list[BaseException]:
    return []


async def test_items_get_vectors_that_the_next_process_loads(
    store: ConversationStore, redis: Redis, failures: list[BaseException]
) -> None:
    first, second = FakeEmbedder(), FakeEmbedder()
    async with running(store, redis, first, failures) as memory:
        await ask(memory, await filled(memory), "note 3?")
    async with running(store, redis, second, failures) as memory:
        opened = await memory.open("acme", "chat")
        await ask(memory, opened, "note 3?")
        assert opened.remembered is not None
        assert len(opened.remembered.vectors) == 100
    assert len(first.asked) == 101  # the items and the query
    assert second.asked == []
    assert failures == []


async def test_two_processes_store_each_vector_once(
    store: ConversationStore, redis: Redis, failures: list[BaseException]
) -> None:
    async with (
        running(store, redis, FakeEmbedder(), failures) as one,
        running(store, redis, FakeEmbedder(), failures) as two,
    ):
        opened = await filled(one, 300)
        other = await two.open("acme", "chat")
        await asyncio.gather(ask(one, opened, "hi"), ask(two, other, "hi"))
    (key,) = await redis.keys("*:vectors")
    assert await redis.llen(key) == 300
    assert failures == []


async def test_vectors_of_another_encoder_are_made_anew(
    store: ConversationStore, redis: Redis, failures: list[BaseException]
) -> None:
    async with running(store, redis, FakeEmbedder(), failures) as memory:
        await ask(memory, await filled(memory), "hi")
    newer = FakeEmbedder()
    newer.revision = "fake-2"
    async with running(store, redis, newer, failures) as memory:
        await ask(memory, await memory.open("acme", "chat"), "hi")
    assert len(newer.asked) == 101


async def test_a_deleted_conversation_gets_no_vectors(
    store: ConversationStore, redis: Redis, failures: list[BaseException]
) -> None:
    async with running(store, redis, FakeEmbedder(), failures) as memory:
        opened = await filled(memory)
        await memory.delete("acme", "chat")
        await ask(memory, opened, "hi")
    assert await redis.keys("*:vectors") == []


async def test_a_busy_encoder_leaves_recall_by_words(
    store: ConversationStore, redis: Redis, failures: list[BaseException]
) -> None:
    embedder = FakeEmbedder()
    embedder.is_busy = True
    async with running(store, redis, embedder, failures) as memory:
        context = await ask(memory, await filled(memory), "note 3?")
    assert "note 3 about" in context.messages[-2].text
    assert failures


async def test_a_query_in_a_foreign_script_is_not_encoded(
    store: ConversationStore, redis: Redis, failures: list[BaseException]
) -> None:
    embedder = FakeEmbedder()
    async with running(store, redis, embedder, failures) as memory:
        await ask(memory, await filled(memory), "मौसम कैसा है?")
    assert "मौसम कैसा है?" not in embedder.asked


def test_an_items_vectors_lean_on_two_items_of_its_session() -> None:
    start = datetime(2026, 5, 1, tzinfo=UTC)
    hours = [0, 0, 0, 5, 5]
    items = [
        Item(f"msg_{n}_a", n + 1, user(str(n)), start + timedelta(hours=hour))
        for n, hour in enumerate(hours)
    ]
    assert [said_before(items, n) for n in range(5)] == [
        "",
        "user: 0",
        "user: 0\nuser: 1",
        "",
        "user: 3",
    ]
