"""What the scripts answer, as values: loaded conversations, finished appends, refusals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from memory.conversation import Conversation, Item
from memory.errors import (
    ConversationDeleted,
    ConversationExists,
    ConversationNotFound,
    IdempotencyMismatch,
    ItemNotFound,
    TipConflict,
)
from memory.records import Draft, decode_record, decode_segment, item_id_of, time_of


@dataclass(frozen=True, slots=True)
class ItemPage:
    """A page of items in the asked order; `has_more` says whether another page follows."""

    items: tuple[Item, ...]
    has_more: bool


@dataclass(frozen=True, slots=True)
class Loaded:
    """What open() found: the conversation, and the items from `from_seq` on.

    `generation` names this incarnation of the id (a deleted name made anew has another), `epoch`
    counts redactions: a cached copy is good only where both still hold. `segments` maps
    ranges of positions to summary texts, None where the caller's revision stands.
    """

    conversation: Conversation
    generation: str
    epoch: str
    from_seq: int
    items: tuple[Item, ...]
    segments: Mapping[tuple[int, int], str] | None = None
    segments_revision: str = ""


@dataclass(frozen=True, slots=True)
class Appended:
    """The outcome of an append; on a replay, `items` are the ones stored the first time."""

    items: tuple[Item, ...]
    generation: str
    epoch: str
    n_items: int
    tip: str | None
    created_at: datetime
    is_replay: bool


def loaded_of(tenant: str, conversation_id: str, reply: Sequence[Any]) -> Loaded:
    """Return what open.lua found."""
    _, generation, epoch, created, _, metadata, instructions, tip, *rest = reply
    n_items, first, items, revision, segments = rest
    return Loaded(
        conversation=Conversation(
            id=conversation_id,
            tenant=tenant,
            created_at=time_of(int(created)),
            metadata=orjson.loads(metadata) if metadata else {},
            instructions=instructions.decode() or None,
            n_items=n_items,
            tip=tip.decode() or None,
        ),
        generation=generation.decode(),
        epoch=epoch.decode(),
        from_seq=first,
        items=tuple(decode_record(record) for record in items),
        segments=_segments_of(segments) if segments else None,
        segments_revision=revision.decode(),
    )


def _segments_of(flat: Sequence[bytes]) -> dict[tuple[int, int], str]:
    """Return the segments that can be read; a corrupt one is made anew by the summary keeper."""
    segments = {}
    for name, stored in zip(flat[::2], flat[1::2], strict=True):
        start, _, stop = name.partition(b"-")
        text = decode_segment(stored)
        if text is not None and start.isdigit() and stop.isdigit():
            segments[int(start), int(stop)] = text
    return segments


def appended_of(reply: Sequence[Any], drafts: list[Draft], stamp: str, now_ms: int) -> Appended:
    """Return what append.lua stored."""
    _, generation, epoch, first, n_items, created, parent = reply
    previous: str | None = parent.decode() or None
    items: list[Item] = []
    for seq, draft in enumerate(drafts, first):
        item_id = item_id_of(seq, stamp)
        items.append(
            Item(item_id, seq, draft.message, time_of(now_ms), previous, draft.metadata or {})
        )
        previous = item_id
    return Appended(
        items=tuple(items),
        generation=generation.decode(),
        epoch=epoch.decode(),
        n_items=n_items,
        tip=previous,
        created_at=time_of(int(created)),
        is_replay=False,
    )


def replayed_of(reply: Sequence[Any]) -> Appended:
    """Return what an earlier append with the same key had stored."""
    _, generation, epoch, _, n_items, created, tip, records = reply
    return Appended(
        items=tuple(decode_record(record) for record in records),
        generation=generation.decode(),
        epoch=epoch.decode(),
        n_items=n_items,
        tip=tip.decode() or None,
        created_at=time_of(int(created)),
        is_replay=True,
    )


def refusal_of(
    reply: Sequence[Any], conversation_id: str, key: str | None, parent: str | None
) -> Exception:
    """Return the error that a refusal of append.lua stands for."""
    status = reply[0]
    if status == b"CONFLICT":
        return TipConflict(reply[1].decode() or None)
    if status == b"MISMATCH":
        return IdempotencyMismatch(key or "")
    if status == b"EXISTS":
        return ConversationExists(conversation_id)
    if status == b"NOPARENT":
        return ItemNotFound(parent or "")
    if status == b"DELETED":
        return ConversationDeleted(conversation_id)
    return ConversationNotFound(conversation_id)
