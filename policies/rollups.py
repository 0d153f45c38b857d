"""Roll-ups: sums of the ledger, coarser and coarser, added to in the transaction of the booking.

`rollups` holds quarters of an hour with every dimension. `coarse_rollups` holds the same sums at
several levels, each with the dimensions that one sort of question asks for, so that a page reads
hundreds of rows and not a month of them. Days are those of the zone that a tenant's row of
`rollup_zones` names (UTC without one); `set_zone` changes it. Everything here runs inside one
transaction of the caller.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from hashlib import blake2b
from operator import itemgetter
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    Table,
    case,
    delete,
    func,
    literal,
    select,
    text,
)

from policies.days import DAY_US, day_start_us, offsets
from policies.tables import (
    DIMENSIONS,
    SUMS,
    add_into,
    coarse_table,
    insert_into,
    rollups_table,
    zones_table,
)

Values = dict[str, Any]
_CHUNK = 1000
_PLACE = itemgetter(*DIMENSIONS)


class Level(StrEnum):
    """How coarse a row of `coarse_rollups` is."""

    QUARTERS = "quarters"
    DAYS = "days"
    USER_DAYS = "user_days"
    TAG_DAYS = "tag_days"
    NAMED_DAYS = "named_days"


# What rows of a level tell apart, beside tenant, time and currency; the rest is the empty text.
KEPT: Mapping[Level, tuple[str, ...]] = {
    Level.QUARTERS: ("model", "tier", "kind"),
    Level.DAYS: ("model", "tier", "kind"),
    Level.USER_DAYS: ("end_user",),
    Level.TAG_DAYS: ("tags",),
    Level.NAMED_DAYS: ("model", "tier", "kind", "end_user", "tags"),
}
_DROPPED = {
    level: dict.fromkeys((name for name in KEPT[Level.NAMED_DAYS] if name not in kept), "")
    for level, kept in KEPT.items()
}


def add_to_rollups(connection: Connection, increments: Iterable[Mapping[str, Any]]) -> None:
    """Add increments (dimensions and sums) to their rows, at every level."""
    rows = merged(increments)
    if not rows:
        return
    add_rows(connection, rollups_table, rows)
    # Only now: the write above made whoever changes the zone wait, or has waited for them.
    zones = {tenant: zone_of(connection, tenant) for tenant in {row["tenant"] for row in rows}}
    coarse = (one for row in rows for one in _coarse(row, zones[row["tenant"]]))
    add_rows(connection, coarse_table, merged(coarse))


def merged(increments: Iterable[Mapping[str, Any]]) -> list[Values]:
    """Return the sum of the increments of each place, with the digest that names it."""
    found: dict[tuple[Any, ...], Values] = {}
    for increment in increments:
        place = (increment.get("level", ""), *_PLACE(increment))
        into = found.get(place)
        if into is None:
            found[place] = dict(increment)
        else:
            for name in SUMS:
                into[name] += increment[name]
    for place, row in found.items():
        row["id"] = _digest(place)
    return list(found.values())


def add_rows(connection: Connection, table: Table, rows: Sequence[Values]) -> None:
    """Insert rows whose dimensions are new, and add the others to those that are there."""
    if not rows:
        return
    # In one order always, so that two processes never wait for each other in a circle.
    connection.execute(add_into(connection, table, SUMS), sorted(rows, key=lambda row: row["id"]))


def zone_of(connection: Connection, tenant: str) -> str:
    """Return in which time zone a tenant's day rows are counted."""
    query = select(zones_table.c.timezone).where(zones_table.c.tenant == tenant)
    return connection.execute(query).scalar() or "UTC"


def set_zone(connection: Connection, tenant: str, timezone: str) -> None:
    """Count a tenant's days in this zone from now on; the day rows must be made anew after it."""
    lock_rollups(connection)
    statement = insert_into(connection, zones_table).values(tenant=tenant, timezone=timezone)
    connection.execute(
        statement.on_conflict_do_update(index_elements=["tenant"], set_={"timezone": timezone})
    )


