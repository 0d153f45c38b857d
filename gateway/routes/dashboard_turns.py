"""The explorers: turns with the reason of every decision, and conversations with their turns."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter, Request, Response

from gateway.dashboard.explorer import FILTERS, PAGE, cost_of_record, talks_of, turns_in, turns_of
from gateway.dashboard.view import day_in
from gateway.errors import RequestError
from gateway.models import counter_of
from gateway.routes.dependencies import Wired
from gateway.routes.page_route import PageRoute, Shown, page
from gateway.routes.turns import turn_to_wire
from gateway.services import Services
from memory.conversation import Context, Item, Message
from memory.errors import ConversationNotFound
from memory.memory import STORE_FAILURES

router = APIRouter(route_class=PageRoute)
_MOST_ITEMS = 100


@router.get("/turns")
async def turns(wired: Wired, view: Shown, request: Request) -> Response:
    """Show the newest turns that fit the filters."""
    view.viewer.require("turns")
    text, day = view.query.get("before", ""), day_in(view)
    before_us = int(text) if text.isdecimal() and len(text) < 19 else None
    found = await turns_of(wired, view, day, before_us=before_us)
    return page(
        request,
        view,
        "turns.html",
        "Turns",
        turns=found,
        day=day,
        filters={name: view.query[name] for name in FILTERS if view.query.get(name)},
        cost_of=cost_of_record,
        has_more=len(found) == PAGE,
    )


@router.get("/turns/{request_id}")
async def turn(wired: Wired, view: Shown, request: Request, request_id: str) -> Response:
    """Show one turn: its decision and why, its attempts, cost and timings."""
    view.viewer.require("turns")
    record = await wired.books.turn(view.tenant.id, request_id)
    if record is None:
        raise RequestError(f"There is no turn {request_id!r}.", status=404, code="not_found")
    return page(request, view, "turn.html", "Turn", t=turn_to_wire(record), record=record)


@router.get("/conversations")
async def conversations(wired: Wired, view: Shown, request: Request) -> Response:
    """Show the conversations of the newest turns."""
    view.viewer.require("conversations")
    if view.query.get("name"):
        return await _conversation(wired, view, request, view.query["name"])
    talks = await talks_of(wired, view)
    return page(request, view, "conversations.html", "Conversations", talks=talks)


async def _conversation(wired: Wired, view: Shown, request: Request, name: str) -> Response:
    taken = await turns_in(wired, view, name)
    try:
        talk, is_away = await _talk(wired, view.tenant.id, name), False
    except STORE_FAILURES:  # its handle has logged it; the turns are in the books
        talk, is_away = None, True
    if talk is None and not taken and not is_away:
        raise ConversationNotFound(name)
    return page(
        request,
        view,
        "conversation.html",
        "Conversation",
        name=name,
        talk=talk,
        is_away=is_away,
        turns=taken,
        cost_of=cost_of_record,
    )


@dataclass(frozen=True, slots=True)
class _Talk:
    """A stored conversation: its newest items, oldest first, and what a model would see next."""

    n_items: int
    items: tuple[Item, ...]
    context: Context


async def _talk(wired: Services, tenant: str, name: str) -> _Talk | None:
    stored = await wired.memory.store.get(tenant, name)
    if stored is None:
        return None
    found = await wired.memory.store.items(
        tenant, name, after=None, limit=_MOST_ITEMS, order="desc"
    )
    items = tuple(reversed(found.items))
    count, window_tokens = counter_of(wired.models, None)
    last = next((item.message for item in reversed(items) if item.message.role == "user"), None)
    context = await wired.memory.build_context(
        await wired.memory.open(tenant, name),
        [last or Message(role="user", content="")],
        window_tokens=window_tokens,
        count_tokens=count,
    )
    return _Talk(stored.n_items, items, context)
