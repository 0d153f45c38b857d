"""A conversation as JSON Lines: one line for itself, then one for each item, oldest first.

Owns the shape of the lines, both ways, and how a body in pieces becomes lines of bounded length.
What export writes, import takes; a line may also be a bare message, `{"role", "content"}`.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import orjson
from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from gateway.errors import RequestError
from gateway.wire.chat import ChatMessage
from memory.conversation import Conversation, Item, message_from_wire
from memory.importing import ImportedItem, ImportHead
from memory.records import Draft

MEDIA_TYPE = "application/jsonl"
# Longer than the largest item with every character escaped would be of any use.
MAX_LINE_BYTES = 8 * 1024 * 1024
_CONVERSATION, _ITEM = "conversation", "conversation.item"


def _time(given: object) -> object:
    if isinstance(given, int | float) and not isinstance(given, bool):
        try:
            return datetime.fromtimestamp(given, UTC)
        except (ValueError, OverflowError, OSError):
            raise ValueError("seconds since the epoch of a time that there is") from None
    return given


Moment = Annotated[AwareDatetime, BeforeValidator(_time)]


class HeadLine(BaseModel):
    """The line of the conversation; what it says counts where the import has to make it."""

    model_config = ConfigDict(extra="forbid")

    object: Literal["conversation"]
    id: str | None = None
    created_at: Moment | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    instructions: str | None = None
    n_items: int | None = None


class ItemLine(ChatMessage):
    """The line of an item; without `parent` it follows the line before it, null is the root."""

    metadata: dict[str, Any] | None = None
    id: str | None = None
    parent: str | None = None
    created_at: Moment | None = None


_OURS = frozenset(["metadata", "id", "parent", "created_at", "object", "type", "seq"])


def head_line(conversation: Conversation) -> bytes:
    """Return the first line of an export."""
    return orjson.dumps(
        {
            "object": _CONVERSATION,
            "id": conversation.id,
            "created_at": conversation.created_at.timestamp(),
            "metadata": dict(conversation.metadata),
            "instructions": conversation.instructions,
            "n_items": conversation.n_items,
        },
        option=orjson.OPT_APPEND_NEWLINE,
    )


def item_line(item: Item) -> bytes:
    """Return the line of an item; its time keeps its milliseconds."""
    return orjson.dumps(
        {
            "object": _ITEM,
            "id": item.id,
            "seq": item.seq,
            "parent": item.parent,
            "created_at": item.created_at.timestamp(),
            **item.message.to_wire(),
            "metadata": dict(item.metadata),
        },
        option=orjson.OPT_APPEND_NEWLINE,
    )


async def lines_of(body: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """Yield the lines of a body, blank ones left out; holds one line at a time.

    Raises:
        RequestError: 413, a line is longer than 8 MiB.
    """
    rest = bytearray()
    async for piece in body:
        rest += piece
        *whole, tail = rest.split(b"\n")
        rest = bytearray(tail)
        for line in whole:
            if line.strip():
                yield bytes(line)
        if len(rest) > MAX_LINE_BYTES:
            raise RequestError(
                f"A line is longer than {MAX_LINE_BYTES} bytes.",
                status=413,
                code="request_too_large",
            )
    if rest.strip():
        yield bytes(rest)


def parse_head(line: bytes, now: datetime) -> ImportHead | None:
    """Return what the first line says of the conversation, None where it is an item already.

    Raises:
        RequestError: 400, it is no line of an export.
    """
    given = _json(line, 1)
    if given.get("object") != _CONVERSATION:
        return None
    try:
        head = HeadLine.model_validate(given)
    except ValidationError as error:
        raise _refusal(error, 1) from error
    return ImportHead(head.created_at or now, head.metadata, head.instructions or "")


def parse_item(line: bytes, number: int) -> ImportedItem:
    """Return the item of a line.

    Raises:
        RequestError: 400, it is no item; `number` is the line's, from 1.
    """
    given = _json(line, number)
    try:
        parsed = ItemLine.model_validate(given)
    except ValidationError as error:
        raise _refusal(error, number) from error
    if "content" not in given and not given.get("tool_calls"):
        raise _invalid(number, "'content' is missing")
    wire = {name: value for name, value in given.items() if name not in _OURS}
    parent = (parsed.parent or "") if "parent" in given else None
    draft = Draft(message_from_wire(wire), parsed.metadata or {})
    return ImportedItem(draft, parsed.id, parent, parsed.created_at)


def _json(line: bytes, number: int) -> dict[str, Any]:
    try:
        given = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise _invalid(number, "it is not valid JSON", "invalid_json") from error
    if not isinstance(given, dict):
        raise _invalid(number, "it is no JSON object", "invalid_json")
    return given


def _refusal(error: ValidationError, number: int) -> RequestError:
    first = error.errors()[0]
    where = ".".join(str(step) for step in first["loc"])
    return _invalid(number, f"{where}: {first['msg']}")


def _invalid(number: int, what: str, code: str = "invalid_value") -> RequestError:
    return RequestError(f"Line {number}: {what}.", code=code, param=f"line {number}")
