"""Text to encoding, computed once: process memory, then Redis, then the encoder.

One cache serves router, recall and answer caches of a process. Keys cover the encoder's revision
and are salted by tenant, so that nobody can learn from a fast answer what another tenant said.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from hashlib import blake2b
from typing import Any, Protocol

import numpy as np
from redis.exceptions import RedisError

from memory.embedder import DIMENSIONS, Embedder, Encoding
from memory.keys import embedding_key

_LIFETIME_S = 24 * 3600


class KeyValue(Protocol):
    """The part of `redis.asyncio.Redis` used here."""

    def get(self, name: str) -> Awaitable[Any]:
        """Return a value as bytes, None where there is none."""
        ...

    def set(self, name: str, value: bytes, *, ex: int) -> Awaitable[object]:
        """Store a value for `ex` seconds."""
        ...

    def unlink(self, *names: str) -> Awaitable[object]:
        """Remove keys."""
        ...


class EmbeddingCache:
    """Encodings of texts, remembered.

    Args:
        embedder: makes what is not remembered.
        redis: shared with other processes; None keeps to this one.
        on_failure: told when Redis does not answer; the encoder does it then.
        max_entries: encodings kept in the process, about 2.5 kB each.
    """

    def __init__(
        self,
        embedder: Embedder,
        redis: KeyValue | None = None,
        on_failure: Callable[[BaseException], None] = lambda _: None,
        max_entries: int = 4096,
    ) -> None:
        self.embedder = embedder
        self._redis = redis
        self._on_failure = on_failure
        self._max_entries = max_entries
        self._held: OrderedDict[str, Encoding] = OrderedDict()

    async def encode(self, tenant: str, text: str) -> Encoding:
        """Return the encoding of a text; runs of blank space do not matter.

        Raises:
            EmbedderBusy: if it must be computed and too many wait already.
        """
        plain = " ".join(text.split())
        key = embedding_key(tenant, self.embedder.revision, _digest(tenant, plain))
        held = self._held.get(key)
        if held is None:
            held = await self._from_redis(key)
        if held is None:
            (held,) = await self.embedder.encode([plain])
            await self._to_redis(key, held)
        self._held[key] = held
        self._held.move_to_end(key)
        if len(self._held) > self._max_entries:
            self._held.popitem(last=False)
        return held

    async def forget(self, tenant: str, texts: Iterable[str]) -> None:
        """Drop the encodings of texts, here and on Redis; other processes lose theirs with age.

        Raises:
            redis.exceptions.RedisError: when Redis does not answer.
        """
        plain = (" ".join(text.split()) for text in texts)
        revision = self.embedder.revision
        keys = [embedding_key(tenant, revision, _digest(tenant, text)) for text in plain]
        for key in keys:
            self._held.pop(key, None)
        if keys and self._redis is not None:
            await self._redis.unlink(*keys)

    async def _from_redis(self, key: str) -> Encoding | None:
        if self._redis is None:
            return None
        try:
            stored = await self._redis.get(key)
        except (RedisError, OSError, TimeoutError) as error:
            self._on_failure(error)
            return None
        return _decoded(stored) if stored else None

    async def _to_redis(self, key: str, encoding: Encoding) -> None:
        if self._redis is None:
            return
        try:
            await self._redis.set(key, _encoded(encoding), ex=_LIFETIME_S)
        except (RedisError, OSError, TimeoutError) as error:
            self._on_failure(error)


def _digest(tenant: str, text: str) -> str:
    return blake2b(text.encode("utf-8", "replace"), digest_size=16, key=tenant.encode()).hexdigest()


def _encoded(encoding: Encoding) -> bytes:
    size = len(encoding.sentence).to_bytes(2, "big")
    return size + encoding.sentence.tobytes() + encoding.tokens.tobytes()


def _decoded(stored: bytes) -> Encoding | None:
    """Return None for a value of another shape: it is computed anew."""
    end = 2 + 4 * int.from_bytes(stored[:2], "big")
    tokens = np.frombuffer(stored[end:], np.int8)
    if len(stored) < end or len(tokens) % DIMENSIONS:
        return None
    sentence = np.frombuffer(stored[2:end], np.float32)
    return Encoding(sentence, tokens.reshape(-1, DIMENSIONS))
