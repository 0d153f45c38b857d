"""A real Redis Cluster of three nodes for tests, without replicas."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from tests.conftest import redis_executable

N_NODES = 3
N_SLOTS = 16384


@contextmanager
def redis_cluster(folder: Path) -> Iterator[list[int]]:
    """Yield the ports of a cluster that serves every slot; its nodes live in the folder."""
    ports, processes = _free_ports(N_NODES), []
    try:
        for port in ports:
            (folder / str(port)).mkdir()
            command = [redis_executable(), "--port", str(port), "--cluster-enabled", "yes"]
            command += ["--dir", str(folder / str(port)), "--save", "", "--bind", "127.0.0.1"]
            command += ["--logfile", str(folder / str(port) / "log")]
            processes.append(subprocess.Popen(command))
        _join(ports)
        yield ports
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _free_ports(n: int) -> list[int]:
    with_sockets = [socket.socket() for _ in range(n)]
    try:
        for each in with_sockets:
            each.bind(("127.0.0.1", 0))
        # The bus listens ten thousand above: both stay below the ports that clients are given.
        return [10_000 + each.getsockname()[1] % 10_000 for each in with_sockets]
    finally:
        for each in with_sockets:
            each.close()


def _join(ports: list[int]) -> None:
    nodes = [Redis(port=port) for port in ports]
    _wait_for(lambda: all(_answers(node) for node in nodes))
    share = N_SLOTS // N_NODES + 1
    for n, node in enumerate(nodes):
        slots = range(n * share, min((n + 1) * share, N_SLOTS))
        node.execute_command("CLUSTER", "ADDSLOTS", *slots)
        node.execute_command("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
    for node in nodes[1:]:
        node.execute_command("CLUSTER", "MEET", "127.0.0.1", ports[0])
    _wait_for(lambda: all(_is_whole(node) for node in nodes))
    for node in nodes:
        node.close()


def _wait_for(holds: Callable[[], bool], limit_s: float = 30.0) -> None:
    deadline_s = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline_s, "the cluster does not come up"
        time.sleep(0.02)


def _answers(node: Redis) -> bool:
    try:
        return bool(node.ping())
    except (RedisError, OSError):  # it is still starting
        return False


def _is_whole(node: Redis) -> bool:
    told = node.execute_command("CLUSTER", "INFO")
    text = (
        told
        if isinstance(told, dict)
        else dict(line.split(":") for line in told.decode().split() if ":" in line)
    )
    return text["cluster_state"] == "ok" and text["cluster_known_nodes"] == str(N_NODES)
