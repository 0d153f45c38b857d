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

_MAX_ANSWER_BYTES = 64 * 1024
_MAX_ENTRIES = 5_000

# KEYS: entry, index. ARGV: answer, ttl_s, now, max entries.
# The index is a sorted set by time of writing; entries past the bound are deleted oldest first,
# because the embedded server does not evict.
_PUT = """
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
redis.call('ZADD', KEYS[2], ARGV[3], KEYS[1])
redis.call('EXPIRE', KEYS[2], 2592000)
local extra = redis.call('ZCARD', KEYS[2]) - tonumber(ARGV[4])
if extra > 0 then
  for _, old in ipairs(redis.call('ZRANGE', KEYS[2], 0, extra - 1)) do
    redis.call('DEL', old)
  end
  redis.call('ZREMRANGEBYRANK', KEYS[2], 0, extra - 1)
end
return extra
"""


class ResponseCache:
    """Exact answers on Redis; at most 5,000 a tenant, 64 KiB each."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._put = redis.register_script(_PUT)

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

    async def put(self, tenant: str, key: str, answer: bytes, *, ttl_s: int, now_s: float) -> bool:
        """Store an answer; return False when it is too large to keep.

        Raises:
            redis.exceptions.RedisError: when the server does not answer.
        """
        if len(answer) > _MAX_ANSWER_BYTES:
            return False
        index = f"tw:{{t:{tenant}}}:cache-index"
        await self._put(keys=[key, index], args=[answer, ttl_s, now_s, _MAX_ENTRIES])
        return True
