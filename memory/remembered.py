"""A conversation as this process holds it: its items and what was worked out from them.

Only ever grows; a redaction or a new incarnation of the id replaces the whole. Fed from the event
loop; the index is built by whoever builds contexts, one at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from memory.context import weight_of
from memory.conversation import Item
from memory.embedder import DIMENSIONS
from memory.lexical import LexicalIndex
from memory.phrasing import phrasings
from memory.quoting import speaker_of, time_said
from memory.recall import SESSION_GAP_S, Traits
from memory.replies import Loaded
from memory.vectors import TokenVectors

_LEANS_ON_ITEMS = 2


class Remembered:
    """Items of one incarnation of a conversation, with running weights, index and summaries."""

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded
        self.items: list[Item] = []
        self.names: set[str] = set()
        self.weights: list[int] = []
        self.index = LexicalIndex()
        self.traits = Traits()
        self.vectors = TokenVectors(DIMENSIONS)
        self.n_in_set = 0  # documents that a vector set speaks for, once they are too many to hold
        self.segments: dict[tuple[int, int], str] = {}
        self.segments_revision = ""
        self.asked_segments: set[tuple[int, int]] = set()
        self.summaries: dict[tuple[str, str, int, int], str] = {}
        self.is_linear = True

    @property
    def size(self) -> int:
        """Return a rough size: the weight of the items, near their tokens."""
        return self.weights[-1] if self.weights else 0

    @property
    def n_vectors(self) -> int:
        """Return how many items have vectors, here or in the conversation's vector set."""
        return max(len(self.vectors), self.n_in_set)

    def extend(self, items: Iterable[Item]) -> None:
        """Take items that follow directly on those held; others are left for the next load."""
        for item in items:
            if item.seq != len(self.items) + 1:
                continue
            expected = self.items[-1].id if self.items else None
            self.is_linear = self.is_linear and item.parent == expected
            self.weights.append(self.size + weight_of(item.message))
            self.items.append(item)
            self.names.update(names_of([item]))

    def view(self, n_items: int) -> Sequence[Item]:
        """Return the path from the root to the tip of the first `n_items`."""
        if self.is_linear:
            return self.items[:n_items]
        by_id = {item.id: item for item in self.items[:n_items]}
        path: list[Item] = []
        item: Item | None = self.items[n_items - 1] if n_items else None
        while item is not None:
            path.append(item)
            item = by_id.get(item.parent) if item.parent else None
        path.reverse()
        return path

    def indexed(self) -> LexicalIndex:
        """Return the index over all items held now; mutates it and the traits."""
        for item in self.items[len(self.index) :]:
            self.index.add(searchable(item))
            self.traits.add(item)
        return self.index


def names_of(items: Iterable[Item]) -> set[str]:
    """Return the names of those who said the items; roles are no names."""
    return {speaker for item in items if (speaker := speaker_of(item)) != item.message.role}


def spoken(item: Item) -> str:
    """Return the text an item's vectors are made of: who said what."""
    text = item.message.text
    return f"{speaker_of(item)}: {text}" if text else ""


def encoded_as(items: Sequence[Item], names: Iterable[str]) -> list[str]:
    """Return the texts that the items were or may have been encoded as, to be forgotten."""
    names = list(names)
    return [text for item in items for text in (spoken(item), *phrasings(item.message.text, names))]


def said_before(items: Sequence[Item], n: int) -> str:
    """Return the two items before item `n` in its session: what its vectors lean on."""
    first = n
    while first > max(0, n - _LEANS_ON_ITEMS):
        gap = time_said(items[first]) - time_said(items[first - 1])
        if abs(gap.total_seconds()) > SESSION_GAP_S:
            break
        first -= 1
    return "\n".join(spoken(item) for item in items[first:n])


def searchable(item: Item) -> str:
    """Return the text an item is found by: its words, and the names and arguments of its calls."""
    text = item.message.text
    for call in item.message.tool_calls:
        function = call.get("function") or {}
        text = f"{text} {function.get('name', '')} {function.get('arguments', '')}"
    name = item.metadata.get("name")
    return f"{name} {text}" if isinstance(name, str) else text
