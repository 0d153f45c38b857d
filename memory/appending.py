"""What an append may ask for, and how it is spelled for append.lua; knows no connection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypedDict

from memory.conversation import Message
from memory.errors import InvalidItem
from memory.keys import IDEMPOTENCY_ENTRIES, ConversationKeys, is_ours
from memory.records import Draft, digest_of, encode_json, encode_payload, milliseconds_of

MAX_ITEMS_PER_APPEND = 1000
_CREATE = {"never": 0, "missing": 1, "new": 2}


class AppendOptions(TypedDict, total=False):
    """The conditions and side effects of an append; each may be left out.

    Attributes:
        idempotency_key: any text, remembered for the last 2,048 appends; the same key with the same
            body returns the items of the first time.
        expected_tip: the id of the newest item as the writer knows it; "" means "no item yet".
        expected_generation: the incarnation the writer saw; another one counts as deleted.
        parent: the item the first message follows, where that is not the tip (a branch).
        create: "missing" makes a conversation that is not there, unless its id is `conv_...`;
            "new" refuses one that is.
        instructions: replaces the conversation's instructions when not None.
        metadata: replaces the conversation's metadata when not None.
        retention_s: seconds of silence after which the conversation expires.
        at: the time of the items, now when left out. What was said before a deletion stays deleted.
    """

    idempotency_key: str | None
    expected_tip: str | None
    expected_generation: str | None
    parent: str | None
    create: Literal["never", "missing", "new"]
    instructions: str | None
    metadata: Mapping[str, Any] | None
    retention_s: float | None
    at: datetime | None


@dataclass(frozen=True, slots=True)
class AppendCall:
    """One call of append.lua: `stamp` ends the ids of its items, `now_ms` is their time."""

    keys: list[str]
    args: list[str | bytes | int]
    drafts: list[Draft]
    stamp: str
    now_ms: int


def append_call(
    keys: ConversationKeys,
    conversation_id: str,
    messages: Sequence[Message | Draft],
    options: AppendOptions,
    *,
    now: datetime,
    stamp: str,
    max_item_bytes: int,
) -> AppendCall:
    """Return the call that appends the messages.

    Raises:
        InvalidItem: if they are too many, too large or no JSON.
    """
    drafts = [m if isinstance(m, Draft) else Draft(m) for m in messages]
    if len(drafts) > MAX_ITEMS_PER_APPEND:
        raise InvalidItem(f"more than {MAX_ITEMS_PER_APPEND} items at once")
    payloads = [encode_payload(draft, max_item_bytes) for draft in drafts]
    create = options.get("create", "never")
    if create == "missing" and is_ours(conversation_id):
        create = "never"
    key, tip = options.get("idempotency_key"), options.get("expected_tip")
    metadata, instructions = options.get("metadata"), options.get("instructions")
    now_ms = milliseconds_of(options.get("at") or now)
    args: list[str | bytes | int] = [
        now_ms,
        _CREATE[create],
        options.get("expected_generation") or "",
        "-" if tip == "" else tip or "",
        options.get("parent") or "",
        digest_of([key.encode()]) if key else "",
        digest_of(payloads) if key else "",
        round((options.get("retention_s") or 0) * 1000),
        stamp,
        conversation_id,
        "" if metadata is None else encode_json(metadata),
        0 if instructions is None else 1,
        instructions or "",
        stamp,
        IDEMPOTENCY_ENTRIES,
        *payloads,
    ]
    return AppendCall(script_keys(keys), args, drafts, stamp, now_ms)


def script_keys(keys: ConversationKeys) -> list[str]:
    """Return the keys that append.lua and import.lua take, in their order."""
    return [
        keys.meta,
        keys.log,
        keys.idempotency,
        keys.idempotency_order,
        keys.tombstone,
        keys.segments,
        keys.vectors,
        keys.vector_set,
    ]
