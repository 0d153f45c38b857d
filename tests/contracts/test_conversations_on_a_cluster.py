"""The conversation log on a Redis Cluster of three nodes: every script stays in one slot."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode

from memory import ConversationStore, Draft, Message
from memory.errors import ConversationDeleted
from memory.importing import ImportedItem, ImportHead
from memory.jobs import JobQueue, SummaryJob
from memory.summary_keeper import SummaryKeeper
from memory.traces import Traces, of_conversation
from tests.redis_cluster import redis_cluster


@pytest.fixture
def ports(tmp_path: Path) -> Iterator[list[int]]:
    with redis_cluster(tmp_path) as ports:
        yield ports


@pytest.fixture
async def cluster(ports: list[int]) -> AsyncIterator[RedisCluster]:
    starts = [ClusterNode("127.0.0.1", port) for port in ports]
    client = RedisCluster(startup_nodes=starts, retry=Retry(NoBackoff(), 3))
    # Begun once, before many ask at once: redis-py's own beginning is not safe from them.
    await client.initialize()
    yield client
    await client.aclose()


@pytest.mark.slow
async def test_a_conversation_lives_and_dies_on_a_cluster(cluster: RedisCluster) -> None:
    numbers = itertools.count(1)
    store = ConversationStore(cluster, lambda: datetime.now(UTC), lambda: f"{next(numbers):032x}")
    for n in range(12):  # names enough to lie on every node
        name, text = f"chat {n}", Message("user", f"The code is {n}X{n}.")
        await asyncio.gather(
            *(
                store.append("acme", name, [text], idempotency_key=f"k{i % 20}", create=True)
                for i in range(40)
            )
        )
        page = await store.items("acme", name, limit=100, order="asc")
        assert [item.seq for item in page.items] == list(range(1, 21))
        run = store.importing("acme", f"copy {n}", ImportHead(datetime.now(UTC)))
        await run.add([ImportedItem(Draft(text)) for _ in range(40)])
        assert run.n_new == 40
        await store.redact("acme", name, page.items[0].id)
        assert await store.delete("acme", name)
        with pytest.raises(ConversationDeleted):
            await store.append("acme", name, [text])


@pytest.mark.slow
async def test_summaries_and_kept_answers_work_on_a_cluster(cluster: RedisCluster) -> None:
    failures: list[BaseException] = []
    traces = Traces(cluster)
    await traces.keep("acme", "tw:{t:acme}:idem:x", b"v", ttl_s=60, subjects=[of_conversation("c")])
    assert await traces.forget("acme", of_conversation("c")) == 1
    numbers = itertools.count(1)
    store = ConversationStore(cluster, lambda: datetime.now(UTC), lambda: f"{next(numbers):032x}")
    conversation = await store.create("acme")
    texts = [Message("user", f"My locker {n} has code {n}X{n}") for n in range(32)]
    await store.append("acme", conversation.id, texts)
    queue = JobQueue(cluster, "a", failures.append)
    await queue.prepare()
    await queue.put(SummaryJob("acme", conversation.id, 0, 32))
    assert await queue.work_once(SummaryKeeper(cluster, queue).make) == 1
    loaded = await store.load("acme", conversation.id)
    assert loaded is not None
    assert loaded.segments is not None
    assert "locker" in loaded.segments[0, 32]
    assert failures == []
