"""The gateway's handle on a real Redis Cluster: every slot, slots that move, a frozen node."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.crc import key_slot
from redis.exceptions import RedisError

from gateway.errors import WrongServer
from gateway.redis_cluster import ClusterLink, key_of
from gateway.state import GuardedRedis, check_mode, open_redis
from tests.fakes import until
from tests.redis_cluster import redis_cluster

KEYS = [f"k{{{n}}}" for n in range(24)]  # names enough to lie on every node


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[int]]:
    folder: Path = tmp_path_factory.mktemp("cluster")
    with redis_cluster(folder) as ports:
        yield ports


@pytest.fixture
async def handle(ports: list[int]) -> AsyncIterator[GuardedRedis]:
    for port in ports:
        Redis(port=port).flushall()
    handle = open_redis(f"redis://127.0.0.1:{ports[0]}", is_cluster=True, timeout_s=2.0)
    yield handle
    await handle.aclose()


def nodes_of(ports: list[int], key: str) -> tuple[Redis, Redis]:
    """Return the node that owns a key and one that does not."""
    nodes = [Redis(port=port) for port in ports]

    def owns(node: Redis) -> bool:
        try:
            node.exists(key)
        except RedisError:
            return False
        return True

    owner = next(node for node in nodes if owns(node))
    return owner, next(node for node in nodes if node is not owner)


def pid_of(ports: list[int], key: str) -> int:
    """Return the process that owns a key."""
    return int(nodes_of(ports, key)[0].info("server")["process_id"])


@pytest.mark.parametrize(
    ("args", "key"),
    [
        (("GET", "a"), b"a"),
        (("EVALSHA", "5ha", 2, b"a", "b", 1), b"a"),
        (("EVAL", "return 1", 0), None),
        (("XREADGROUP", b"GROUP", "g", "c", b"COUNT", 4, b"STREAMS", "s", ">"), b"s"),
        (("XGROUP CREATE", "s", "g", "0"), b"s"),
        (("SCAN", "0", b"MATCH", "tw:{t:acme}:*", b"COUNT", 10), b"tw:{t:acme}:*"),
        (("INFO",), None),
    ],
)
def test_a_commands_key_is_found_where_it_stands(args: tuple[object, ...], key: bytes) -> None:
    assert key_of(args) == key


async def test_commands_scripts_and_pipelines_reach_every_node(
    handle: GuardedRedis, ports: list[int]
) -> None:
    assert await handle.ping()
    double = handle.register_script("return redis.call('INCRBY', KEYS[1], 2 * ARGV[1])")
    for n, key in enumerate(KEYS):
        assert await handle.set(key, 0)
        assert await double(keys=[key], args=[n]) == 2 * n
    async with handle.pipeline(transaction=False) as pipeline:
        for key in KEYS:
            pipeline.get(key)
        assert await pipeline.execute() == [b"%d" % (2 * n) for n in range(len(KEYS))]
    async with handle.pipeline(transaction=True) as pipeline:
        pipeline.incr(KEYS[5])
        pipeline.get(KEYS[5])
        assert await pipeline.execute() == [11, b"11"]
    assert all(Redis(port=port).dbsize() > 0 for port in ports)


async def test_a_scan_finds_the_keys_of_one_tag_wherever_they_lie(handle: GuardedRedis) -> None:
    for key in KEYS:
        await handle.set(f"{key}:one", 1)
    found = [[each async for each in handle.scan_iter(f"{key}:*")] for key in KEYS]
    assert found == [[f"{key}:one".encode()] for key in KEYS]


async def test_a_slot_that_moves_is_followed_before_and_after_its_end(
    handle: GuardedRedis, ports: list[int]
) -> None:
    key = "moving"
    await handle.set(key, "before")
    owner, other = nodes_of(ports, key)
    slot = key_slot(key.encode())
    owner_id, other_id = (node.execute_command("CLUSTER MYID") for node in (owner, other))
    other.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", owner_id)
    owner.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", other_id)
    to = other.connection_pool.connection_kwargs["port"]
    owner.execute_command("MIGRATE", "127.0.0.1", to, key, 0, 5000)
    assert await handle.get(key) == b"before"  # asked for where it is going
    for node in (other, owner):
        node.execute_command("CLUSTER SETSLOT", slot, "NODE", other_id)
    assert await handle.get(key) == b"before"  # found where it has gone
    async with handle.pipeline(transaction=True) as pipeline:
        pipeline.set(key, "after")
        pipeline.get(key)
        assert await pipeline.execute() == [True, b"after"]


async def test_a_transaction_on_a_slot_that_moved_is_sent_to_its_new_owner(
    handle: GuardedRedis, ports: list[int]
) -> None:
    key = "moved"
    await handle.get(key)
    owner, other = nodes_of(ports, key)
    other_id = other.execute_command("CLUSTER MYID")
    for node in (other, owner):
        node.execute_command("CLUSTER SETSLOT", key_slot(key.encode()), "NODE", other_id)
    async with handle.pipeline(transaction=True) as pipeline:
        pipeline.set(key, "1")
        pipeline.incr(key)
        assert await pipeline.execute() == [True, 2]


async def test_a_frozen_node_costs_its_own_keys_one_wait_and_others_nothing(
    ports: list[int],
) -> None:
    handle = open_redis(f"redis://127.0.0.1:{ports[0]}", is_cluster=True, timeout_s=0.2)
    key = KEYS[0]
    await handle.set(key, 1)
    pid = pid_of(ports, key)
    elsewhere = next(each for each in KEYS if pid_of(ports, each) != pid)
    await handle.set(elsewhere, 1)
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(RedisError):
            await handle.get(key)
        with pytest.raises(RedisError, match="does not answer"):
            await handle.get(key)
        assert await handle.get(elsewhere) == b"1"
    finally:
        os.kill(pid, signal.SIGCONT)

    async def is_back() -> bool:
        try:
            return await handle.get(key) == b"1"
        except RedisError:
            return False

    await until(is_back)
    await handle.aclose()


async def test_a_node_of_a_cluster_is_not_taken_for_a_single_server(ports: list[int]) -> None:
    handle = open_redis(f"redis://127.0.0.1:{ports[0]}", timeout_s=2.0)
    with pytest.raises(WrongServer, match="redis.cluster: true"):
        await check_mode(handle, is_cluster=False)
    await handle.aclose()


async def test_a_single_server_is_not_taken_for_a_cluster(redis_server: Path) -> None:
    handle = open_redis(f"unix://{redis_server}", timeout_s=2.0)
    await check_mode(handle, is_cluster=False)
    taken = GuardedRedis.from_pool(handle.connection_pool)
    taken.link = ClusterLink(("localhost", 0), lambda _: handle.link)
    with pytest.raises(WrongServer, match="no cluster"):
        await check_mode(taken, is_cluster=True)
    await handle.aclose()
