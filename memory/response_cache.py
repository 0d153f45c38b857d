"""Answers given before, replayed for the same request: exact match, within one tenant.

Owns the key and the bound of the cache. Knows nothing of how an answer was made: a stored answer is
the JSON that the caller handed in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from redis.asyncio import Redis

from memory.conversation import Message
from memory.traces import Subject, Traces

_MAX_ANSWER_BYTES = 64 * 1024
_MAX_ENTRIES = 5_000


class ResponseCache:
    """Exact answers on Redis; at most 5,000 a tenant, 64 KiB each."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self.traces = Traces(redis)

    @staticmethod
    def key_of(
        tenant: str,
        *,
        policy: str,
        tier: str,
        model: str,
        messages: Sequence[Message],
        params: Mapping[str, Any],
    ) -> str:
        """Return the entry's key: everything that could change the answer is in its hash."""
        material = orjson.dumps(
            [policy, tier, model, [message.to_wire() for message in messages], dict(params)],
            option=orjson.OPT_SORT_KEYS,
        )
        return f"tw:{{t:{tenant}}}:cache:{hashlib.sha256(material).hexdigest()}"

    async def get(self, key: str) -> bytes | None:
        """Return the stored answer, None when there is none.

        Raises:
            redis.exceptions.RedisError: when the server does not answer.
        """
        stored = await self._redis.get(key)
        return stored if isinstance(stored, bytes) else None

    async def put(
        self, tenant: str, key: str, answer: bytes, *, ttl_s: int, subjects: Sequence[Subject] = ()
    ) -> bool:
        """Store an answer and of whom it tells; return False when it is too large to keep.

        Raises:
            redis.exceptions.RedisError: when the server does not answer.
        """
        if len(answer) > _MAX_ANSWER_BYTES:
            return False
        await self.traces.keep(
            tenant, key, answer, ttl_s=ttl_s, subjects=subjects, max_entries=_MAX_ENTRIES
        )
        return True
