"""Gives vectors to the items of long conversations, in the background, one item at a time.

Owns the queue of conversations that wait. One item is encoded between two looks at the encoder's
thread, so that a query never waits behind more than one item.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from memory.embedder import DIMENSIONS, NOTHING, Embedder
from memory.remembered import Remembered, said_before, spoken
from memory.vector_sets import VectorSets
from memory.vector_store import VectorStore
from memory.vectors import TokenVectors

_QUEUE = 1000
_BATCH = 64
_PAUSE_S = 0.05
_SILENT = np.zeros((1, DIMENSIONS), np.int8)


class VectorKeeper:
    """Encodes what conversations lack.

    Args:
        embedder: makes the vectors.
        stored: where they are kept, None to keep them in the process alone.
        on_failure: told of what went wrong; the items are then found by words alone.
        sets: where the vectors of conversations of more than `most_held` items are searched;
            the process then holds none of them.
        most_held: items of a conversation whose vectors the process holds all.
    """

    def __init__(
        self,
        embedder: Embedder,
        stored: VectorStore | None,
        on_failure: Callable[[BaseException], None],
        sets: VectorSets | None = None,
        most_held: int = 20_000,
    ) -> None:
        self._embedder = embedder
        self._stored = stored
        self._on_failure = on_failure
        self._sets = sets
        self._most_held = most_held
        self._queue: asyncio.Queue[Remembered] = asyncio.Queue(_QUEUE)
        self._waiting: dict[Remembered, asyncio.Event] = {}

    def want(self, remembered: Remembered) -> None:
        """Queue a conversation whose items lack vectors; a full queue forgets the wish."""
        if remembered in self._waiting or remembered.n_vectors >= len(remembered.items):
            return
        try:
            self._queue.put_nowait(remembered)
        except asyncio.QueueFull as error:
            self._on_failure(error)
            return
        self._waiting[remembered] = asyncio.Event()

    async def wait_for(self, remembered: Remembered, longest_s: float) -> None:
        """Wait until the conversation has its vectors, but not longer than asked."""
        done = self._waiting.get(remembered)
        if done is None or longest_s <= 0:
            return
        try:
            async with asyncio.timeout(longest_s):
                await done.wait()
        except TimeoutError:
            return  # recall goes on with the vectors there are

    async def run(self) -> None:
        """Serve the queue until cancelled, a batch of one conversation at a time."""
        while True:
            remembered = await self._queue.get()
            try:
                await self._fill(remembered)
            except Exception as error:  # noqa: BLE001  (counted; one bad text must not end them all)
                self._on_failure(error)
                self._waiting.pop(remembered).set()
                await asyncio.sleep(_PAUSE_S)
                continue
            done = self._waiting.pop(remembered)
            self.want(remembered)
            if remembered in self._waiting:
                self._waiting[remembered] = done  # whoever waits, waits for the rest too
            else:
                done.set()

    async def _fill(self, remembered: Remembered) -> None:
        """Load what is stored, then encode and store up to 64 more items."""
        sets = self._sets if len(remembered.items) > self._most_held else None
        if sets is not None and await sets.is_available():
            await self._fill_set(remembered, sets)
            return
        vectors = remembered.vectors
        await self._load(remembered)
        first = len(vectors)
        for row in await self._encoded(remembered, first):
            vectors.add(row)
        if self._stored is not None and len(vectors) > first:
            n_stored = await self._store(remembered, first)
            if 0 <= n_stored < len(vectors):  # another process stored fewer than we hold
                await self._store(remembered, n_stored)

    async def _encoded(self, remembered: Remembered, first: int) -> list[NDArray[np.int8]]:
        """Return the vectors of up to 64 items from `first` on."""
        rows: list[NDArray[np.int8]] = []
        for n, item in enumerate(remembered.items[first : first + _BATCH], first):
            text = spoken(item)
            if text and self._embedder.can_read(text):
                before = said_before(remembered.items, n)
                before = before if self._embedder.can_read(before) else ""
                (encoding,) = await self._embedder.encode([text], before)
                rows.append(encoding.tokens)
            else:
                rows.append(NOTHING)
        return rows

    async def _fill_set(self, remembered: Remembered, sets: VectorSets) -> None:
        """Store up to 64 more items' vectors, bring stored ones into the set, hold none."""
        assert self._stored is not None
        n_stored = await self._stored.count(remembered.loaded)
        rows = await self._encoded(remembered, n_stored)
        if rows:
            rows = [row if len(row) else _SILENT for row in rows]
            n_stored = await self._stored.put(remembered.loaded, n_stored, rows)
        n_in_set = await sets.catch_up(remembered.loaded)
        if n_in_set < 0 or n_stored < 0:  # deleted, redacted or encoded anew: nobody waits for it
            remembered.n_in_set = len(remembered.items)
            return
        remembered.n_in_set = n_in_set
        if n_in_set >= len(remembered.vectors):
            remembered.vectors = TokenVectors(DIMENSIONS)

    async def _store(self, remembered: Remembered, first: int) -> int:
        assert self._stored is not None
        vectors = remembered.vectors
        rows = [vectors.row(n) for n in range(first, min(len(vectors), first + 8 * _BATCH))]
        return await self._stored.put(remembered.loaded, first, rows)

    async def _load(self, remembered: Remembered) -> None:
        while self._stored is not None:
            rows = await self._stored.load(remembered.loaded, len(remembered.vectors))
            for row in rows[: len(remembered.items) - len(remembered.vectors)]:
                remembered.vectors.add(row)
            if not rows or len(remembered.vectors) >= len(remembered.items):
                return
