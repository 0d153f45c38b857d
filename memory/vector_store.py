"""The stored vectors of conversations, so that a restart need not encode everything again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from memory.keys import conversation_keys
from memory.replies import Loaded
from memory.store import RedisHandle, script_of

_LOAD_DOCUMENTS = 250


class VectorStore:
    """Token vectors on Redis, one row a document, parallel to the log.

    Args:
        redis: a handle with `decode_responses=False`.
        revision: the encoder's; rows of another revision are dropped.
        dimensions: the length of one vector.
    """

    def __init__(self, redis: RedisHandle, revision: str, dimensions: int) -> None:
        self._redis = redis
        self._revision = revision
        self._dimensions = dimensions
        self._put = script_of(redis, "vectors")

    async def load(self, loaded: Loaded, first: int) -> list[NDArray[np.int8]]:
        """Return up to 250 stored documents' vectors from document `first` on."""
        conversation = loaded.conversation
        keys = conversation_keys(conversation.tenant, conversation.id)
        async with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.hmget(keys.meta, "gen", "epoch", "encoder")
            pipeline.lrange(keys.vectors, first, first + _LOAD_DOCUMENTS - 1)
            state, rows = await pipeline.execute()
        if state != self._state(loaded):
            return []
        return [np.frombuffer(row, np.int8).reshape(-1, self._dimensions) for row in rows]

    async def count(self, loaded: Loaded) -> int:
        """Return how many documents have stored vectors of this encoder."""
        conversation = loaded.conversation
        keys = conversation_keys(conversation.tenant, conversation.id)
        async with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.hmget(keys.meta, "gen", "epoch", "encoder")
            pipeline.llen(keys.vectors)
            state, n_stored = await pipeline.execute()
        return int(n_stored) if state == self._state(loaded) else 0

    def _state(self, loaded: Loaded) -> list[bytes]:
        return [text.encode() for text in (loaded.generation, loaded.epoch, self._revision)]

    async def put(self, loaded: Loaded, first: int, rows: Sequence[NDArray[np.int8]]) -> int:
        """Store vectors from document `first` on; return how many documents have them now.

        Where another process was faster its rows stay; -1 means that the conversation was
        deleted or redacted meanwhile.
        """
        conversation = loaded.conversation
        keys = conversation_keys(conversation.tenant, conversation.id)
        args: list[str | bytes | int] = [loaded.generation, loaded.epoch, self._revision, first]
        args += [row.tobytes() for row in rows]
        touched = [keys.meta, keys.vectors, keys.vector_set]
        return int(await self._put(keys=touched, args=args))
