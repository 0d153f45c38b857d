"""Explorer: recorded turns by what they were, newest first; conversations by their turns.

Reads the books' rows of one tenant; every question is bounded by a number of rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import orjson
from sqlalchemy import Connection, select

from gateway.dashboard.view import View
from gateway.services import Services
from policies.entry import to_us
from policies.tables import turns_table

PAGE = 50
FILTERS = ("model", "tier", "status", "reason", "cache", "conversation", "end_user")
_MOST_SCANNED = 2_000


@dataclass(frozen=True, slots=True)
class TalkLine:
    """A conversation in the list: its turns among the newest, and what they cost."""

    name: str
    n_turns: int
    cost_micro: int
    last_us: int
    tiers: tuple[str, ...]


async def turns_of(
    wired: Services, view: View, day: date | None, *, before_us: int | None = None
) -> list[Mapping[str, Any]]:
    """Return the newest recorded turns that fit the address's filters, at most `PAGE`.

    Args:
        wired: services.
        view: whose turns, which filters.
        day: that day alone; None is the view's span.
        before_us: started before this moment, for the next page.
    """
    table = turns_table.c
    span = view.span if day is None else view.span_of(day, day)
    query = (
        select(turns_table.c.record)
        .where(table.tenant == view.tenant.id)
        .where(table.started_us >= to_us(span.start), table.started_us < to_us(span.end))
    )
    for name in FILTERS:
        if view.query.get(name):
            query = query.where(table[name] == view.query[name])
    if before_us is not None:
        query = query.where(table.started_us < before_us)
    query = query.order_by(table.started_us.desc()).limit(PAGE)
    return await _records(wired, query)


async def talks_of(wired: Services, view: View) -> list[TalkLine]:
    """Return the conversations among the newest turns of the span, the latest first."""
    table = turns_table.c
    query = (
        select(turns_table.c.record)
        .where(table.tenant == view.tenant.id, table.conversation.is_not(None))
        .where(table.started_us >= to_us(view.span.start))
        .order_by(table.started_us.desc())
        .limit(_MOST_SCANNED)
    )
    found: dict[str, list[Mapping[str, Any]]] = {}
    for record in await _records(wired, query):
        found.setdefault(record["conversation"], []).append(record)
    return [
        TalkLine(
            name=name,
            n_turns=len(records),
            cost_micro=sum(cost_of_record(record, view.currency) or 0 for record in records),
            last_us=records[0]["started_us"],
            tiers=tuple(sorted({record["tier"] or "none" for record in records})),
        )
        for name, records in list(found.items())[:PAGE]
    ]


async def turns_in(wired: Services, view: View, conversation: str) -> list[Mapping[str, Any]]:
    """Return the newest turns of one conversation, whenever they were."""
    table = turns_table.c
    query = (
        select(turns_table.c.record)
        .where(table.tenant == view.tenant.id, table.conversation == conversation)
        .order_by(table.started_us.desc())
        .limit(PAGE)
    )
    return await _records(wired, query)


def cost_of_record(record: Mapping[str, Any], currency: str) -> int | None:
    """Return what a recorded turn cost, None where its price is unknown or in another currency."""
    cost = record.get("cost")
    if not cost:
        return None
    if currency == "USD":
        return int(cost["usd_micro"])
    return int(cost["micro"]) if record["currency"] == currency else None


async def _records(wired: Services, query: Any) -> list[Mapping[str, Any]]:
    def read(connection: Connection) -> list[Mapping[str, Any]]:
        return [orjson.loads(text) for text in connection.execute(query).scalars()]

    return await wired.books.database.read(read)
