"""The conversation log on Redis: atomic append, pages, deletion.

Owns what is stored and in which single round trip. Knows nothing of prompts, models or policies.
Every write is one Lua script over one hash tag; the log is a list whose position is the item's
`seq`, so numbers have no gap by construction and an append costs the same at any length.
Redis errors pass through.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Unpack

from memory.appending import AppendOptions, append_call
from memory.conversation import Conversation, Item, Message
from memory.errors import ConversationDeleted, ConversationNotFound, ItemNotFound
from memory.importing import ConversationImport, ImportHead
from memory.keys import TOMBSTONE_S, conversation_keys
from memory.log_reader import LogReader
from memory.records import Draft, encode_json, encode_payload, milliseconds_of
from memory.replies import (
    Appended,
    Loaded,
    appended_of,
    loaded_of,
    refusal_of,
    replayed_of,
)
from memory.scripts import RedisHandle, script_of

__all__ = ["ConversationStore", "RedisHandle", "script_of"]

MAX_ITEM_BYTES = 4 * 1024 * 1024
REDACTED = "redacted"


class ConversationStore(LogReader):
    """Conversations of all tenants on one Redis.

    Args:
        redis: a handle with `decode_responses=False`.
        clock: the time now, aware UTC.
        new_id: at least 16 random lowercase hex digits at its end.
        max_item_bytes: the largest item accepted, as encoded JSON.
    """

    def __init__(
        self,
        redis: RedisHandle,
        clock: Callable[[], datetime],
        new_id: Callable[[], str],
        *,
        max_item_bytes: int = MAX_ITEM_BYTES,
    ) -> None:
        super().__init__(redis)
        self._clock = clock
        self._new_id = new_id
        self._max_item_bytes = max_item_bytes
        self._append = script_of(redis, "append")
        self._open = script_of(redis, "open")
        self._update = script_of(redis, "update")
        self._delete = script_of(redis, "delete")

    def new_key(self) -> str:
        """Return a fresh idempotency key."""
        return f"auto-{self._new_id()}"

    def now(self) -> datetime:
        """Return the time now, aware UTC."""
        return self._clock()

    async def create(
        self,
        tenant: str,
        conversation_id: str | None = None,
        *,
        metadata: Mapping[str, Any] | None = None,
        messages: Sequence[Message | Draft] = (),
        retention_s: float | None = None,
    ) -> Conversation:
        """Create a conversation and return it; without an id, one named `conv_...`.

        Raises:
            ConversationExists: if the id is taken.
            InvalidConversationId, InvalidItem: as they say.
        """
        name = conversation_id or f"conv_{self._new_id()[-32:]}"
        appended = await self.append_all(
            tenant,
            name,
            messages,
            create="new",
            metadata=metadata or {},
            retention_s=retention_s,
        )
        return Conversation(
            id=name,
            tenant=tenant,
            created_at=appended.created_at,
            metadata=metadata or {},
            n_items=appended.n_items,
            tip=appended.tip,
        )

    async def get(self, tenant: str, conversation_id: str) -> Conversation | None:
        """Return the conversation, None where there is none (never made, deleted, foreign)."""
        loaded = await self.load(tenant, conversation_id, max_items=0)
        return loaded.conversation if loaded else None

    async def load(
        self,
        tenant: str,
        conversation_id: str,
        *,
        known: Loaded | None = None,
        known_n_items: int = 0,
        known_segments: str = "",
        max_items: int = 1000,
    ) -> Loaded | None:
        """Return the conversation and the items after the known ones, in one round trip.

        Args:
            tenant: whose conversation.
            conversation_id: its name.
            known: an earlier load; when it is stale, everything comes again from seq 1.
            known_n_items: how many items the caller holds.
            known_segments: the revision of the summary segments that the caller holds.
            max_items: the most items to return; ask again for the rest.
        """
        keys = conversation_keys(tenant, conversation_id)
        reply = await self._open(
            keys=[keys.meta, keys.log, keys.tombstone, keys.segments],
            args=[
                known.generation if known else "",
                known.epoch if known else "",
                known_n_items if known else 0,
                max_items,
                known_segments,
            ],
        )
        if reply[0] != b"FOUND":
            return None
        return loaded_of(tenant, conversation_id, reply)

    async def append(
        self,
        tenant: str,
        conversation_id: str,
        messages: Sequence[Message | Draft],
        *,
        idempotency_key: str | None = None,
        expected_tip: str | None = None,
        create: bool = False,
    ) -> list[Item]:
        """Store messages, all or none, and return their items; see AppendOptions.

        Raises:
            ConversationNotFound, TipConflict, IdempotencyMismatch, InvalidItem: as they say.
        """
        appended = await self.append_all(
            tenant,
            conversation_id,
            messages,
            idempotency_key=idempotency_key,
            expected_tip=expected_tip,
            create="missing" if create else "never",
        )
        return list(appended.items)

    async def append_all(
        self,
        tenant: str,
        conversation_id: str,
        messages: Sequence[Message | Draft],
        **options: Unpack[AppendOptions],
    ) -> Appended:
        """Append under every condition the log knows; without messages, create or change alone.

        Raises:
            ConversationExists, ItemNotFound (an unknown parent), and those of append().
        """
        call = append_call(
            conversation_keys(tenant, conversation_id),
            conversation_id,
            messages,
            options,
            now=self._clock(),
            stamp=self._new_id()[-16:],
            max_item_bytes=self._max_item_bytes,
        )
        reply = await self._append(keys=call.keys, args=call.args)
        if reply[0] == b"OK":
            return appended_of(reply, call.drafts, call.stamp, call.now_ms)
        if reply[0] == b"REPLAY":
            return replayed_of(reply)
        key, parent = options.get("idempotency_key"), options.get("parent")
        raise refusal_of(reply, conversation_id, key, parent)

    def importing(
        self,
        tenant: str,
        conversation_id: str,
        head: ImportHead,
        *,
        retention_s: float | None = None,
    ) -> ConversationImport:
        """Return an import into a conversation; nothing is written yet.

        Raises:
            InvalidConversationId: see check_conversation_id.
        """
        return ConversationImport(
            self._redis,
            tenant,
            conversation_id,
            head,
            self._new_id,
            max_item_bytes=self._max_item_bytes,
            retention_s=retention_s,
        )

    async def set_metadata(
        self, tenant: str, conversation_id: str, metadata: Mapping[str, Any]
    ) -> Conversation:
        """Replace the conversation's metadata and return it as it stands.

        Raises:
            ConversationNotFound: if there is no such conversation.
        """
        await self._change(tenant, conversation_id, "metadata", encode_json(metadata))
        conversation = await self.get(tenant, conversation_id)
        if conversation is None:
            raise ConversationDeleted(conversation_id)
        return conversation

    async def redact(self, tenant: str, conversation_id: str, item_id: str) -> None:
        """Erase the content of one item; its place in the numbering stays.

        Summaries and vectors of the conversation go with it and are made anew from what is left.

        Raises:
            ConversationNotFound, ItemNotFound: as they say.
        """
        item = await self.item(tenant, conversation_id, item_id)
        empty = Draft(Message(role=item.message.role, content=""), {REDACTED: True})
        payload = encode_payload(empty, self._max_item_bytes)
        await self._change(tenant, conversation_id, "redact", item_id, payload)

    async def delete(self, tenant: str, conversation_id: str) -> bool:
        """Delete a conversation with all that was derived from it; False if there was none."""
        keys = conversation_keys(tenant, conversation_id)
        reply = await self._delete(
            keys=[keys.tombstone, *keys.all],
            args=[TOMBSTONE_S, milliseconds_of(self._clock())],
        )
        return bool(reply)

    async def _change(self, tenant: str, conversation_id: str, *args: str | bytes) -> None:
        keys = conversation_keys(tenant, conversation_id)
        reply = await self._update(
            keys=[keys.meta, keys.log, keys.segments, keys.vectors, keys.vector_set],
            args=list(args),
        )
        if reply == b"MISSING":
            raise ConversationNotFound(conversation_id)
        if reply == b"NOITEM":
            raise ItemNotFound(str(args[1]))
