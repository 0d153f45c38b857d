"""Redis: the handle that never hangs a request.

The handle is redis-py's client over a `RedisLink`: timeouts in milliseconds, no retries, a breaker.
A server that froze costs whoever is waiting one timeout; everybody after them is refused at once
until a probe in the background is answered.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, cast

from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError, ResponseError

from gateway.embedded import EmbeddedRedis, embedded_redis
from gateway.errors import WrongServer
from gateway.redis_cluster import Address, ClusterLink
from gateway.redis_link import Breaker, RedisAway, RedisLink

__all__ = [
    "EmbeddedRedis",
    "GuardedPipeline",
    "GuardedRedis",
    "RedisAway",
    "check_mode",
    "embedded_redis",
    "open_redis",
    "warn_of_volatility",
]

log = logging.getLogger("turnwise.redis")
TIMEOUT_S = 0.08
_MAX_CONNECTIONS = 64
# Options that redis-py passes along with a command and removes before its callback sees them.
_INTERNAL_OPTIONS = frozenset({"keys", "EMPTY_RESPONSE", "NEVER_DECODE"})
_BLOCKING = frozenset(
    ("BLPOP", "BRPOP", "BLMOVE", "BLMPOP", "BRPOPLPUSH", "BZPOPMIN", "BZPOPMAX", "BZMPOP", "WAIT")
    + ("SELECT", "MONITOR", "WATCH", "MULTI", "EXEC")
)
_BLOCKING_ON_REQUEST = frozenset(("XREAD", "XREADGROUP"))  # with the option BLOCK


class GuardedPipeline(Pipeline):
    """redis-py's pipeline over the shared connection; one that watches keys gets its own."""

    def __init__(self, link: RedisLink | ClusterLink, client: Redis, is_transaction: bool) -> None:
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


class GuardedScript(AsyncScript):
    """redis-py's script, sent straight over the shared connection; pipelines get redis-py's own."""

    def __init__(self, redis: GuardedRedis, script: str) -> None:
        super().__init__(redis, script)
        self._redis = redis

    async def __call__(self, keys: Any = None, args: Any = None, client: Any = None) -> Any:
        """Run the script; see redis.commands.core.AsyncScript."""
        if client is not None:
            return await super().__call__(keys, args, client)
        keys = keys or ()
        try:
            return await self._redis.reply_to(
                ("EVALSHA", self.sha, len(keys), *keys, *(args or ()))
            )
        except NoScriptError:
            return await super().__call__(keys, args)


class GuardedRedis(Redis):
    """redis-py's client over one shared connection with short timeouts and a breaker.

    Commands that block at the server, and pub/sub, still take a connection of their own.
    """

    link: RedisLink | ClusterLink

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run one command; see redis.asyncio.Redis.

        Raises:
            RedisAway: at once, while the breaker is open.
        """
        # A connection of redis-py's own is more than a cost: before Python 3.12 its use of
        # `asyncio.wait_for` can swallow a cancellation.
        if args[0] in _BLOCKING or (args[0] in _BLOCKING_ON_REQUEST and b"BLOCK" in args):
            self.link.breaker.check()
            return await cast(Any, super()).execute_command(*args, **options)
        reply = await self.reply_to(args)
        return _translated(self.response_callbacks, reply, args[0], options)

    async def reply_to(self, args: tuple[Any, ...]) -> Any:
        """Return the reply to one command as Redis sent it.

        Raises:
            RedisAway: at once, while the breaker is open.
            redis.exceptions.ResponseError: the reply is an error.
        """
        reply = await self.link.call(args)
        if isinstance(reply, Exception):
            if isinstance(reply, RedisConnectionError):  # it is still loading its data
                self.link.failed(reply)
            raise reply
        return reply

    def register_script(self, script: Any) -> Any:
        """Return a script to call; see redis.asyncio.Redis."""
        return GuardedScript(self, script)

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        """Return a pipeline; see redis.asyncio.Redis."""
        return GuardedPipeline(self.link, self, transaction)

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Close every connection."""
        await self.link.close()
        await super().aclose(close_connection_pool)


def open_redis(
    url: str, *, is_cluster: bool = False, name: str = "Redis", timeout_s: float = TIMEOUT_S
) -> GuardedRedis:
    """Return a handle for `redis://`, `rediss://` or `unix://`; nothing is connected yet.

    Args:
        url: where Redis is; of a cluster, any node of it.
        is_cluster: whether it is one of the nodes of a Redis Cluster.
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
    if not is_cluster:
        redis.link = RedisLink(pool.make_connection, Breaker(name), timeout_s)
        return redis

    def link_to(address: Address) -> RedisLink:
        at = dict(zip(("host", "port"), address, strict=True))
        node = ConnectionPool(pool.connection_class, **{**pool.connection_kwargs, **at})
        breaker = Breaker(f"{name} at {address[0]}:{address[1]}")
        return RedisLink(node.make_connection, breaker, timeout_s)

    known = pool.connection_kwargs
    seed = (known.get("host", "localhost"), int(known.get("port", 6379)))
    redis.link = ClusterLink(seed, link_to, name)
    return redis


async def check_mode(redis: Redis, *, is_cluster: bool) -> None:
    """Refuse a cluster that is taken for a single server, and the reverse; pass where unsure.

    Raises:
        WrongServer: nearly every command would fail.
    """
    try:
        facts = await redis.info("cluster")
    except ResponseError as error:
        if is_cluster and "cluster support disabled" in str(error):
            raise WrongServer(
                "redis.cluster is true, but the server in redis.url belongs to no cluster"
            ) from error
        return
    except RedisError:  # it is away: the gateway starts without it
        return
    if facts.get("cluster_enabled") and not is_cluster:
        raise WrongServer("redis.url leads to a node of a cluster: set redis.cluster: true")


async def warn_of_volatility(redis: Redis) -> None:
    """Log what a Redis of the operator's own would lose or throw away; say nothing where unsure.

    Conversations and money on their way to the ledger live there.
    """
    try:
        facts = await redis.info()
        saves = (await redis.config_get("save")).get("save")
    except RedisError:  # managed servers forbid CONFIG, and look after persistence themselves
        return
    if not facts.get("aof_enabled") and not saves:
        log.warning(
            "this Redis keeps nothing on disk: a restart loses conversations and unbooked costs; "
            "set appendonly yes"
        )
    policy = facts.get("maxmemory_policy", "noeviction")
    if facts.get("maxmemory") and policy != "noeviction":
        log.warning(
            "this Redis evicts keys (%s) when it is full: conversations and budgets may vanish; "
            "set maxmemory-policy noeviction, and name another server as redis.cache_url",
            policy,
        )


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
