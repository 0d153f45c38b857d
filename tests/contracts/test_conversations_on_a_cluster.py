"""The conversation log on a Redis Cluster of three nodes: every script stays in one slot."""

from __future__ import annotations

import asyncio
import itertools
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from redis import Redis
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
from tests.conftest import redis_executable
from tests.fakes import until

N_NODES = 3
N_SLOTS = 16384


def free_ports(n: int) -> list[int]:
    with_sockets = [socket.socket() for _ in range(n)]
    try:
        for each in with_sockets:
            each.bind(("127.0.0.1", 0))
        # The bus listens ten thousand above: both stay below the ports that clients are given.
        return [10_000 + each.getsockname()[1] % 10_000 for each in with_sockets]
    finally:
        for each in with_sockets:
            each.close()


@pytest.fixture
def ports(tmp_path: Path) -> Iterator[list[int]]:
    ports, processes = free_ports(N_NODES), []
    try:
        for port in ports:
            folder = tmp_path / str(port)
            folder.mkdir()
            command = [redis_executable(), "--port", str(port), "--cluster-enabled", "yes"]
            command += ["--dir", str(folder), "--save", "", "--bind", "127.0.0.1"]
            command += ["--logfile", str(folder / "log")]
            processes.append(subprocess.Popen(command))
        yield ports
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.fixture
async def cluster(ports: list[int]) -> AsyncIterator[RedisCluster]:
    nodes = [Redis(port=port) for port in ports]
    await until(lambda: all(answers(node) for node in nodes))
    share = N_SLOTS // N_NODES + 1
    for n, node in enumerate(nodes):
        slots = range(n * share, min((n + 1) * share, N_SLOTS))
        node.execute_command("CLUSTER", "ADDSLOTS", *slots)
        node.execute_command("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
    for node in nodes[1:]:
        node.execute_command("CLUSTER", "MEET", "127.0.0.1", ports[0])
    await until(lambda: all(is_whole(node) for node in nodes))
    for node in nodes:
        node.close()
    starts = [ClusterNode("127.0.0.1", port) for port in ports]
    client = RedisCluster(startup_nodes=starts, retry=Retry(NoBackoff(), 3))
    # Begun once, before many ask at once: redis-py's own beginning is not safe from them.
    await client.initialize()
    yield client
    await client.aclose()


def answers(node: Redis) -> bool:
    try:
        return bool(node.ping())
    except OSError:
        return False
    except Exception:  # noqa: BLE001 - redis-py's own ConnectionError while it starts
        return False


def is_whole(node: Redis) -> bool:
    told = node.execute_command("CLUSTER", "INFO")
    text = (
        told
        if isinstance(told, dict)
        else dict(line.split(":") for line in told.decode().split() if ":" in line)
    )
    return text["cluster_state"] == "ok" and text["cluster_known_nodes"] == str(N_NODES)


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
