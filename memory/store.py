"""The conversation log on Redis: atomic append, pages, deletion.

Owns what is stored and in which single round trip. Knows nothing of prompts, models or policies.
Every write is one Lua script over one hash tag; the log is a list whose position is the item's
`seq`, so numbers have no gap by construction and an append costs the same at any length.
Redis errors pass through.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from importlib.resources import files
from typing import Any, Literal, Protocol

from memory.conversation import Conversation, Item, Message
from memory.errors import (
    ConversationDeleted,
    ConversationNotFound,
    InvalidItem,
    ItemNotFound,
)
from memory.keys import (
    IDEMPOTENCY_ENTRIES,
    TOMBSTONE_S,
    ConversationKeys,
    conversation_keys,
    is_ours,
)
from memory.records import (
    Draft,
    decode_record,
    digest_of,
    encode_json,
    encode_payload,
    milliseconds_of,
    seq_of,
)
from memory.replies import (
    Appended,
    ItemPage,
    Loaded,
    appended_of,
    loaded_of,
    refusal_of,
    replayed_of,
)

Order = Literal["asc", "desc"]
MAX_ITEMS_PER_APPEND = 1000
REDACTED = "redacted"


class Script(Protocol):
    """A Lua script registered on a connection pool."""

    async def __call__(self, keys: Sequence[str], args: Sequence[str | bytes | int]) -> Any:
        """Run it and return Redis's reply."""
        ...


class RedisHandle(Protocol):
    """The part of `redis.asyncio.Redis` (or RedisCluster) that this package uses."""

    def register_script(self, script: str) -> Any:
        """Return a callable Script that loads itself where the server lost it."""
        ...

    def pipeline(self, transaction: bool = ...) -> Any:
        """Return a pipeline: one round trip for several commands."""
        ...