def rebuild_coarse(connection: Connection, tenant: str) -> None:
    """Make a tenant's coarse rows anew from its roll-ups."""
    connection.execute(delete(coarse_table).where(coarse_table.c.tenant == tenant))
    timezone = zone_of(connection, tenant)
    for level in Level:
        query = _summed(connection, level, tenant, timezone)
        for part in [] if query is None else connection.execute(query).partitions(_CHUNK):
            rows = (_placed(row, level, timezone) for row in part)
            connection.execute(coarse_table.insert(), list(rows))


def lock_rollups(connection: Connection) -> None:
    """Make bookings wait until this transaction ends, on PostgreSQL; SQLite's first write does."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("LOCK TABLE rollups, turn_counts IN EXCLUSIVE MODE"))


def local_day(at_us: ColumnElement[int], pieces: Sequence[tuple[int, int]]) -> ColumnElement[int]:
    """Return the SQL of a moment's day in local time, counted from 1970-01-01.

    Args:
        at_us: a column of microseconds since the epoch.
        pieces: `policies.days.offsets` of the span that the column's moments are in.
    """
    return (at_us + local_offset(at_us, pieces)) // DAY_US


def local_offset(
    at_us: ColumnElement[int], pieces: Sequence[tuple[int, int]]
) -> ColumnElement[int]:
    """Return the SQL of how far local time is ahead of UTC at a moment, in microseconds."""
    if len(pieces) == 1:
        return literal(pieces[0][1], literal_execute=True)
    values = [literal(offset_us, literal_execute=True) for _, offset_us in pieces]
    ends = [literal(from_us, literal_execute=True) for from_us, _ in pieces[1:]]
    steps = [(at_us < end, value) for end, value in zip(ends, values[:-1], strict=True)]
    return case(*steps, else_=values[-1])


def _coarse(row: Mapping[str, Any], timezone: str) -> Iterator[Values]:
    """Yield what a row of `rollups` adds to each level."""
    start_us = day_start_us(row["bucket_us"], timezone)
    for level, dropped in _DROPPED.items():
        bucket_us = row["bucket_us"] if level is Level.QUARTERS else start_us
        yield {**row, **dropped, "level": level.value, "bucket_us": bucket_us}


def _summed(connection: Connection, level: Level, tenant: str, timezone: str) -> Select[Any] | None:
    """Return the query of a level's sums, `bucket_us` being the first quarter of each day."""
    table = rollups_table.c
    ends = select(func.min(table.bucket_us), func.max(table.bucket_us))
    first_us, last_us = connection.execute(ends.where(table.tenant == tenant)).one()
    if first_us is None:
        return None
    moment: ColumnElement[int] = table.bucket_us
    if level is not Level.QUARTERS:
        moment = local_day(moment, offsets(int(first_us), int(last_us), timezone))
    kept = ("tenant", *KEPT[level], "currency")
    return (
        select(
            func.min(table.bucket_us).label("bucket_us"),
            *(table[name] for name in kept),
            *(func.sum(table[name]).label(name) for name in SUMS),
        )
        .where(table.tenant == tenant)
        .group_by(moment, *(table[name] for name in kept))
    )


def _placed(found: Row[Any], level: Level, timezone: str) -> Values:
    # PostgreSQL sums big integers into decimals.
    sums = {name: int(found._mapping[name]) for name in SUMS}
    row = {**_DROPPED[level], **found._mapping, **sums, "level": level.value}
    if level is not Level.QUARTERS:
        row["bucket_us"] = day_start_us(row["bucket_us"], timezone)
    return {**row, "id": _digest((row["level"], *_PLACE(row)))}


def _digest(place: Iterable[Any]) -> str:
    return blake2b("\0".join(map(str, place)).encode(), digest_size=16).hexdigest()
