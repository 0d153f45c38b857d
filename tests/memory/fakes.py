from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from memory.embedder import DIMENSIONS, Encoding
from memory.errors import EmbedderBusy


class FakeEmbedder:
    """One vector a word, the same for the same word; remembers what it was asked."""

    revision = "fake-1"

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.is_busy = False

    def can_read(self, text: str) -> bool:
        return text.isascii()

    async def encode(self, texts: Sequence[str], before: str = "") -> list[Encoding]:
        if self.is_busy:
            raise EmbedderBusy(1)
        self.asked += texts
        return [self._encoding(text) for text in texts]

    def _encoding(self, text: str) -> Encoding:
        rows = [self._vector(word) for word in text.casefold().split()]
        tokens = np.array(rows, np.int8).reshape(-1, DIMENSIONS)
        return Encoding(np.ones(384, np.float32) / np.sqrt(384).astype(np.float32), tokens)

    def _vector(self, word: str) -> list[int]:
        seed = int.from_bytes(blake2b(word.encode(), digest_size=4).digest())
        vector = np.random.default_rng(seed).normal(size=DIMENSIONS)
        return (vector * 127 / np.linalg.norm(vector)).round().astype(int).tolist()
