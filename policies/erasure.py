"""Erasure: an end user's name taken out of the books, every amount kept.

Owns which columns name a person. A turn that is running while its user is erased is booked
afterwards under the old name; erasing again takes it out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Connection, bindparam, delete, or_, select, update

from policies.database import Database
from policies.rollups import add_rows, merged
from policies.tables import (
    DIMENSIONS,
    SUMS,
    coarse_table,
    entries_table,
    rollups_table,
    turns_table,
    unbooked_table,
)

NOBODY = ""
_CHUNK = 500


@dataclass(frozen=True, slots=True)
class Anonymised:
    """How many rows named the end user and no longer do; their amounts stand as they were."""

    n_turns: int
    n_attempts: int


async def conversations_of(database: Database, tenant: str, end_user: str) -> list[str]:
    """Return the names of the conversations that an end user's recorded turns belong to."""
    table = turns_table.c
    query = (
        select(table.conversation)
        .distinct()
        .where(table.tenant == tenant, table.end_user == end_user, table.conversation.is_not(None))
        .order_by(table.conversation)
    )
    return await database.read(lambda connection: list(connection.execute(query).scalars()))


async def anonymise(
    database: Database, tenant: str, end_user: str, conversations: Sequence[str]
) -> Anonymised:
    """Take an end user, and the names of these conversations, out of the books; all or nothing.

    Args:
        database: the books'.
        tenant: whose end user.
        end_user: as the callers named it; not empty.
        conversations: names that may say who it was, taken out of every turn.
    """

    def act(connection: Connection) -> Anonymised:
        n_turns = _strip_turns(connection, tenant, end_user, conversations)
        is_theirs = (entries_table.c.tenant == tenant) & (entries_table.c.end_user == end_user)
        entries = update(entries_table).where(is_theirs).values(end_user=NOBODY)
        n_attempts = connection.execute(entries).rowcount
        _merge_rollups(connection, tenant, end_user)
        _drop_unbooked(connection, tenant, end_user)
        return Anonymised(n_turns, n_attempts)

    return await database.write(act)


def _strip_turns(
    connection: Connection, tenant: str, end_user: str, conversations: Sequence[str]
) -> int:
    """Rewrite the columns and the kept record of every turn; return how many named the user."""
    table = turns_table.c
    named = [
        table.conversation.in_(conversations[i : i + _CHUNK])
        for i in range(0, len(conversations), _CHUNK)
    ]
    query = select(table.request_id, table.end_user, table.record).where(
        table.tenant == tenant, or_(table.end_user == end_user, *named)
    )
    statement = (
        update(turns_table)
        .where(table.tenant == tenant, table.request_id == bindparam("at"))
        .values(end_user=bindparam("who"), conversation=None, record=bindparam("what"))
    )
    n_theirs = 0
    for part in list(connection.execute(query).partitions(_CHUNK)):
        rows = []
        for request_id, who, text in part:
            record: dict[str, Any] = orjson.loads(text)
            record["conversation"] = None
            if who == end_user:
                n_theirs += 1
                record["end_user"], who = None, NOBODY
            rows.append({"at": request_id, "who": who, "what": orjson.dumps(record).decode()})
        connection.execute(statement, rows)
    return n_theirs


def _merge_rollups(connection: Connection, tenant: str, end_user: str) -> None:
    """Move the sums of an end user to those of nobody in particular, wherever users are named."""
    for table, level in ((rollups_table, ()), (coarse_table, ("level",))):
        is_theirs = (table.c.tenant == tenant) & (table.c.end_user == end_user)
        kept = [table.c[name] for name in (*level, *DIMENSIONS, *SUMS)]
        moved = connection.execute(delete(table).where(is_theirs).returning(*kept)).all()
        add_rows(connection, table, merged({**row._mapping, "end_user": NOBODY} for row in moved))


def _drop_unbooked(connection: Connection, tenant: str, end_user: str) -> None:
    """Empty the records that were set aside and name the end user; their errors stay."""
    table = unbooked_table.c
    name = orjson.dumps(end_user).decode()
    told = or_(table.record.contains(name, autoescape=True), table.error.contains(name))
    statement = update(unbooked_table).where(table.tenant == tenant, told)
    connection.execute(statement.values(record="", error="erased with its end user"))
