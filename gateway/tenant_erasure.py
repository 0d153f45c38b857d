"""TenantErasure: forgets what a deleted tenant said, in the background and across restarts.

Owns which tenants wait to be forgotten and which keys of theirs hold text. Amounts are no text:
ledger keys and books stay.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import cast

from gateway.erasure import Eraser
from gateway.redis_cluster import ClusterLink
from gateway.state import GuardedRedis
from gateway.tenants import TenantStore
from memory.keys import conversations_pattern, kept_pattern
from memory.records import milliseconds_of

_WAITING = "tw:{erasures}:tenants"  # "<tenant> <when deleted, ms>", by when to look next
_AGAIN_MS = 300_000
_LATEST_WRITE_MS = 660_000  # a turn that was running at the deletion may write this much later
_KEPT = frozenset((b"emb", b"idem", b"cache", b"cache-index", b"of"))


class TenantErasure:
    """Erases the conversations and kept answers of deleted tenants.

    Looks at every key of the servers, so it is no work for a request. It looks again until the last
    turn that could still write has ended. A name that was given to a tenant anew meanwhile keeps
    what is younger than the deletion.

    Args:
        redis: where conversations are.
        kept: the servers that keep answers and encodings.
        eraser: forgets one conversation.
        tenants: who exists.
    """

    def __init__(
        self,
        redis: GuardedRedis,
        kept: Sequence[GuardedRedis],
        eraser: Eraser,
        tenants: TenantStore,
    ) -> None:
        self._redis = redis
        self._kept = kept
        self._eraser = eraser
        self._tenants = tenants

    async def want(self, tenant: str, deleted_at: datetime) -> None:
        """Note a tenant that is about to be deleted.

        Raises:
            redis.exceptions.RedisError: it was not noted.
        """
        at_ms = milliseconds_of(deleted_at)
        await self._redis.zadd(_WAITING, {f"{tenant} {at_ms}": at_ms})

    async def run(self, now: datetime) -> int:
        """Erase what is due; return how many conversations went.

        Raises:
            redis.exceptions.RedisError, sqlalchemy.exc.SQLAlchemyError: the next run goes on.
        """
        now_ms, n_erased = milliseconds_of(now), 0
        due = cast(list[bytes], await self._redis.zrangebyscore(_WAITING, "-inf", now_ms))
        for member in due:
            tenant, _, at = member.decode().partition(" ")
            n_found = await self._erase(tenant, int(at))
            n_erased += n_found
            if n_found == 0 and now_ms - int(at) > _LATEST_WRITE_MS:
                await self._redis.zrem(_WAITING, member)
            else:
                await self._redis.zadd(_WAITING, {member: now_ms + _AGAIN_MS})
        return n_erased

    async def _erase(self, tenant: str, deleted_at_ms: int) -> int:
        exists_again = await self._tenants.tenant(tenant) is not None
        n_erased = 0
        async for key in _keys_like(self._redis, conversations_pattern(tenant)):
            stored = cast(list[bytes | None], await self._redis.hmget(key, "name", "created"))
            name, created = stored
            is_theirs = created is not None and int(created) <= deleted_at_ms
            if name is not None and (is_theirs or not exists_again):
                n_erased += await self._eraser.conversation(tenant, name.decode())
        kinds = _KEPT - {b"idem"} if exists_again else _KEPT
        for redis in self._kept:
            async for key in _keys_like(redis, kept_pattern(tenant)):
                if key.partition(b"}:")[2].partition(b":")[0] in kinds:
                    await redis.unlink(key)
        return n_erased


async def _keys_like(redis: GuardedRedis, pattern: str) -> AsyncIterator[bytes]:
    link = redis.link
    for node in await link.nodes() if isinstance(link, ClusterLink) else [link]:
        cursor = b"0"
        while True:
            reply = await node.call(("SCAN", cursor, "MATCH", pattern, "COUNT", 1000))
            if isinstance(reply, Exception):
                raise reply
            cursor, keys = reply
            for key in keys:
                yield key
            if int(cursor) == 0:
                break
