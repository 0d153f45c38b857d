"""Export and import of a conversation as JSON Lines, both streamed: additions to OpenAI's surface.

An import is idempotent: items keep their ids, so that sending a file again goes on where the first
try broke off. Memory stays bounded by a batch, however long the file is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, StreamingResponse

from gateway.routes.conversations import Caller, PathName, retention_s
from gateway.routes.dependencies import Wired
from gateway.wire.transfer import (
    MEDIA_TYPE,
    head_line,
    item_line,
    lines_of,
    parse_head,
    parse_item,
)
from memory.conversation import Conversation
from memory.errors import ConversationNotFound
from memory.importing import ConversationImport, ImportedItem, ImportHead
from memory.memory import STORE_FAILURES
from memory.store import ConversationStore

_BATCH_ITEMS = 500
# What one script may carry without keeping others from Redis for long.
_BATCH_BYTES = 1024 * 1024
_WAITS_S = (0.3, 1.0, 2.0, 4.0)

router = APIRouter(prefix="/v1/conversations")


@router.get("/{conversation_id}/export")
async def export(wired: Wired, principal: Caller, conversation_id: PathName) -> StreamingResponse:
    """Stream the whole conversation as JSON Lines."""
    tenant = principal.tenant.id
    conversation = await wired.memory.store.get(tenant, conversation_id)
    if conversation is None:
        raise ConversationNotFound(conversation_id)
    lines = _lines(wired.memory.store, tenant, conversation)
    return StreamingResponse(lines, media_type=MEDIA_TYPE)


@router.post("/{conversation_id}/import")
async def import_lines(
    wired: Wired, principal: Caller, conversation_id: PathName, request: Request
) -> JSONResponse:
    """Take over JSON Lines; what is there already is passed over."""
    now = wired.clock()
    lines = lines_of(request.stream())
    first = await anext(lines, b"{}")
    head = parse_head(first, now)
    standing = await wired.memory.store.get(principal.tenant.id, conversation_id)
    n_before = standing.n_items if standing else 0
    run = wired.memory.store.importing(
        principal.tenant.id,
        conversation_id,
        head or ImportHead(now),
        retention_s=retention_s(wired, principal),
    )
    n_bytes, number = 0, 1
    batch = [] if head else [parse_item(first, number)]
    async for line in lines:
        number += 1
        batch.append(parse_item(line, number))
        n_bytes += len(line)
        if len(batch) >= _BATCH_ITEMS or n_bytes >= _BATCH_BYTES:
            await _add(run, batch)
            batch, n_bytes = [], 0
    await _add(run, batch)
    return JSONResponse(
        {
            "id": conversation_id,
            "object": "conversation.imported",
            "n_items": run.n_items,
            "n_new": max(0, run.n_items - n_before),
        }
    )


async def _add(run: ConversationImport, batch: Sequence[ImportedItem]) -> None:
    """Take a batch in, trying again for a while: a long import outlives a short silence of Redis.

    Raises:
        redis.exceptions.RedisError: it did not come back; what was stored stays.
    """
    for wait_s in _WAITS_S:
        try:
            return await run.add(batch)
        except STORE_FAILURES:
            await asyncio.sleep(wait_s)
    await run.add(batch)


async def _lines(
    store: ConversationStore, tenant: str, conversation: Conversation
) -> AsyncIterator[bytes]:
    yield head_line(conversation)
    async for piece in store.in_pieces(tenant, conversation.id):
        yield b"".join(map(item_line, piece))
