"""Replicas: the processes that serve together, and which of them follow the latest change.

A change of a policy, a key or a tenant raises one counter in Redis. Every replica asks for it ten
times a second; where it rose, the replica reads anew what it remembers and then says which number
it has followed. Where Redis is away nothing is announced, and replicas follow by asking the
database every two seconds. Knows nothing of what changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

log = logging.getLogger("turnwise.replicas")

POLL_S = 0.1
_ALIVE_S = 3.0  # a replica that was killed is waited for no longer than this
_WAIT_S = 5.0
_WAIT_STEP_S = 0.02
_CHANGES = "tw:{replicas}:changes"
_FOLLOWED = "tw:{replicas}:followed"  # hash: replica -> number of the change, time it said so


@dataclass(frozen=True, slots=True)
class Following:
    """Which replicas have followed a change, and which have not yet."""

    live_on: tuple[str, ...]
    behind: tuple[str, ...]


class Replicas:
    """This process among the others.

    `follow` holds what reads anew whatever may have changed; it is run in order, before the change
    is acknowledged.

    Args:
        redis: shared by all replicas.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self.name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(2)}"
        self.follow: list[Callable[[], Awaitable[None]]] = []
        self._followed = -1
        self._said_s = float("-inf")

    async def announce(self) -> None:
        """Tell every replica that something changed; where Redis is away they find out later."""
        try:
            await self._redis.incr(_CHANGES)
        except (RedisError, OSError) as error:
            log.warning("a change is not announced, replicas see it within 2 s: %s", error)

    async def join(self) -> None:
        """Take this process onto the list and follow what was announced; called before it serves.

        Listed first: whoever announces from then on waits for it, and what was announced before is
        read here. Where Redis is away the first poll that reaches it does the same.
        """
        with contextlib.suppress(RedisError, OSError):
            await self._redis.hset(_FOLLOWED, self.name, f"-1 {time.time()}")
            await self.poll()

    async def poll(self) -> None:
        """Follow what was announced, and say so; called every `POLL_S`."""
        number = int(await self._redis.get(_CHANGES) or 0)
        if number != self._followed:
            for follow in self.follow:
                await follow()
            self._followed = number
        elif time.monotonic() - self._said_s < _ALIVE_S / 3:
            return
        self._said_s = time.monotonic()
        await self._redis.hset(_FOLLOWED, self.name, f"{number} {time.time()}")

    async def served_by(self, *, wait: bool) -> Following:
        """Return who serves what this process has just changed, itself always among them.

        With `wait`, once all do or after `wait_s`. Where Redis is away only this process is known.
        """
        try:
            found = await (self.wait_live() if wait else self.following())
        except (RedisError, OSError):
            return Following((self.name,), ())
        behind = tuple(name for name in found.behind if name != self.name)
        return Following(tuple(sorted({*found.live_on, self.name})), behind)

    async def wait_live(self, wait_s: float = _WAIT_S) -> Following:
        """Return once every replica follows all that was announced so far, or after `wait_s`."""
        number = int(await self._redis.get(_CHANGES) or 0)
        give_up_s = time.monotonic() + wait_s
        while True:
            following = await self.following(number)
            if not following.behind or time.monotonic() > give_up_s:
                return following
            await asyncio.sleep(_WAIT_STEP_S)

    async def following(self, number: int | None = None) -> Following:
        """Return who follows the change of this number (the latest for None)."""
        if number is None:
            number = int(await self._redis.get(_CHANGES) or 0)
        said: Any = await self._redis.hgetall(_FOLLOWED)
        oldest = time.time() - _ALIVE_S
        live_on: list[str] = []
        behind: list[str] = []
        gone: list[bytes] = []
        for name, text in said.items():
            followed, at = text.split()
            if float(at) < oldest:
                gone.append(name)
            else:
                (live_on if int(followed) >= number else behind).append(name.decode())
        if gone:
            await self._redis.hdel(_FOLLOWED, *gone)
        return Following(tuple(sorted(live_on)), tuple(sorted(behind)))

    async def leave(self) -> None:
        """Take this process off the list."""
        with contextlib.suppress(RedisError, OSError):  # others see within seconds that it is gone
            await self._redis.hdel(_FOLLOWED, self.name)
