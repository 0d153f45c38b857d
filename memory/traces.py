"""Traces: answers kept for a while, and of whom they tell, so that they can be forgotten.

Owns how a kept answer is found again by its conversation or its end user. Knows nothing of what is
in it. One script keeps and notes, so that nothing is kept that could not be found.
"""

from __future__ import annotations

from collections.abc import Sequence

from memory.keys import kept_index_key, traces_key
from memory.scripts import RedisHandle, script_of

Subject = str
"""Of whom a kept answer tells, as of_conversation() or of_end_user() made it."""


def of_conversation(conversation_id: str) -> Subject:
    """Return the subject that a conversation is."""
    return f"c:{conversation_id}"


def of_end_user(end_user: str) -> Subject:
    """Return the subject that an end user is."""
    return f"u:{end_user}"


class Traces:
    """Kept answers on one Redis, by subject.

    Args:
        redis: a handle with `decode_responses=False`.
    """

    def __init__(self, redis: RedisHandle) -> None:
        self._keep = script_of(redis, "keep")
        self._forget = script_of(redis, "forget")

    async def keep(
        self,
        tenant: str,
        key: str,
        value: bytes,
        *,
        ttl_s: int,
        subjects: Sequence[Subject] = (),
        max_entries: int = 0,
    ) -> None:
        """Store a value under a key of the tenant's slot.

        Args:
            tenant: whose.
            key: begins with the tenant's hash tag.
            value: what is kept.
            ttl_s: for how long.
            subjects: of whom it tells.
            max_entries: the most of the tenant's values that are kept this way; 0 is no bound.

        Raises:
            redis.exceptions.RedisError: when the server does not answer.
        """
        sets = [traces_key(tenant, subject) for subject in subjects]
        await self._keep(
            keys=[key, kept_index_key(tenant), *sets], args=[value, ttl_s, max_entries]
        )

    async def forget(self, tenant: str, subject: Subject) -> int:
        """Remove all that was kept about a subject; return how many values there were.

        Raises:
            redis.exceptions.RedisError: when the server does not answer.
        """
        keys = [traces_key(tenant, subject), kept_index_key(tenant)]
        return int(await self._forget(keys=keys, args=[]))
