from __future__ import annotations

import numpy as np
from redis.asyncio import Redis

from memory.embedding_cache import EmbeddingCache
from tests.memory.fakes import FakeEmbedder


async def test_a_text_is_encoded_once(redis: Redis) -> None:
    embedder = FakeEmbedder()
    cache = EmbeddingCache(embedder, redis)
    first = await cache.encode("acme", "hello  there")
    again = await cache.encode("acme", "hello there\n")
    assert again is first
    assert embedder.asked == ["hello there"]


async def test_another_process_finds_it_in_redis(redis: Redis) -> None:
    made = await EmbeddingCache(FakeEmbedder(), redis).encode("acme", "hello")
    other = FakeEmbedder()
    found = await EmbeddingCache(other, redis).encode("acme", "hello")
    assert other.asked == []
    assert np.array_equal(found.sentence, made.sentence)
    assert np.array_equal(found.tokens, made.tokens)


async def test_tenants_do_not_share_entries(redis: Redis) -> None:
    embedder = FakeEmbedder()
    cache = EmbeddingCache(embedder, redis)
    await cache.encode("acme", "hello")
    await cache.encode("other", "hello")
    assert embedder.asked == ["hello", "hello"]
    keys = await redis.keys()
    assert len({key.rsplit(b":", 1)[-1] for key in keys}) == 2


async def test_a_corrupt_entry_is_computed_anew(redis: Redis) -> None:
    await EmbeddingCache(FakeEmbedder(), redis).encode("acme", "hello")
    (key,) = await redis.keys()
    await redis.set(key, b"\xff\xff\x00")
    embedder = FakeEmbedder()
    await EmbeddingCache(embedder, redis).encode("acme", "hello")
    assert embedder.asked == ["hello"]


async def test_a_dead_redis_is_told_and_survived(redis: Redis) -> None:
    gone = Redis(unix_socket_path="/nonexistent/redis.sock")
    failures: list[BaseException] = []
    cache = EmbeddingCache(FakeEmbedder(), gone, failures.append)
    await cache.encode("acme", "hello")
    assert len(failures) == 2
    await gone.aclose()


async def test_the_process_keeps_only_so_many() -> None:
    embedder = FakeEmbedder()
    cache = EmbeddingCache(embedder, max_entries=1)
    for text in ("a", "b", "a"):
        await cache.encode("acme", text)
    assert embedder.asked == ["a", "b", "a"]
