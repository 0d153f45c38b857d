"""Acknowledged items survive kill -9 of Redis, once each and without a gap."""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from memory import ConversationStore, Message
from tests.conftest import redis_executable


class Server:
    """A Redis with an append-only file that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "redis.sock"
        self._command = [redis_executable(), "--port", "0", "--unixsocket", str(self.socket)]
        self._command += ["--dir", str(folder), "--appendonly", "yes", "--save", ""]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.socket.unlink(missing_ok=True)
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        while not self.socket.exists():
            time.sleep(0.01)

    def kill(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()


@pytest.fixture
def server() -> Iterator[Server]:
    folder = Path(tempfile.mkdtemp(prefix="tw-"))
    server = Server(folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
async def test_killing_redis_loses_and_doubles_no_acknowledged_item(server: Server) -> None:
    redis = Redis(unix_socket_path=str(server.socket), socket_timeout=2)
    rng = random.Random(1)
    store = ConversationStore(
        redis, lambda: datetime.now(UTC), lambda: f"{rng.getrandbits(128):032x}"
    )
    acknowledged: list[str] = []

    async def write(writer: int) -> None:
        for n in range(12):
            text = f"{writer}-{n}"
            for _ in range(1 + (rng.random() < 0.3)):  # some are sent again although they arrived
                await until_stored(text)
            acknowledged.append(text)

    async def until_stored(text: str) -> None:
        while True:
            try:
                message = Message("user", text)
                await store.append("acme", "chat", [message], idempotency_key=text, create=True)
                return
            except (RedisError, OSError, TimeoutError):
                await asyncio.sleep(0.02)

    async def crash() -> None:
        for _ in range(2):
            await asyncio.sleep(0.1)
            server.kill()
            await asyncio.to_thread(server.start)

    await asyncio.gather(crash(), *(write(writer) for writer in range(64)))
    loaded = await store.load("acme", "chat", max_items=1000)
    assert loaded is not None
    assert [item.seq for item in loaded.items] == list(range(1, 64 * 12 + 1))
    assert sorted(item.message.text for item in loaded.items) == sorted(acknowledged)
    await redis.aclose()
