"""RedisLink: one connection to Redis that every caller shares, and the breaker that guards it.

redis-py lends a connection to each command and takes it back, which costs more CPU than the command
itself. Here commands of all callers go out on one connection as they come, and replies are handed
out in order. What does not answer in time is closed: its late replies belong to nobody.

Owns timing, order and the breaker. Knows nothing of keys; commands that block at the server must
not come this way, because all others would wait behind them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, cast

import hiredis
from redis._parsers.base import BaseParser
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import DataError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

log = logging.getLogger("turnwise.redis")
_PROBE_EVERY_S = 0.25
_MAX_WAITING = 20_000
# A reply may be late by our own fault: a busy event loop has not looked at the socket yet, or a
# starved machine lets neither us nor Redis run. How late our own timer is tells how much.
_GRACE_S = 0.005
_LONGEST_GRACE_S = 0.5
_NOTHING_YET = object()
FAILURES = (RedisConnectionError, RedisTimeoutError, OSError, TimeoutError)


class RedisAway(RedisConnectionError):
    """The breaker is open: Redis did not answer a moment ago."""


class Breaker:
    """Whether Redis counts as away; one log line per change."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_open = False

    def check(self) -> None:
        """Pass when a call may be made.

        Raises:
            RedisAway: the breaker is open.
        """
        if self.is_open:
            raise RedisAway(f"{self.name} does not answer")

    def failed(self, error: BaseException) -> None:
        """Note a call that was not answered."""
        if not self.is_open:
            self.is_open = True
            log.error("%s does not answer: %s: %s", self.name, type(error).__name__, error)

    def worked(self) -> None:
        """Note a call that was answered."""
        if self.is_open:
            self.is_open = False
            log.warning("%s answers again", self.name)


class _Waiting:
    """A command, or several sent as one, whose replies are still to come."""

    __slots__ = ("deadline_s", "future", "n_replies", "replies")

    def __init__(self, future: asyncio.Future[Any], n_replies: int, deadline_s: float) -> None:
        self.future = future
        self.n_replies = n_replies
        self.deadline_s = deadline_s
        self.replies: list[Any] = []


class RedisLink:
    """The shared connection: opened by the first call, opened again after a failure.

    Args:
        connect: makes an unconnected redis-py connection, which does the handshake.
        breaker: opened by any failure; while it is open a probe runs in the background.
        timeout_s: how long connecting, and then each reply, may take.
    """

    def __init__(
        self, connect: Callable[[], AbstractConnection], breaker: Breaker, timeout_s: float
    ) -> None:
        self._connect = connect
        self.breaker = breaker
        self._timeout_s = timeout_s
        self._wire: _Wire | None = None
        self._opening: asyncio.Task[_Wire] | None = None
        self._probe: asyncio.Task[None] | None = None
        self.known_scripts: set[str] = set()

    def call(self, args: tuple[Any, ...]) -> Awaitable[Any]:
        """Send one command and return what to await for its reply; an error reply is no raise.

        Raises:
            RedisAway: the breaker is open.
            redis.exceptions.ConnectionError, redis.exceptions.TimeoutError: no reply.
        """
        data = _packed(args)
        wire = self._wire
        return self._call_when_open(data) if wire is None else wire.send(data, 1)

    async def _call_when_open(self, data: bytes) -> Any:
        return await (await self._open()).send(data, 1)

    async def call_many(self, commands: Iterable[tuple[Any, ...]]) -> list[Any]:
        """Send commands as one and return their replies in order, error replies among them.

        Raises:
            As `call` does.
        """
        packed = [_packed(args) for args in commands]
        wire = self._wire or await self._open()
        return cast(list[Any], await wire.send(b"".join(packed), len(packed), is_many=True))

    async def close(self) -> None:
        """Close the connection and end the probe; a later call would open it again."""
        for task in (self._probe, self._opening):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, RedisError, OSError):
                    await task
        self._probe = self._opening = None
        if self._wire is not None:
            self._wire.close()
            self._wire = None
            # The transport's own goodbye happens in the next turn of the loop.
            await asyncio.sleep(0)

    async def _open(self) -> _Wire:
        """Return the wire, connecting once for however many callers wait for it."""
        self.breaker.check()
        if self._opening is None:
            # A task of its own: the caller who came first may be cancelled, the others wait on.
            self._opening = asyncio.get_running_loop().create_task(self._connected())
            self._opening.add_done_callback(self._opened)
        return await asyncio.shield(self._opening)

    def _opened(self, opening: asyncio.Task[_Wire]) -> None:
        self._opening = None
        if not opening.cancelled():
            error = opening.exception()
            if error is not None:
                self.failed(error)

    async def _connected(self) -> _Wire:
        connection = self._connect()
        try:
            async with asyncio.timeout(self._timeout_s):
                await cast(Any, connection).connect()
        except TimeoutError as error:
            await connection.disconnect(nowait=True)
            raise RedisTimeoutError("Timeout connecting to server") from error
        wire = _Wire(connection, self)
        self._wire = wire
        self.known_scripts.clear()
        return wire

    def lost(self, wire: _Wire, error: BaseException | None) -> None:
        """Note that a wire is closed; `error` says why, None where nobody was waiting."""
        if self._wire is wire:
            self._wire = None
        if error is not None:
            self.failed(error)

    def failed(self, error: BaseException) -> None:
        """Open the breaker and begin to probe."""
        self.breaker.failed(error)
        if self._probe is None or self._probe.done():
            # Held here, ended by close(): a link is older than any task group it could join.
            self._probe = asyncio.get_running_loop().create_task(self._probe_until_answered())

    async def _probe_until_answered(self) -> None:
        """Ask again until Redis answers, so that no caller has to pay for finding out."""
        while self.breaker.is_open:
            await asyncio.sleep(_PROBE_EVERY_S)
            try:
                wire = self._wire or await self._connected()
                reply = await wire.send(_packed(("PING",)), 1)
            except (*FAILURES, RedisError):
                continue
            if not isinstance(reply, Exception):  # LOADING, for one, is not yet an answer
                self.breaker.worked()

    @property
    def timeout_s(self) -> float:
        """How long each reply may take."""
        return self._timeout_s


