"""How an item and a summary are spelled in Redis; knows bytes, not connections.

A record is four lines: item id, parent id (empty for the first), milliseconds since the epoch,
and a JSON payload `{"m": <message as on the wire>, "d": <metadata>}`. The position in the list is
the `seq`, and the id carries it too, so finding an item needs no index.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any
from zlib import crc32

import orjson

from memory.conversation import Item, Message, message_from_wire
from memory.errors import InvalidItem, ItemTooLarge

_ITEM_ID = re.compile(r"msg_([0-9a-f]{1,12})_[0-9a-f]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Draft:
    """A message about to become an item, with the metadata it will carry (`name`, `time`, ...)."""

    message: Message
    metadata: Mapping[str, Any] = field(default_factory=dict)


def encode_payload(draft: Draft, limit_bytes: int) -> bytes:
    """Return the JSON payload of a record.

    Raises:
        InvalidItem: if the message or metadata is not JSON (lone surrogates, huge integers).
        ItemTooLarge: if it is over `limit_bytes`.
    """
    try:
        payload = orjson.dumps({"m": draft.message.to_wire(), "d": draft.metadata or {}})
    except orjson.JSONEncodeError as error:
        raise InvalidItem(f"an item cannot be stored as JSON: {error}") from error
    if len(payload) > limit_bytes:
        raise ItemTooLarge(len(payload), limit_bytes)
    return payload


def encode_json(value: Mapping[str, Any]) -> bytes:
    """Return a mapping as JSON.

    Raises:
        InvalidItem: if it cannot be JSON.
    """
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError as error:
        raise InvalidItem(f"metadata cannot be stored as JSON: {error}") from error


def encode_record(item_id: str, parent: str, created_ms: int, payload: bytes) -> bytes:
    """Return a record as append.lua would write it."""
    return b"%b\n%b\n%d\n%b" % (item_id.encode(), parent.encode(), created_ms, payload)


def decode_record(record: bytes) -> Item:
    """Return the item of a record."""
    item_id, parent, created_ms, payload = record.split(b"\n", 3)
    body = orjson.loads(payload)
    return Item(
        id=item_id.decode(),
        seq=int(item_id[4 : item_id.index(b"_", 4)], 16),
        message=message_from_wire(body["m"]),
        created_at=time_of(int(created_ms)),
        parent=parent.decode() or None,
        metadata=body["d"],
    )


def encode_segment(text: str) -> bytes:
    """Return a summary as it is stored: a checksum, a space, the text."""
    body = text.encode()
    return b"%08x %b" % (crc32(body), body)


def decode_segment(stored: bytes) -> str | None:
    """Return the text of a stored summary, None when it is not as it was written."""
    checksum, _, body = stored.partition(b" ")
    return body.decode() if checksum == b"%08x" % crc32(body) else None


def item_id_of(seq: int, stamp: str) -> str:
    """Return the id that append.lua gives the item at `seq` of an append with this stamp."""
    return f"msg_{seq:x}_{stamp}"


def seq_of(item_id: str) -> int | None:
    """Return the seq an item id claims, None when it is no id of ours."""
    match = _ITEM_ID.fullmatch(item_id)
    return int(match[1], 16) if match else None


def digest_of(parts: Sequence[bytes]) -> str:
    """Return 32 hex digits that name a body or an idempotency key."""
    digest = blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()


def time_of(milliseconds: int) -> datetime:
    """Return an aware UTC time."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def milliseconds_of(time: datetime) -> int:
    """Return milliseconds since the epoch of an aware time."""
    return round(time.timestamp() * 1000)