class ConversationStore:
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
        max_item_bytes: int = 4 * 1024 * 1024,
    ) -> None:
        self._redis = redis
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
        """Store messages at the end of a conversation and return their items.

        The same idempotency key with the same body returns the items of the first time.

        Args:
            tenant: whose conversation.
            conversation_id: its name.
            messages: at least one; all are stored or none.
            idempotency_key: any text, remembered for the last 2,048 appends.
            expected_tip: the id of the newest item as the writer knows it.
            create: make a missing conversation, unless its id is `conv_...`.

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
        *,
        idempotency_key: str | None = None,
        expected_tip: str | None = None,
        expected_generation: str | None = None,
        parent: str | None = None,
        create: Literal["never", "missing", "new"] = "never",
        instructions: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        retention_s: float | None = None,
        at: datetime | None = None,
    ) -> Appended:
        """Append with every condition the log knows; see append().

        Args:
            tenant: whose conversation.
            conversation_id: its name.
            messages: may be empty, to create or to change instructions alone.
            idempotency_key: see append().
            expected_tip: see append(); an empty string means "no item yet".
            expected_generation: the incarnation the writer saw; another one counts as deleted.
            parent: the item the first message follows, where that is not the tip (a branch).
            create: "new" refuses a conversation that exists.
            instructions: replaces the conversation's instructions when not None.
            metadata: replaces the conversation's metadata when not None.
            retention_s: seconds of silence after which the conversation expires.
            at: the time of the items, now when left out.

        Raises:
            ConversationExists, ItemNotFound (an unknown parent), and those of append().
        """
        drafts = [m if isinstance(m, Draft) else Draft(m) for m in messages]
        if len(drafts) > MAX_ITEMS_PER_APPEND:
            raise InvalidItem(f"more than {MAX_ITEMS_PER_APPEND} items at once")
        payloads = [encode_payload(draft, self._max_item_bytes) for draft in drafts]
        if create == "missing" and is_ours(conversation_id):
            create = "never"
        keys = conversation_keys(tenant, conversation_id)
        now_ms = milliseconds_of(at or self._clock())
        stamp = self._new_id()[-16:]
        reply = await self._append(
            keys=_append_keys(keys),
            args=[
                now_ms,
                _CREATE[create],
                expected_generation or "",
                ("-" if expected_tip == "" else expected_tip or ""),
                parent or "",
                digest_of([idempotency_key.encode()]) if idempotency_key else "",
                digest_of(payloads) if idempotency_key else "",
                round(retention_s * 1000) if retention_s else 0,
                stamp,
                conversation_id,
                "" if metadata is None else encode_json(metadata),
                0 if instructions is None else 1,
                instructions or "",
                stamp,
                IDEMPOTENCY_ENTRIES,
                *payloads,
            ],
        )
        if reply[0] == b"OK":
            return appended_of(reply, drafts, stamp, now_ms)
        if reply[0] == b"REPLAY":
            return replayed_of(reply)
        raise refusal_of(reply, conversation_id, idempotency_key, parent)

    async def items(
        self,
        tenant: str,
        conversation_id: str,
        *,
        after: str | None = None,
        limit: int = 20,
        order: Order = "desc",
    ) -> ItemPage:
        """Return a page of items, newest first unless `order` is "asc".

        Raises:
            ConversationNotFound: if there is no such conversation.
            ItemNotFound: if `after` is no item of it.
        """
        anchor = 0
        if after is not None:
            anchor = seq_of(after) or 0
            if not anchor:
                raise ItemNotFound(after)
        start, stop = _page_bounds(anchor, limit, order)
        records = await self._range(tenant, conversation_id, start, stop)
        found = [decode_record(record) for record in records]
        if order == "desc":
            found.reverse()
        if after is not None:
            if not found or found[0].id != after:
                raise ItemNotFound(after)
            found = found[1:]
        return ItemPage(items=tuple(found[:limit]), has_more=len(found) > limit)

    async def item(self, tenant: str, conversation_id: str, item_id: str) -> Item:
        """Return one item.

        Raises:
            ConversationNotFound, ItemNotFound: as they say.
        """
        seq = seq_of(item_id)
        if not seq:
            raise ItemNotFound(item_id)
        records = await self._range(tenant, conversation_id, seq - 1, seq - 1)
        item = decode_record(records[0]) if records else None
        if item is None or item.id != item_id:
            raise ItemNotFound(item_id)
        return item

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
        reply = await self._delete(keys=[keys.tombstone, *keys.all], args=[TOMBSTONE_S])
        return bool(reply)

    async def _range(self, tenant: str, conversation_id: str, start: int, stop: int) -> list[bytes]:
        keys = conversation_keys(tenant, conversation_id)
        async with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.exists(keys.meta)
            pipeline.lrange(keys.log, start, stop)
            exists, records = await pipeline.execute()
        if not exists:
            raise ConversationNotFound(conversation_id)
        return list(records)

    async def _change(self, tenant: str, conversation_id: str, *args: str | bytes) -> None:
        keys = conversation_keys(tenant, conversation_id)
        reply = await self._update(
            keys=[keys.meta, keys.log, keys.segments, keys.vectors], args=list(args)
        )
        if reply == b"MISSING":
            raise ConversationNotFound(conversation_id)
        if reply == b"NOITEM":
            raise ItemNotFound(str(args[1]))


_CREATE = {"never": 0, "missing": 1, "new": 2}


def script_of(redis: RedisHandle, name: str) -> Script:
    """Return one of this package's Lua files, registered on a handle."""
    text = files("memory").joinpath(f"{name}.lua").read_text(encoding="utf-8")
    script: Script = redis.register_script(text)
    return script


def _append_keys(keys: ConversationKeys) -> list[str]:
    return [
        keys.meta,
        keys.log,
        keys.idempotency,
        keys.idempotency_order,
        keys.tombstone,
        keys.segments,
        keys.vectors,
    ]


def _page_bounds(anchor: int, limit: int, order: Order) -> tuple[int, int]:
    """Return LRANGE bounds of a page that starts with the anchor item and shows one too many."""
    if order == "asc":
        start = max(anchor - 1, 0)
        return start, start + limit + (1 if anchor else 0)
    if anchor:
        return max(anchor - 1 - limit - 1, 0), anchor - 1
    return -(limit + 1), -1
