"""ClusterLink: a RedisLink to each node of a Redis Cluster, and which of them owns a key.

Takes the place of one link, so that nothing above it need know how many servers there are. Owns the
map of slots and follows slots that move. Timing, order and breakers are the links' own.

Source: Redis Cluster specification, "Key distribution model" and "MOVED and ASK redirection".
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, cast

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError

from gateway.redis_link import FAILURES, Breaker, RedisAway, RedisLink

log = logging.getLogger("turnwise.redis")
Address = tuple[str, int]
Command = tuple[Any, ...]
_MAX_REDIRECTS = 4
_REFRESH_EVERY_S = 0.25
_SCRIPTS = frozenset(("EVAL", "EVALSHA"))
_STREAM_READS = frozenset(("XREAD", "XREADGROUP"))
_ON_EVERY_NODE = frozenset(("PING", "SCRIPT LOAD"))
_ON_ANY_NODE = frozenset(("INFO", "CONFIG GET", "TIME"))


class ClusterLink:
    """The links to all nodes that own slots; opened as they are needed.

    Args:
        seed: a node that tells of the others.
        link_to: makes the link to a node; nothing is connected yet.
        name: for log lines and errors.
    """

    def __init__(
        self, seed: Address, link_to: Callable[[Address], RedisLink], name: str = "Redis"
    ) -> None:
        self._seed = seed
        self._link_to = link_to
        self._name = name
        self._links: dict[Address, RedisLink] = {}
        self._owners: Sequence[Address | None] = ()
        self._refreshing: asyncio.Task[None] | None = None
        self.breaker = Breaker(name)  # never opened: each node has one of its own
        self.known_scripts: set[str] = set()

    async def call(self, args: Command) -> Any:
        """Send one command to the node it concerns and return the reply; see RedisLink."""
        if args[0] in _ON_EVERY_NODE:
            replies = await asyncio.gather(*(link.call(args) for link in await self.nodes()))
            return next((each for each in replies if isinstance(each, Exception)), replies[0])
        link = await self._link_for(args)
        return await self._followed(await self._sent(link, link.call(args)), args)

    async def call_many(self, commands: Iterable[Command]) -> list[Any]:
        """Send commands, those for one node as one, and return their replies in order."""
        commands = list(commands)
        if commands[0][0] == "MULTI":
            return await self._transaction(commands)
        places: dict[RedisLink, list[int]] = {}
        for place, args in enumerate(commands):
            places.setdefault(await self._link_for(args), []).append(place)
        replies: list[Any] = [None] * len(commands)

        async def ask(link: RedisLink, wanted: list[int]) -> None:
            part = [commands[place] for place in wanted]
            got = await self._sent(link, link.call_many(part))
            for place, reply in zip(wanted, got, strict=True):
                replies[place] = await self._followed(reply, commands[place])

        await asyncio.gather(*(ask(*each) for each in places.items()))
        return replies

    def failed(self, error: BaseException) -> None:
        """Do nothing: the node's own link was told."""

    async def close(self) -> None:
        """Close every connection; a later call would open them again."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._refreshing
            self._refreshing = None
        for link in self._links.values():
            await link.close()

    # Where a command goes.

    async def _link_for(self, args: Command) -> RedisLink:
        owners = self._owners or await self._read_map()
        key = key_of(args)
        owner = owners[0 if key is None else key_slot(key)]
        if owner is None:
            self._refresh_soon()
            raise RedisAway(f"no node of {self._name} owns the key's slot")
        return self._link(owner)

    async def nodes(self) -> list[RedisLink]:
        """Return the links to the nodes that own slots: together they hold every key."""
        owners = self._owners or await self._read_map()
        return [self._link(owner) for owner in set(owners) if owner is not None]

    def _link(self, address: Address) -> RedisLink:
        link = self._links.get(address)
        if link is None:
            link = self._links[address] = self._link_to(address)
        return link

    # What becomes of it.

    async def _sent(self, link: RedisLink, replying: Awaitable[Any]) -> Any:
        try:
            reply = await replying
        except FAILURES:
            self._refresh_soon()  # another node may own its slots soon
            raise
        if isinstance(reply, RedisConnectionError):  # it is still loading its data
            link.failed(reply)
        if isinstance(reply, RedisConnectionError | ClusterDownError):
            self._refresh_soon()
        return reply

    async def _followed(self, reply: Any, args: Command) -> Any:
        """Return the reply of the node that a redirection leads to."""
        for _ in range(_MAX_REDIRECTS):
            if not isinstance(reply, AskError):
                break
            link = self._redirected(reply)
            if isinstance(reply, MovedError):
                reply = await self._sent(link, link.call(args))
            else:  # the slot is on its way: this command alone may go ahead of it
                reply = (await self._sent(link, link.call_many([("ASKING",), args])))[1]
        return reply

    def _redirected(self, error: AskError) -> RedisLink:
        """Return the link to the node that was named; one that moved is kept in mind."""
        address = (error.host or self._seed[0], error.port)
        if isinstance(error, MovedError):
            owners = list(self._owners)
            owners[error.slot_id] = address
            self._owners = owners
            self._refresh_soon()
        return self._link(address)

    async def _transaction(self, commands: Sequence[Command]) -> list[Any]:
        link = await self._link_for(commands[1])
        for _ in range(_MAX_REDIRECTS):
            replies = await self._sent(link, link.call_many(commands))
            moved = next((each for each in replies if isinstance(each, MovedError)), None)
            if moved is None:
                break
            link = self._redirected(moved)
        return cast(list[Any], replies)

    # The map of slots.

    async def _read_map(self) -> Sequence[Address | None]:
        """Ask the nodes, one after the other, who owns which slot.

        Raises:
            RedisAway: none of them answers.
            redis.exceptions.ResponseError: this is no cluster.
        """
        refusal: Exception | None = None
        for address in dict.fromkeys((*self._links, self._seed)):
            try:
                reply = await self._link(address).call(("CLUSTER SLOTS",))
            except FAILURES:
                continue
            if isinstance(reply, Exception):
                refusal = reply
                continue
            await self._keep_map(reply, address)
            return self._owners
        raise refusal or RedisAway(f"no node of {self._name} answers")

    async def _keep_map(self, ranges: Iterable[Any], asked: Address) -> None:
        owners: list[Address | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        for first, last, (host, port, *_), *_ in ranges:
            # A node that does not know its own address leaves it empty.
            owner = (host.decode() if host else asked[0], port)
            owners[first : last + 1] = [owner] * (last + 1 - first)
        if set(owners) - {None} != set(self._owners) - {None}:
            self.known_scripts.clear()
        self._owners = owners
        for address in self._links.keys() - set(owners):
            await self._links.pop(address).close()

    def _refresh_soon(self) -> None:
        if self._refreshing is None or self._refreshing.done():
            # Held here, ended by close(): a link is older than any task group it could join.
            self._refreshing = asyncio.get_running_loop().create_task(self._refresh())

    async def _refresh(self) -> None:
        """Read the map again until every node in it answers."""
        while True:
            await asyncio.sleep(_REFRESH_EVERY_S)
            try:
                await self._read_map()
            except (*FAILURES, RedisError) as error:
                log.debug("the map of %s cannot be read: %s", self._name, error)
                continue
            if not any(link.breaker.is_open for link in await self.nodes()):
                return


def key_of(args: Command) -> bytes | None:
    """Return the key that decides which node a command goes to, None where any node will do."""
    name = args[0]
    if name in _ON_ANY_NODE or name in _ON_EVERY_NODE:
        return None
    if name in _SCRIPTS:
        key = args[3] if int(args[2]) else None
    elif name in _STREAM_READS:
        key = args[args.index(b"STREAMS") + 1]
    elif name == "SCAN":  # what it looks for lies in one slot: it names the tag
        key = args[args.index(b"MATCH") + 1] if b"MATCH" in args else None
    else:
        key = args[1]
    return key.encode() if isinstance(key, str) else key
