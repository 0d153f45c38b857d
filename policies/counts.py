"""Counts: how many turns had which reason, cache, status, score and duration.

Kept per quarter of an hour, and per day of the zone in which the tenant's day rows are counted.
Durations are kept as bins of a tenth's width, so that percentiles of any span are within 5 %.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

from sqlalchemy import Connection, Table, delete, func, select

from policies.days import day_start_us, offsets, whole_days
from policies.rollups import local_day, zone_of
from policies.tables import (
    BUCKET_US,
    add_into,
    counts_table,
    day_counts_table,
    turns_table,
)

_WIDTH = math.log(1.1)
_CHUNK = 5000
Increment = tuple[str, int, str, str, str]
"""tenant, bucket, tier, name, value"""
Counted = tuple[str, str, str, int]
"""name, tier, value, day since 1970-01-01 (0 where days are not told apart)"""


def bin_of(duration_ms: float) -> int:
    """Return the number of the bin that holds a duration; everything below 0.1 ms is one bin."""
    return round(math.log(max(duration_ms, 0.1)) / _WIDTH)


def middle_of(number: int) -> float:
    """Return the middle of a bin, in milliseconds."""
    return round(math.exp(number * _WIDTH), 3)


def counted(row: Mapping[str, Any]) -> list[Increment]:
    """Return what a row of the table of turns counts for."""
    values = {"status": row["status"]}
    if row["status"] != "refused":
        values |= {"reason": row["reason"], "cache": row["cache"]}
        if row["score"] is not None:
            values["score"] = f"{min(9, int(row['score'] * 10)) / 10:.1f}"
    if row["status"] == "complete":
        values["total_ms"] = str(bin_of((row["ended_us"] - row["started_us"]) / 1000))
        if row["first_ms"] is not None:
            values["first_ms"] = str(bin_of(row["first_ms"]))
    bucket_us = row["started_us"] // BUCKET_US * BUCKET_US
    return [
        (row["tenant"], bucket_us, row["tier"], name, value)
        for name, value in values.items()
        if value
    ]


def add_counts(connection: Connection, changes: Iterable[tuple[Mapping[str, Any], int]]) -> None:
    """Add turns (sign 1), or take them away again (sign -1)."""
    merged: Counter[Increment] = Counter()
    for row, sign in changes:
        for place in counted(row):
            merged[place] += sign
    _add(connection, counts_table, ["id"], merged)
    # Only now: the write above made whoever changes the zone wait, or has waited for them.
    zones = {tenant: zone_of(connection, tenant) for tenant in {place[0] for place in merged}}
    _add(connection, day_counts_table, _DAY_KEY, _of_days(merged, zones))


def rebuild_counts(connection: Connection, tenant: str | None) -> None:
    """Make the counts of quarter hours anew from the turns."""
    doomed, turns = delete(counts_table), select(*_READ)
    if tenant is not None:
        doomed = doomed.where(counts_table.c.tenant == tenant)
        turns = turns.where(turns_table.c.tenant == tenant)
    connection.execute(doomed)
    merged: Counter[Increment] = Counter()
    for part in connection.execute(turns).partitions(_CHUNK):
        for row in part:
            merged.update(counted(dict(row._mapping)))
    _add(connection, counts_table, ["id"], merged)


def rebuild_day_counts(connection: Connection, tenant: str) -> None:
    """Make the counts of days anew from those of quarter hours."""
    table = counts_table.c
    connection.execute(delete(day_counts_table).where(day_counts_table.c.tenant == tenant))
    zone = {tenant: zone_of(connection, tenant)}
    found = select(*(table[name] for name in _NAMES), table.n).where(table.tenant == tenant)
    merged: Counter[Increment] = Counter()
    for part in connection.execute(found).partitions(_CHUNK):
        merged.update(_of_days({tuple(row)[:5]: int(row.n) for row in part}, zone))
    _add(connection, day_counts_table, _DAY_KEY, merged)


def count_turns(
    connection: Connection,
    tenant: str,
    *,
    first_us: int,
    last_us: int,
    names: Sequence[str],
    timezone: str,
    by_day: bool = False,
) -> Mapping[Counted, int]:
    """Return how many turns there were by name, tier, value and local day.

    Args:
        connection: to the books.
        tenant: whose.
        first_us: included, rounded down to its quarter of an hour.
        last_us: excluded, rounded up.
        names: of what is counted.
        timezone: of the days.
        by_day: whether days (counted from 1970-01-01) are told apart; else the day is 0.
    """
    first_us, last_us = first_us // BUCKET_US * BUCKET_US, -(-last_us // BUCKET_US) * BUCKET_US
    pieces = offsets(first_us, last_us, timezone)
    spans = {counts_table: [(first_us, last_us)], day_counts_table: []}
    zone = zone_of(connection, tenant)
    if not by_day or pieces == offsets(first_us, last_us, zone):
        inner = whole_days(first_us, last_us, zone)
        spans = {
            counts_table: [(first_us, inner[0]), (inner[1], last_us)],
            day_counts_table: [inner],
        }
    totals: Counter[Counted] = Counter()
    for table, parts in spans.items():
        day = local_day(table.c.bucket_us, pieces).label("day")
        kept = (table.c.name, table.c.tier, table.c.value, *((day,) if by_day else ()))
        for start_us, end_us in parts:
            if start_us == end_us:
                continue
            query = (
                select(*kept, func.sum(table.c.n))
                .where(table.c.tenant == tenant, table.c.name.in_(names))
                .where(table.c.bucket_us >= start_us, table.c.bucket_us < end_us)
                .group_by("name", "tier", "value", *(("day",) if by_day else ()))
            )
            for name, tier, value, *rest in connection.execute(query):
                totals[name, tier, value, int(rest[0]) if by_day else 0] += int(rest[-1])
    return totals


def _of_days(merged: Mapping[Increment, int], zones: Mapping[str, str]) -> Counter[Increment]:
    found: Counter[Increment] = Counter()
    for (tenant, bucket_us, tier, name, value), n in merged.items():
        found[tenant, day_start_us(bucket_us, zones[tenant]), tier, name, value] += n
    return found


def _add(
    connection: Connection, table: Table, keys: Sequence[str], merged: Mapping[Increment, int]
) -> None:
    rows = [{**_columns(place), "n": n} for place, n in merged.items() if n]
    if "id" in keys:
        rows = [{"id": _id(place), **_columns(place), "n": n} for place, n in merged.items() if n]
    if not rows:
        return
    # In one order always, so that two processes never wait for each other in a circle.
    in_order = sorted(rows, key=lambda row: [row[key] for key in keys])
    connection.execute(add_into(connection, table, ["n"]), in_order)


_DAY_KEY = ("tenant", "name", "bucket_us", "tier", "value")
_NAMES = ("tenant", "bucket_us", "tier", "name", "value")
_READ = [
    turns_table.c[name]
    for name in (
        *("tenant", "tier", "status", "reason", "cache", "score"),
        *("first_ms", "started_us", "ended_us"),
    )
]


def _columns(place: Increment) -> dict[str, Any]:
    return dict(zip(_NAMES, place, strict=True))


def _id(place: Increment) -> str:
    text = "\0".join(str(part) for part in place)
    return blake2b(text.encode(), digest_size=16).hexdigest()
