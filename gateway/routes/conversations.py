"""The conversation store over HTTP, shaped as OpenAI's Conversations, and the context dry run.

Source: OpenAI API reference, "Conversations" and "List items".
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Query
from fastapi.responses import JSONResponse
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from gateway.auth import Principal
from gateway.errors import RequestError
from gateway.front import SLASH_IN_NAME
from gateway.models import model_named
from gateway.routes.dependencies import Wired, require
from gateway.services import Services
from gateway.wire.chat import ChatMessage
from memory.conversation import Context, Conversation, Item, Message, message_from_wire
from memory.counting import TokenCounter
from memory.errors import ConversationNotFound
from memory.records import Draft

Metadata = dict[str, Any]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _can_be_sent_back(cls, given: object) -> object:
        """Refuse what Python reads but JSON cannot say: NaN, 1e999, halves of characters.

        Once stored, one such value would break every later answer that holds it.
        """
        try:
            json.dumps(given, allow_nan=False, ensure_ascii=False).encode()
        except (TypeError, ValueError, RecursionError):  # bytes, where the body claims no JSON
            raise ValueError(
                "NaN, infinities, lone surrogates and deep nesting are refused"
            ) from None
        return given


class NewItem(ChatMessage):
    """An item as posted: a message, with optional metadata beside it."""

    metadata: Metadata | None = None


class CreateBody(_Body):
    """`id` is a name of the caller's making; without one a `conv_...` id is made."""

    id: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    items: Annotated[list[NewItem], Field(max_length=1000)] | None = None
    metadata: Metadata | None = None


class UpdateBody(_Body):
    """The conversation's metadata, replaced whole."""

    metadata: Metadata


class ItemsBody(_Body):
    """Items to append, all of them or none.

    `parent` is the item that the first one follows, where that is not the newest (an edited or
    regenerated message); `expected_tip` the newest item as the caller knows it, "" for none.
    """

    items: Annotated[list[NewItem], Field(min_length=1, max_length=1000)]
    parent: str | None = None
    expected_tip: str | None = None


class ContextBody(_Body):
    """`input` is the next user message, or messages; `model` names whose tokens are counted."""

    input: str | list[ChatMessage]
    max_tokens: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    model: str | None = None


# How long a dry run waits for vectors of items that came just now; a turn does not.
_PATIENCE_S = 5.0

router = APIRouter(prefix="/v1/conversations")


def _name_in_path(given: object) -> object:
    return given.replace(SLASH_IN_NAME, "/") if isinstance(given, str) else given


PathName = Annotated[str, BeforeValidator(_name_in_path)]
Caller = Annotated[Principal, Depends(require("conversations"))]


@router.post("")
async def create(wired: Wired, principal: Caller, body: CreateBody | None = None) -> JSONResponse:
    """Create a conversation."""
    body = body or CreateBody()
    conversation = await wired.memory.store.create(
        principal.tenant.id,
        body.id,
        metadata=body.metadata,
        messages=[_draft(item) for item in body.items or ()],
        retention_s=retention_s(wired, principal),
    )
    return JSONResponse(conversation_to_wire(conversation))


@router.get("/{conversation_id}")
async def retrieve(wired: Wired, principal: Caller, conversation_id: PathName) -> JSONResponse:
    """Return a conversation."""
    conversation = await wired.memory.store.get(principal.tenant.id, conversation_id)
    if conversation is None:
        raise ConversationNotFound(conversation_id)
    return JSONResponse(conversation_to_wire(conversation))


@router.post("/{conversation_id}")
async def update(
    wired: Wired, principal: Caller, conversation_id: PathName, body: UpdateBody
) -> JSONResponse:
    """Replace the metadata."""
    conversation = await wired.memory.store.set_metadata(
        principal.tenant.id, conversation_id, body.metadata
    )
    return JSONResponse(conversation_to_wire(conversation))


@router.delete("/{conversation_id}")
async def delete(wired: Wired, principal: Caller, conversation_id: PathName) -> JSONResponse:
    """Delete a conversation with all that was derived from it."""
    if not await wired.eraser.conversation(principal.tenant.id, conversation_id):
        raise ConversationNotFound(conversation_id)
    return JSONResponse({"id": conversation_id, "object": "conversation.deleted", "deleted": True})


@router.post("/{conversation_id}/items")
async def append(
    wired: Wired,
    principal: Caller,
    conversation_id: PathName,
    body: ItemsBody,
    idempotency_key: Annotated[str | None, Header()] = None,
) -> JSONResponse:
    """Append items; the same Idempotency-Key does it once."""
    opened = await wired.memory.open(principal.tenant.id, conversation_id)
    items = await wired.memory.append(
        opened,
        [_draft(item) for item in body.items],
        idempotency_key=idempotency_key,
        expected_tip=body.expected_tip,
        parent=body.parent,
        retention_s=retention_s(wired, principal),
    )
    return JSONResponse(_list_to_wire(items, has_more=False))


