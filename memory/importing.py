"""Importing a conversation: items taken over with their ids, so that doing it twice does it once.

Owns the identity of an imported item. One that was exported keeps its id, its parent and its time;
one without an id gets one from its place and content, the same at every try. Where an import breaks
off, sending everything again goes on from there. Knows no file and no HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from memory.appending import script_keys
from memory.errors import ConversationDeleted, ImportRefused
from memory.keys import conversation_keys, is_ours
from memory.records import (
    Draft,
    digest_of,
    encode_json,
    encode_payload,
    encode_record,
    item_id_of,
    milliseconds_of,
    seq_of,
)
from memory.scripts import RedisHandle, script_of

_STAMP_DIGITS = 16


@dataclass(frozen=True, slots=True)
class ImportedItem:
    """One item of an import; `parent` "" is the root, None the item before it."""

    draft: Draft
    id: str | None = None
    parent: str | None = None
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ImportHead:
    """What a conversation is made with, where the import has to make it."""

    created_at: datetime
    metadata: Mapping[str, Any] = field(default_factory=dict)
    instructions: str = ""


class ConversationImport:
    """One import, fed with batches in order.

    Attributes:
        n_items: items taken in so far.
        n_new: those among them that were not there before.

    Args:
        redis: a handle with `decode_responses=False`.
        tenant: whose conversation.
        conversation_id: under which name.
        head: of a conversation that has to be made.
        new_id: at least 16 random lowercase hex digits at its end.
        max_item_bytes: the largest item accepted, as encoded JSON.
        retention_s: seconds of silence after which the conversation expires.
    """

    def __init__(
        self,
        redis: RedisHandle,
        tenant: str,
        conversation_id: str,
        head: ImportHead,
        new_id: Callable[[], str],
        *,
        max_item_bytes: int,
        retention_s: float | None = None,
    ) -> None:
        self._script = script_of(redis, "import")
        self._keys = conversation_keys(tenant, conversation_id)
        self._name = conversation_id
        self._head = head
        self._new_id = new_id
        self._max_item_bytes = max_item_bytes
        self._retention_s = retention_s
        self._generation = ""
        self._previous = ""
        self.n_items = 0
        self.n_new = 0

    async def add(self, items: Sequence[ImportedItem]) -> None:
        """Take in the next items, all or none of them; none at all makes the conversation.

        Raises:
            ImportRefused: another item stands in the place of one of them, or its id, its parent or
                those before it are missing; what came before it is kept.
            ConversationDeleted: it is being deleted, or a `conv_...` id was.
            InvalidItem: one is too large or no JSON.
        """
        first, previous = self.n_items + 1, self._previous
        records: list[bytes] = []
        for seq, item in enumerate(items, first):
            record, previous = self._record(item, seq, previous)
            records.append(record)
        head = self._head
        reply = await self._script(
            keys=script_keys(self._keys),
            args=[
                self._generation,
                self._new_id()[-_STAMP_DIGITS:],
                self._name,
                milliseconds_of(head.created_at),
                encode_json(head.metadata),
                head.instructions,
                round((self._retention_s or 0) * 1000),
                0 if is_ours(self._name) else 1,
                first,
                *records,
            ],
        )
        if reply[0] == b"DELETED":
            raise ConversationDeleted(self._name)
        if reply[0] != b"OK":
            raise ImportRefused(reply[1], _REASONS[reply[0]])
        self._generation = reply[1].decode()
        self.n_new += reply[2]
        self.n_items += len(records)
        self._previous = previous

    def _record(self, item: ImportedItem, seq: int, previous: str) -> tuple[bytes, str]:
        """Return the record of an item and its id."""
        payload = encode_payload(item.draft, self._max_item_bytes)
        parent = previous if item.parent is None else item.parent
        item_id = item.id
        if item_id is None:
            stamp = digest_of([parent.encode(), payload])[:_STAMP_DIGITS]
            item_id = item_id_of(seq, stamp)
        if seq_of(item_id) != seq:
            raise ImportRefused(seq, f"its id {item_id!r:.60} is not of this place")
        if parent and not 0 < (seq_of(parent) or 0) < seq:
            raise ImportRefused(seq, f"its parent {parent!r:.60} does not come before it")
        at = item.created_at or self._head.created_at
        return encode_record(item_id, parent, milliseconds_of(at), payload), item_id


_REASONS = {
    b"CONFLICT": "another item stands there",
    b"GAP": "items before it are missing",
    b"NOPARENT": "its parent is not in the conversation",
}
