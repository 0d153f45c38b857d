"""Counts: how many turns had which reason, cache, status, score and duration, per quarter hour.

Durations are kept as bins of a tenth's width, so that percentiles of any span are within 5 %.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any

from sqlalchemy import Connection, delete, select

from policies.tables import BUCKET_US, counts_table, insert_into, turns_table

_WIDTH = math.log(1.1)
_CHUNK = 5000
Increment = tuple[str, int, str, str, str]
"""tenant, bucket, tier, name, value"""


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
    merged: dict[Increment, int] = {}
    for row, sign in changes:
        for place in counted(row):
            merged[place] = merged.get(place, 0) + sign
    rows = [{"id": _id(place), **_columns(place), "n": n} for place, n in merged.items() if n]
    if not rows:
        return
    statement = insert_into(connection, counts_table)
    added = {"n": counts_table.c.n + statement.excluded.n}
    upsert = statement.on_conflict_do_update(index_elements=["id"], set_=added)
    # In one order always, so that two processes never wait for each other in a circle.
    connection.execute(upsert, sorted(rows, key=lambda row: row["id"]))


def rebuild_counts(connection: Connection, tenant: str | None) -> None:
    """Make the counts anew from the turns."""
    doomed, turns = delete(counts_table), select(*_READ)
    if tenant is not None:
        doomed = doomed.where(counts_table.c.tenant == tenant)
        turns = turns.where(turns_table.c.tenant == tenant)
    connection.execute(doomed)
    for part in connection.execute(turns).partitions(_CHUNK):
        add_counts(connection, [(dict(row._mapping), 1) for row in part])


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