@router.get("/{conversation_id}/items")
async def items(
    wired: Wired,
    principal: Caller,
    conversation_id: PathName,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: str | None = None,
    order: Literal["asc", "desc"] = "desc",
) -> JSONResponse:
    """Return a page of items."""
    page = await wired.memory.store.items(
        principal.tenant.id, conversation_id, after=after, limit=limit, order=order
    )
    return JSONResponse(_list_to_wire(page.items, has_more=page.has_more))


@router.get("/{conversation_id}/items/{item_id}")
async def item(
    wired: Wired, principal: Caller, conversation_id: PathName, item_id: PathName
) -> JSONResponse:
    """Return one item."""
    found = await wired.memory.store.item(principal.tenant.id, conversation_id, item_id)
    return JSONResponse(item_to_wire(found))


@router.delete("/{conversation_id}/items/{item_id}")
async def redact(
    wired: Wired, principal: Caller, conversation_id: PathName, item_id: PathName
) -> JSONResponse:
    """Erase the content of one item; its place stays."""
    await wired.eraser.item(principal.tenant.id, conversation_id, item_id)
    conversation = await wired.memory.store.get(principal.tenant.id, conversation_id)
    if conversation is None:
        raise ConversationNotFound(conversation_id)
    return JSONResponse(conversation_to_wire(conversation))


@router.post("/{conversation_id}/context")
async def context(
    wired: Wired, principal: Caller, conversation_id: PathName, body: ContextBody
) -> JSONResponse:
    """Return what the model would see, without asking it."""
    model = model_named(wired.models, body.model)
    opened = await wired.memory.open(principal.tenant.id, conversation_id)
    new = _input_messages(body.input)
    built = await wired.memory.build_context(
        opened,
        new,
        window_tokens=body.max_tokens or model.prompt_tokens(None),
        count_tokens=model.count,
        reserved_tokens=model.template.reserved_tokens,
        patience_s=_PATIENCE_S,
    )
    shown = model.template.applied(built).messages
    return JSONResponse(
        {
            "messages": [message.to_wire() for message in shown],
            "tokens": built.tokens,
            "parts": {
                "summary": built.summary,
                "recalled": list(built.recalled),
                "recent": list(built.recent),
            },
            "tokens_by_part": _tokens_by_part(
                built, new, opened.conversation.instructions, TokenCounter(model.count)
            ),
            "left_out": built.n_left_out,
        }
    )


def _tokens_by_part(
    built: Context, new: list[Message], instructions: str | None, count: TokenCounter
) -> dict[str, int]:
    """Return the tokens of each part; what frames the whole counts as the turn's."""
    sizes = [count.message(message) for message in built.messages]
    n_turn = next((n for n, m in enumerate(reversed(new), 1) if m.role == "user"), len(new))
    n_lead, n_recalled = bool(instructions) + bool(built.summary), bool(built.recalled)
    last = len(sizes) - n_turn
    parts = {
        "instructions": sum(sizes[: bool(instructions)]),
        "summary": sum(sizes[bool(instructions) : n_lead]),
        "recent": sum(sizes[n_lead : last - n_recalled]),
        "recalled": sum(sizes[last - n_recalled : last]),
    }
    return {**parts, "turn": built.tokens - sum(parts.values())}


def conversation_to_wire(conversation: Conversation) -> dict[str, Any]:
    """Return the conversation object."""
    return {
        "id": conversation.id,
        "object": "conversation",
        "created_at": int(conversation.created_at.timestamp()),
        "metadata": dict(conversation.metadata),
        "n_items": conversation.n_items,
    }


def item_to_wire(item: Item) -> dict[str, Any]:
    """Return one item: `{id, seq, role, content, metadata, created_at}`, tool calls beside."""
    return {
        "id": item.id,
        "object": "conversation.item",
        "type": "message",
        "seq": item.seq,
        **item.message.to_wire(),
        "metadata": dict(item.metadata),
        "created_at": int(item.created_at.timestamp()),
    }


def retention_s(wired: Services, principal: Principal) -> float | None:
    """Return after how much silence the tenant's policy lets a conversation expire."""
    tenant = principal.tenant
    days = wired.policies.policy_of(tenant.id, tenant.policy).memory.retention_days
    return days * 86_400.0 if days else None


def _list_to_wire(items: list[Item] | tuple[Item, ...], *, has_more: bool) -> dict[str, Any]:
    return {
        "object": "list",
        "data": [item_to_wire(item) for item in items],
        "first_id": items[0].id if items else None,
        "last_id": items[-1].id if items else None,
        "has_more": has_more,
    }


def _draft(item: NewItem) -> Draft:
    wire = item.model_dump(exclude_unset=True)
    metadata = wire.pop("metadata", None) or {}
    wire.pop("type", None)
    if "content" not in wire and not wire.get("tool_calls"):
        raise RequestError(
            "Missing required parameter: 'items[].content'.",
            code="missing_required_parameter",
            param="items[].content",
        )
    return Draft(message_from_wire(wire), metadata)


def _input_messages(given: str | list[ChatMessage]) -> list[Message]:
    if isinstance(given, str):
        return [Message(role="user", content=given)]
    if not given:
        raise RequestError("'input' is empty.", code="invalid_value", param="input")
    return [message_from_wire(message.model_dump(exclude_unset=True)) for message in given]
