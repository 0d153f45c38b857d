from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import DataError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from gateway.state import GuardedRedis, RedisAway, open_redis
from tests.conftest import redis_executable


class Server:
    """A Redis of the test's own, to freeze and to kill."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "r.sock"
        self._folder = folder
        self.start()

    def start(self) -> None:
        command = [redis_executable(), "--port", "0", "--unixsocket", str(self.socket)]
        command += ["--save", "", "--dir", str(self._folder)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def freeze(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="tw-") as folder:
        server = Server(Path(folder))
        yield server
        server.thaw() if server.process.poll() is None else None
        server.kill()


@asynccontextmanager
async def opened(socket: Path) -> AsyncIterator[GuardedRedis]:
    redis = open_redis(f"unix://{socket}")
    try:
        yield redis
    finally:
        await redis.aclose()


@pytest.fixture
async def handle(redis_server: Path, redis: object) -> AsyncIterator[GuardedRedis]:
    async with opened(redis_server) as handle:
        yield handle


async def until_answering(redis: GuardedRedis) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                await redis.ping()
                return
            except (RedisConnectionError, RedisTimeoutError):
                await asyncio.sleep(0.02)


async def test_replies_are_translated_as_redis_py_does(handle: GuardedRedis) -> None:
    assert await handle.set("a", 1) is True
    assert await handle.get("a") == b"1"
    await handle.hset("h", mapping={"x": 1, "y": "zwei"})
    assert await handle.hgetall("h") == {b"x": b"1", b"y": b"zwei"}
    await handle.zadd("z", {"m": 1.5})
    assert await handle.zrange("z", 0, -1, withscores=True) == [(b"m", 1.5)]
    assert (await handle.info("server"))["tcp_port"] == 0
    assert await handle.config_get("maxmemory") == {"maxmemory": "0"}


async def test_every_caller_gets_the_reply_to_its_own_command(handle: GuardedRedis) -> None:
    async def echo(n: int) -> bool:
        return await handle.execute_command("ECHO", f"{n}" * 50) == (f"{n}" * 50).encode()

    assert all(await asyncio.gather(*(echo(n) for n in range(500))))


async def test_a_cancelled_caller_does_not_shift_the_replies_of_others(
    handle: GuardedRedis,
) -> None:
    await handle.ping()
    async with asyncio.TaskGroup() as group:
        first = group.create_task(handle.execute_command("ECHO", "first"))
        second = group.create_task(handle.execute_command("ECHO", "second"))
        await asyncio.sleep(0)
        first.cancel()
    assert second.result() == b"second"
    assert await handle.execute_command("ECHO", "third") == b"third"


async def test_an_error_reply_is_raised_and_leaves_the_breaker_closed(
    handle: GuardedRedis,
) -> None:
    await handle.set("a", "text")
    with pytest.raises(ResponseError, match="WRONGTYPE|wrong kind"):
        await handle.lpush("a", 1)
    assert await handle.get("a") == b"text"


async def test_an_argument_that_redis_cannot_take_is_refused(handle: GuardedRedis) -> None:
    with pytest.raises(DataError):
        await handle.set("a", object())  # type: ignore[arg-type]
    assert await handle.ping()


async def test_registered_scripts_load_themselves(handle: GuardedRedis) -> None:
    script = handle.register_script("return {KEYS[1], ARGV[1]}")
    assert await script(keys=["k"], args=["v"]) == [b"k", b"v"]
    await handle.script_flush()
    assert await script(keys=["k"], args=["w"]) == [b"k", b"w"]


async def test_pipelines_run_scripts_that_the_server_has_not_seen(handle: GuardedRedis) -> None:
    script = handle.register_script("return ARGV[1] .. '!'")
    async with handle.pipeline(transaction=False) as pipeline:
        pipeline.set("a", 1)
        await script(args=["hey"], client=pipeline)
        assert await pipeline.execute() == [True, b"hey!"]


@pytest.mark.parametrize("is_transaction", [True, False])
async def test_pipelines_return_translated_replies_in_order(
    handle: GuardedRedis, is_transaction: bool
) -> None:
    async with handle.pipeline(transaction=is_transaction) as pipeline:
        pipeline.set("a", 1).hset("h", "x", 1).hgetall("h").get("nothing")
        assert await pipeline.execute() == [True, 1, {b"x": b"1"}, None]


@pytest.mark.parametrize("is_transaction", [True, False])
async def test_pipelines_raise_the_first_error_or_return_it(
    handle: GuardedRedis, is_transaction: bool
) -> None:
    await handle.set("a", "text")
    with pytest.raises(ResponseError, match="Command # 2"):
        await handle.pipeline(transaction=is_transaction).get("a").lpush("a", 1).execute()
    replies = await (
        handle.pipeline(transaction=is_transaction).lpush("a", 1).get("a").execute(False)
    )
    assert isinstance(replies[0], ResponseError)
    assert replies[1] == b"text"


async def test_a_transaction_that_redis_discards_is_an_error(handle: GuardedRedis) -> None:
    with pytest.raises(ResponseError, match="wrong number"):
        await handle.pipeline().set("a", 1).execute_command("GET").execute()
    assert await handle.get("a") is None


async def test_watching_pipelines_still_notice_other_writers(handle: GuardedRedis) -> None:
    from redis.exceptions import WatchError

    async with handle.pipeline() as pipeline:
        await pipeline.watch("a")
        await handle.set("a", "other")
        pipeline.multi()
        pipeline.set("a", "mine")
        with pytest.raises(WatchError):
            await pipeline.execute()


async def test_a_frozen_server_times_out_once_and_is_then_refused_at_once(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "turnwise.redis")
    async with opened(server.socket) as redis:
        await until_answering(redis)
        caplog.clear()
        server.freeze()
        with pytest.raises(RedisTimeoutError):
            await redis.get("a")
        for call in (redis.get("a"), redis.pipeline().get("a").execute(), redis.ping()):
            with pytest.raises(RedisAway):
                await call
        server.thaw()
        await until_answering(redis)
        assert await redis.set("a", 1)
    lines = [record.getMessage() for record in caplog.records]
    assert [("does not answer" in line, "answers again" in line) for line in lines] == [
        (True, False),
        (False, True),
    ]


async def test_everyone_who_waits_for_a_frozen_server_fails_together(server: Server) -> None:
    async with opened(server.socket) as redis:
        await until_answering(redis)
        server.freeze()
        failures = await asyncio.gather(
            *(redis.get(f"k{n}") for n in range(50)), return_exceptions=True
        )
        assert all(isinstance(failure, RedisTimeoutError) for failure in failures)


async def test_a_server_that_was_started_again_is_found_again(server: Server) -> None:
    async with opened(server.socket) as redis:
        await until_answering(redis)
        server.kill()
        server.start()
        await until_answering(redis)
        assert await redis.set("a", 1)


async def test_a_server_that_is_not_there_is_away_after_the_first_caller(tmp_path: Path) -> None:
    async with opened(tmp_path / "nothing.sock") as redis:
        with pytest.raises(RedisConnectionError):
            await redis.ping()
        with pytest.raises(RedisAway):
            await redis.ping()


async def test_timeouts_leave_no_connections_behind(server: Server) -> None:
    async with opened(server.socket) as redis:
        for _ in range(3):
            await until_answering(redis)
            server.freeze()
            with pytest.raises(RedisTimeoutError):
                await redis.get("a")
            server.thaw()
        await until_answering(redis)
        names = [client["cmd"] for client in await redis.client_list()]
        assert len(names) <= 2