class _Wire(asyncio.Protocol):
    """One open connection: bytes out, replies in, first come first served."""

    def __init__(self, connection: AbstractConnection, link: RedisLink) -> None:
        self._link = link
        # redis-py has connected, authenticated and chosen the database; from here the transport
        # talks to us. Its writer is kept, because one that is collected closes the transport.
        taken = cast(Any, connection)
        self._writer, taken._writer, taken._reader = taken._writer, None, None
        self._transport: asyncio.Transport = self._writer.transport
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(replyError=BaseParser.parse_error, notEnoughData=_NOTHING_YET)
        self._waiting: deque[_Waiting] = deque()
        self._unsent: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self._transport.set_protocol(self)

    def send(self, data: bytes, n_replies: int, *, is_many: bool = False) -> asyncio.Future[Any]:
        """Write commands and return the future of their reply, or of the list of replies.

        Raises:
            RedisAway: too many wait already.
        """
        if len(self._waiting) >= _MAX_WAITING:
            raise RedisAway("too many commands wait for Redis")
        future: asyncio.Future[Any] = self._loop.create_future()
        deadline_s = self._loop.time() + self._link.timeout_s
        self._waiting.append(_Waiting(future, n_replies if is_many else 0, deadline_s))
        # Commands of one turn of the loop leave in one system call, which costs more than they do.
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(data)
        if self._timer is None:
            self._timer = self._loop.call_at(deadline_s, self._look)
        return future

    def _flush(self) -> None:
        data, self._unsent = b"".join(self._unsent), []
        if not self._transport.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        """Close the connection; whoever waits gets an error."""
        self._end(RedisConnectionError("the connection was closed"), is_failure=False)

    def data_received(self, data: bytes) -> None:
        """Hand out the replies that are complete; see asyncio.Protocol."""
        self._reader.feed(data)
        waiting = self._waiting
        while True:
            try:
                reply = self._reader.gets()
            except hiredis.ProtocolError as error:
                self._end(RedisConnectionError(f"Redis spoke nonsense: {error}"))
                return
            if reply is _NOTHING_YET:
                return
            if not waiting:
                self._end(RedisConnectionError("Redis sent a reply nobody asked for"))
                return
            first = waiting[0]
            if first.n_replies:
                first.replies.append(reply)
                if len(first.replies) < first.n_replies:
                    continue
                reply = first.replies
            waiting.popleft()
            if not first.future.done():
                first.future.set_result(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail whoever waits; see asyncio.Protocol."""
        self._end(RedisConnectionError("Connection closed by server."))

    def _look(self) -> None:
        """Check the oldest command against its deadline."""
        self._timer = None
        if not self._waiting:
            return
        now_s, first = self._loop.time(), self._waiting[0]
        if first.deadline_s > now_s:
            self._timer = self._loop.call_at(first.deadline_s, self._look)
        else:
            late_s = now_s - first.deadline_s
            grace_s = min(max(_GRACE_S, 3 * late_s), _LONGEST_GRACE_S)
            self._timer = self._loop.call_later(grace_s, self._expire, first)

    def _expire(self, late: _Waiting) -> None:
        self._timer = None
        if self._waiting and self._waiting[0] is late:
            self._end(RedisTimeoutError("Timeout reading from Redis"))
        else:
            self._look()

    def _end(self, error: Exception, *, is_failure: bool = True) -> None:
        waiting, self._waiting = self._waiting, deque()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._transport.is_closing():
            self._transport.abort()
        self._link.lost(self, error if is_failure and waiting else None)
        for each in waiting:
            if not each.future.done():
                each.future.set_exception(type(error)(*error.args))
                # A caller that was cancelled meanwhile will never look.
                each.future.exception()


def _packed(args: tuple[Any, ...]) -> bytes:
    name = args[0]
    if " " in name:
        args = (*name.split(), *args[1:])
    try:
        data: bytes = hiredis.pack_command(args)
    except TypeError as error:
        raise DataError(f"{name} has an argument that Redis cannot take: {error}") from error
    return data
