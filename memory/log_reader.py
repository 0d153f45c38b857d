"""Reading the log: pages, single items, and the whole of it in pieces. Writes nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Literal

from memory.conversation import Item
from memory.errors import ConversationNotFound, ItemNotFound
from memory.keys import conversation_keys
from memory.records import decode_record, seq_of
from memory.replies import ItemPage
from memory.scripts import RedisHandle

Order = Literal["asc", "desc"]
_PIECE_ITEMS = 200


class LogReader:
    """The logs of all tenants, to be read.

    Args:
        redis: a handle with `decode_responses=False`.
    """

    def __init__(self, redis: RedisHandle) -> None:
        self._redis = redis

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
        found = await self._range(tenant, conversation_id, start, stop)
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
        found = await self._range(tenant, conversation_id, seq - 1, seq - 1)
        if not found or found[0].id != item_id:
            raise ItemNotFound(item_id)
        return found[0]

    async def in_pieces(self, tenant: str, conversation_id: str) -> AsyncIterator[list[Item]]:
        """Yield all items, oldest first, 200 at a time; those that come meanwhile included.

        Raises:
            ConversationNotFound: if there is no such conversation, or no longer.
        """
        start = 0
        while piece := await self._range(tenant, conversation_id, start, start + _PIECE_ITEMS - 1):
            yield piece
            start += len(piece)

    async def _range(self, tenant: str, conversation_id: str, start: int, stop: int) -> list[Item]:
        keys = conversation_keys(tenant, conversation_id)
        async with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.exists(keys.meta)
            pipeline.lrange(keys.log, start, stop)
            exists, records = await pipeline.execute()
        if not exists:
            raise ConversationNotFound(conversation_id)
        return [decode_record(record) for record in records]


def _page_bounds(anchor: int, limit: int, order: Order) -> tuple[int, int]:
    """Return LRANGE bounds of a page that starts with the anchor item and shows one too many."""
    if order == "asc":
        start = max(anchor - 1, 0)
        return start, start + limit + (1 if anchor else 0)
    if anchor:
        return max(anchor - 1 - limit - 1, 0), anchor - 1
    return -limit - 1, -1
