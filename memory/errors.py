"""What memory can fail with; the gateway translates these once into HTTP.

    MemoryFault
    ├── InvalidConversationId    empty, too long, or not text                       400
    ├── ConversationNotFound     no such conversation in this tenant                404
    │   └── ConversationDeleted      it existed and was deleted                     404
    ├── ConversationExists       asked to create a name that is taken               409
    ├── ItemNotFound             no such item in this conversation                  404
    ├── InvalidItem              an item that cannot be stored as JSON              400
    │   └── ItemTooLarge             over the configured size                       413
    ├── ImportRefused            an item of an import is not of its place               409
    ├── TipConflict              the conversation moved on; carries the new tip     409
    ├── IdempotencyMismatch      the key was used before with another body          422
    ├── ContextTooLarge          the last message alone does not fit the window     400
    ├── SegmentCorrupt           a stored summary is not as it was written; it is made anew
    ├── SummaryRefused           a model's summary may not stand; quotations do
    ├── EmbedderBusy             too many wait for the encoder; recall goes without
    ├── Journaled                Redis is away; the append waits in the local journal
    └── JournalFull              Redis is away and the journal has no room either

Redis errors pass through untouched: the gateway answers without memory and says so.
"""

from __future__ import annotations


class MemoryFault(Exception):
    """Base of everything this package raises on its own account."""


class InvalidConversationId(MemoryFault):
    """The id is empty, longer than 256 characters, or holds text that is not Unicode."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"conversation id {reason}")
        self.reason = reason


class ConversationNotFound(MemoryFault):
    """The tenant has no conversation of this id."""

    def __init__(self, conversation_id: str) -> None:
        super().__init__(f"no conversation {conversation_id!r}")
        self.conversation_id = conversation_id


class ConversationDeleted(ConversationNotFound):
    """The conversation was deleted; a write that began before the deletion must not revive it."""


class ConversationExists(MemoryFault):
    """A conversation of this id exists already."""

    def __init__(self, conversation_id: str) -> None:
        super().__init__(f"conversation {conversation_id!r} exists already")
        self.conversation_id = conversation_id


class ItemNotFound(MemoryFault):
    """The conversation has no item of this id."""

    def __init__(self, item_id: str) -> None:
        super().__init__(f"no item {item_id!r} in this conversation")
        self.item_id = item_id


class InvalidItem(MemoryFault):
    """The item cannot be stored: its content is not JSON, or too many came at once."""


class ItemTooLarge(InvalidItem):
    """The item is larger than `limit_bytes` once encoded."""

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(f"an item of {size_bytes} bytes is over the limit of {limit_bytes}")
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


class ImportRefused(MemoryFault):
    """An item of an import cannot stand where it says; what came before it is kept."""

    def __init__(self, seq: int, reason: str) -> None:
        super().__init__(f"item {seq} cannot be imported: {reason}")
        self.seq = seq


class TipConflict(MemoryFault):
    """The writer expected another newest item; `tip` is the one that stands (None when empty)."""

    def __init__(self, tip: str | None) -> None:
        super().__init__(f"the conversation moved on; its newest item is {tip}")
        self.tip = tip


class IdempotencyMismatch(MemoryFault):
    """The idempotency key was used before in this conversation with another body."""

    def __init__(self, key: str) -> None:
        super().__init__(f"idempotency key {key!r} was used with another body")
        self.key = key


class ContextTooLarge(MemoryFault):
    """Instructions, tools and the last user message need more tokens than the window has."""

    def __init__(self, needed_tokens: int, window_tokens: int) -> None:
        super().__init__(f"{needed_tokens} tokens are needed and the window has {window_tokens}")
        self.needed_tokens = needed_tokens
        self.window_tokens = window_tokens


class SegmentCorrupt(MemoryFault):
    """A stored summary is not as it was written; it is made anew from its items."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the summary of items {name} is corrupt")


class SummaryRefused(MemoryFault):
    """A model's summary is too long or says what its source does not; quotations stand instead."""


class EmbedderBusy(MemoryFault):
    """Too many callers wait for the encoder; whoever asks goes on without vectors."""

    def __init__(self, n_waiting: int) -> None:
        super().__init__(f"{n_waiting} callers wait for the encoder already")
        self.n_waiting = n_waiting


class Journaled(MemoryFault, ConnectionError):
    """Redis did not take the append; it is safe in the local journal and will be replayed.

    Also a ConnectionError, so that whoever survives a Redis that is away survives this.
    """

    def __init__(self) -> None:
        super().__init__("the append waits in the local journal until Redis is back")


class JournalFull(MemoryFault, ConnectionError):
    """Redis did not take the append, and the journal holds `max_bytes` already."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"the local journal holds its {max_bytes} bytes already")
        self.max_bytes = max_bytes
