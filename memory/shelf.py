"""The conversations a process holds, least recently used first to go."""

from __future__ import annotations

from collections import OrderedDict

from memory.remembered import Remembered
from memory.replies import Loaded


class Shelf:
    """Process-local copies of conversations, bounded.

    Args:
        max_tokens: the most their sizes may sum to.
        max_conversations: the most there may be.
    """

    def __init__(self, max_tokens: int, max_conversations: int) -> None:
        self._max_tokens = max_tokens
        self._max_conversations = max_conversations
        self._held: OrderedDict[tuple[str, str], Remembered] = OrderedDict()
        self._tokens = 0

    def __len__(self) -> int:
        return len(self._held)

    def get(self, tenant: str, conversation_id: str) -> Remembered | None:
        """Return the copy of a conversation; whether it is still good, only the store knows."""
        return self._held.get((tenant, conversation_id))

    def put(
        self, tenant: str, conversation_id: str, held: Remembered | None, loaded: Loaded
    ) -> Remembered:
        """Return the copy with the loaded items added; a stale one is replaced whole."""
        key = (tenant, conversation_id)
        is_same = (
            held is not None
            and held.loaded.generation == loaded.generation
            and held.loaded.epoch == loaded.epoch
        )
        remembered = held if held is not None and is_same else Remembered(loaded)
        self._tokens -= self._held[key].size if key in self._held else 0
        remembered.extend(loaded.items)
        if loaded.segments is not None:
            remembered.segments = dict(loaded.segments)
            remembered.segments_revision = loaded.segments_revision
        self._held[key] = remembered
        self._held.move_to_end(key)
        self._tokens += remembered.size
        while len(self._held) > 1 and (
            self._tokens > self._max_tokens or len(self._held) > self._max_conversations
        ):
            _, evicted = self._held.popitem(last=False)
            self._tokens -= evicted.size
        return remembered

    def drop(self, tenant: str, conversation_id: str) -> None:
        """Forget a conversation."""
        evicted = self._held.pop((tenant, conversation_id), None)
        self._tokens -= evicted.size if evicted else 0
