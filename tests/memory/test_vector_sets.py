from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import numpy as np
import pytest
from redis.asyncio import Redis

from memory import ConversationStore, Memory, MemoryConfig
from memory.embedder import DIMENSIONS, OnnxEmbedder
from memory.embedding_cache import EmbeddingCache
from memory.opened import OpenConversation
from memory.vector_sets import VectorSets
from memory.vector_store import VectorStore
from tests.memory.test_vector_keeper import user, words

PUPPIES = "I adopted two puppies from the shelter"


@pytest.fixture(scope="module")
def embedder() -> Iterator[OnnxEmbedder]:
    embedder = OnnxEmbedder.from_folder()
    yield embedder
    embedder.close()


@pytest.fixture
async def sets(redis: Redis, embedder: OnnxEmbedder) -> VectorSets:
    sets = VectorSets(redis, embedder.revision, DIMENSIONS)
    if not await sets.is_available():
        pytest.skip("no vector sets in this Redis: --redis-server PATH of one from 8.0 on")
    return sets


@pytest.fixture
def failures() -> list[BaseException]:
    return []


@pytest.fixture
async def memory(
    store: ConversationStore,
    redis: Redis,
    sets: VectorSets,
    embedder: OnnxEmbedder,
    failures: list[BaseException],
) -> AsyncIterator[Memory]:
    async with Memory(
        store,
        MemoryConfig(vectors_from_tokens=10, vectors_held_items=50, query_patience_s=5),
        encodings=EmbeddingCache(embedder, redis),
        vectors=VectorStore(redis, embedder.revision, DIMENSIONS),
        sets=sets,
        on_failure=failures.append,
    ) as memory:
        yield memory
    assert failures == []


async def filled(memory: Memory, n_items: int = 80) -> OpenConversation:
    opened = await memory.open("acme", "chat", create=True)
    texts = [f"Invoice {n} was paid by bank transfer" for n in range(n_items)]
    texts[7] = PUPPIES
    await memory.append(opened, [user(text) for text in texts], retention_s=1000)
    return opened


async def ask(memory: Memory, opened: OpenConversation) -> str:
    context = await memory.build_context(
        opened,
        [user("Does she own any dogs?")],
        window_tokens=150,
        count_tokens=words,
        patience_s=30,
    )
    return context.messages[-2].text


async def test_a_very_long_conversation_is_searched_in_its_set_and_not_held(
    memory: Memory, redis: Redis
) -> None:
    opened = await filled(memory)
    assert PUPPIES in await ask(memory, opened)
    assert opened.remembered is not None
    assert (opened.remembered.n_in_set, len(opened.remembered.vectors)) == (80, 0)
    (key,) = await redis.keys("*:set")
    assert key.startswith(b"tw:{t:acme:c:")
    assert await redis.execute_command("VCARD", key) == 80
    assert 0 < await redis.ttl(key) <= 1000
    await memory.append(opened, [user("It is raining")])
    await ask(memory, opened)
    assert await redis.execute_command("VCARD", key) == 81


async def test_what_a_process_held_before_moves_to_the_set(memory: Memory, redis: Redis) -> None:
    opened = await filled(memory, 40)
    assert PUPPIES in await ask(memory, opened)
    assert await redis.keys("*:set") == []
    await memory.append(opened, [user(f"Parcel {n} came") for n in range(30)])
    assert PUPPIES in await ask(memory, opened)
    assert opened.remembered is not None
    assert (opened.remembered.n_in_set, len(opened.remembered.vectors)) == (70, 0)


async def test_deleting_a_conversation_deletes_its_set_and_a_late_vector_is_refused(
    memory: Memory, redis: Redis, sets: VectorSets
) -> None:
    opened = await filled(memory)
    await ask(memory, opened)
    assert opened.remembered is not None
    await memory.delete("acme", "chat")
    assert await redis.keys("*:set") == []
    assert await sets.catch_up(opened.remembered.loaded) == -1
    assert await redis.keys("*:set") == []


async def test_a_redacted_item_leaves_the_set(memory: Memory, redis: Redis) -> None:
    opened = await filled(memory)
    await ask(memory, opened)
    await memory.store.redact("acme", "chat", opened.items[7].id)
    assert await redis.keys("*:set") == []
    again = await memory.open("acme", "chat")
    quoted = await ask(memory, again)
    assert PUPPIES not in quoted
    (key,) = await redis.keys("*:set")
    assert await redis.execute_command("VCARD", key) == 79
    assert await redis.execute_command("VEMB", key, "7") is None


async def test_another_encoder_begins_the_set_anew(memory: Memory, redis: Redis) -> None:
    opened = await filled(memory)
    await ask(memory, opened)
    assert opened.remembered is not None
    newer = VectorStore(redis, "newer", DIMENSIONS)
    assert await newer.put(opened.remembered.loaded, 0, [np.ones((3, DIMENSIONS), np.int8)]) == 1
    assert await redis.keys("*:set") == []


async def test_a_server_without_vector_sets_leaves_the_vectors_in_the_process(
    store: ConversationStore, redis: Redis, embedder: OnnxEmbedder, failures: list[BaseException]
) -> None:
    absent = VectorSets(redis, embedder.revision, DIMENSIONS)
    absent._is_available = False if await absent.is_available() else absent._is_available
    async with Memory(
        store,
        MemoryConfig(vectors_from_tokens=10, vectors_held_items=50, query_patience_s=5),
        encodings=EmbeddingCache(embedder, redis),
        vectors=VectorStore(redis, embedder.revision, DIMENSIONS),
        sets=absent,
        on_failure=failures.append,
    ) as memory:
        opened = await filled(memory)
        assert PUPPIES in await ask(memory, opened)
        assert opened.remembered is not None
        assert len(opened.remembered.vectors) == 80
    assert failures == []
