from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from gateway.embedded import EmbeddedRedis, embedded_redis
from gateway.errors import ChildFailed
from gateway.state import open_redis, warn_of_volatility
from tests.conftest import redis_executable
from tests.fakes import until


@asynccontextmanager
async def running(state_dir: Path) -> AsyncIterator[tuple[EmbeddedRedis, Redis]]:
    child, url = embedded_redis(state_dir)
    async with child:
        await child.wait_ready()
        redis = open_redis(url, timeout_s=5.0)
        try:
            yield child, redis
        finally:
            await redis.aclose()


def left_behind(child: EmbeddedRedis) -> subprocess.Popen[bytes]:
    return subprocess.Popen(child._command, stdout=subprocess.DEVNULL)


def version_of_server() -> str:
    told = subprocess.run([redis_executable(), "--version"], capture_output=True, text=True)
    return told.stdout


async def test_data_survives_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, redis):
        await redis.set("a", "kept")
    async with running(tmp_path) as (_, redis):
        assert await redis.get("a") == b"kept"


async def test_data_survives_a_server_that_is_killed_and_comes_back(tmp_path: Path) -> None:
    async with running(tmp_path) as (child, redis):
        await redis.set("a", "kept")
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        await until(lambda: child.n_starts == 2 and child.state == "ready")
    async with running(tmp_path) as (_, redis):
        assert await redis.get("a") == b"kept"


async def test_nothing_is_evicted_and_everything_is_logged(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, redis):
        assert await redis.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert await redis.config_get("appendonly") == {"appendonly": "yes"}


async def test_a_second_gateway_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path):
        second, _ = embedded_redis(tmp_path)
        with pytest.raises(ChildFailed, match=f"another gateway .process {os.getpid()}. uses"):
            async with second:
                pass
    async with running(tmp_path) as (_, redis):
        assert await redis.ping()


async def test_a_server_left_behind_is_shut_down_and_its_data_kept(tmp_path: Path) -> None:
    child, _ = embedded_redis(tmp_path)
    orphan = left_behind(child)
    left = open_redis(child.url, timeout_s=5.0)
    try:
        await until(child._is_answering)
        await left.set("a", "kept")
    finally:
        await left.aclose()
    async with running(tmp_path) as (_, redis):
        assert await redis.get("a") == b"kept"
    assert orphan.wait(20) == 0


async def test_a_long_state_folder_gets_a_short_private_socket(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 120)
    child, _ = embedded_redis(long)
    assert len(str(child.socket_path)) < 100
    assert child.socket_path.parent.stat().st_mode & 0o777 == 0o700
    async with running(long) as (_, redis):
        assert await redis.ping()


async def test_data_of_a_newer_server_is_not_ignored(tmp_path: Path) -> None:
    (tmp_path / "redis" / "appendonlydir").mkdir(parents=True)
    if "v=6" not in version_of_server():
        pytest.skip("the server found here is new enough to read it")
    with pytest.raises(ChildFailed, match="Redis 7"):
        embedded_redis(tmp_path)


async def test_a_redis_that_keeps_nothing_is_warned_about(
    redis: Redis, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await warn_of_volatility(redis)
    assert "keeps nothing on disk" in caplog.text
    caplog.clear()
    async with running(tmp_path) as (_, durable):
        await warn_of_volatility(durable)
    assert "keeps nothing" not in caplog.text
