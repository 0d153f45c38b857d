"""Booking: records from the ledger's streams become rows, and rows add to the roll-ups.

Everything here runs inside one transaction of the caller. A row's id makes a record that comes
twice count once; the true end of an entry replaces the estimate that was booked for an orphan.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
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
    union,
)

from policies.counts import add_counts, rebuild_counts, rebuild_day_counts
from policies.rollups import (
    add_rows,
    add_to_rollups,
    lock_rollups,
    merged,
    rebuild_coarse,
)
from policies.tables import (
    BUCKET_US,
    DIMENSIONS,
    REUSED,
    SUMS,
    TOKENS,
    coarse_table,
    counts_table,
    day_counts_table,
    entries_table,
    rollups_table,
    turns_table,
)

Values = dict[str, Any]
_MAX_EXACT = 2**53
_CHUNK = 1000


@dataclass(frozen=True, slots=True)
class Booking:
    """What one record of a stream says: a row of an entry, of a turn, or both."""

    entry: Values | None
    turn: Values | None


def parse_record(blob: bytes, tenant: str) -> Booking:
    """Return the rows of a record.

    Raises:
        ValueError: it is no such record of this tenant.
    """
    try:
        record = orjson.loads(blob)
        entry, turn = record["entry"], record["turn"]
        booking = Booking(
            None if entry is None else _entry_row(entry), None if turn is None else _turn_row(turn)
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    for row in (booking.entry, booking.turn):
        if row is not None and row["tenant"] != tenant:
            raise ValueError(f"it belongs to another tenant: {row['tenant']!r}")
    return booking


def book(connection: Connection, bookings: Sequence[Booking]) -> None:
    """Insert what is new, replace orphans by their true ends, and add both to the roll-ups.

    Raises:
        sqlalchemy.exc.IntegrityError: another process has just booked one of them; begin anew.
    """
    increments: list[Values] = []
    entries = [booking.entry for booking in bookings if booking.entry is not None]
    turns = [booking.turn for booking in bookings if booking.turn is not None]
    for row, sign in _changes(connection, entries_table, "id", entries):
        increments.append(_entry_increment(row, sign))
    changes = _changes(connection, turns_table, "request_id", turns)
    for row, sign in changes:
        if row["status"] != "refused":
            increments.append(_turn_increment(row, sign))
    add_to_rollups(connection, increments)
    add_counts(connection, changes)


def rebuild_rollups(connection: Connection, tenant: str | None) -> int:
    """Make the roll-ups anew from entries and turns; return how many of those there were."""
    lock_rollups(connection)
    doomed = delete(rollups_table)
    if tenant is not None:
        doomed = doomed.where(rollups_table.c.tenant == tenant)
    connection.execute(doomed)
    n_rows = 0
    for query in (_summed_entries(), _summed_turns()):
        if tenant is not None:
            query = query.where(query.selected_columns.tenant == tenant)
        for part in connection.execute(query).partitions(_CHUNK):
            rows = [_integers(row) for row in part]
            n_rows += sum(row.pop("n_rows") for row in rows)
            add_rows(connection, rollups_table, merged(rows))
    rebuild_counts(connection, tenant)
    rebuild_derived(connection, tenant)
    return n_rows


def rebuild_derived(connection: Connection, tenant: str | None) -> None:
    """Make the coarse roll-ups and counts of days anew from the fine ones."""
    for each in _tenants(connection) if tenant is None else [tenant]:
        rebuild_coarse(connection, each)
        rebuild_day_counts(connection, each)


def _tenants(connection: Connection) -> list[str]:
    """Return whose rows there are, among them tenants of whom only coarse ones are left."""
    tables = (rollups_table, counts_table, coarse_table, day_counts_table)
    return list(connection.execute(union(*(select(t.c.tenant) for t in tables))).scalars())


def _changes(
    connection: Connection, table: Table, key: str, rows: Iterable[Values]
) -> list[tuple[Mapping[str, Any], int]]:
    """Insert the rows that are new and return them with sign 1, replaced orphans with -1."""
    wanted: dict[tuple[str, str], Values] = {}
    for row in rows:
        place = (row["tenant"], row[key])
        if place not in wanted or wanted[place]["is_orphan"]:
            wanted[place] = row
    if not wanted:
        return []
    changes: list[tuple[Mapping[str, Any], int]] = []
    keys = {"tenant": {tenant for tenant, _ in wanted}, key: {name for _, name in wanted}}
    # By the whole primary key and nothing else: with less, or more, SQLite reads all of a tenant's.
    is_known = (column.in_(sorted(keys[column.name])) for column in table.primary_key)
    found = connection.execute(select(table).where(*is_known)).all()
    for known in (dict(row._mapping) for row in found):
        newer = wanted.get((known["tenant"], known[key]))
        if newer is None:
            continue
        if known["is_orphan"] and not newer["is_orphan"]:
            is_it = (table.c.tenant == known["tenant"]) & (table.c[key] == known[key])
            connection.execute(delete(table).where(is_it, table.c.is_orphan))
            changes.append((known, -1))
        else:
            del wanted[known["tenant"], known[key]]
    if wanted:
        connection.execute(table.insert(), list(wanted.values()))
        changes += [(row, 1) for row in wanted.values()]
    return changes


def _entry_row(entry: Mapping[str, Any]) -> Values:
    usage, cost = entry["usage"], entry["cost"] or {}
    names = ("id", "request_id", "tenant", "model", "backend", "tier", "kind", "policy", "status")
    return {
        **{name: _text(entry[name], 128) for name in names},
        "n": _integer(entry["n"]),
        "opened_us": _integer(entry["opened_us"]),
        "closed_us": _integer(entry["closed_us"]),
        "end_user": _text(entry["end_user"] or "", 256),
        "tags": _tags(entry["tags"]),
        **{name: _integer(usage.get(name) or 0) for name in TOKENS},
        "is_estimated": bool(usage.get("is_estimated", False)),
        "is_orphan": bool(entry.get("is_orphan", False)),
        "usd_micro": _amount(cost.get("usd_micro")),
        "micro": _amount(cost.get("micro")),
        "currency": _text(entry["currency"], 3),
        "rate": cost.get("rate"),
        "rate_date": cost.get("rate_date"),
        "charge_micro": _integer(entry.get("charge_micro") or 0),
        "spend_key": _text(entry["spend"], 256),
        "error": None if entry["error"] is None else _text(entry["error"], 2000),
    }


def _turn_row(turn: Mapping[str, Any]) -> Values:
    conversation = turn.get("conversation")
    decision, usage = turn.get("decision") or {}, turn.get("usage") or {}
    return {
        **{name: _text(turn[name], 64) for name in ("request_id", "tenant", "status")},
        "started_us": _integer(turn["started_us"]),
        "ended_us": _integer(turn.get("ended_us") or turn["started_us"]),
        "conversation": None if conversation is None else _text(conversation, 256),
        "model": _text(turn["model"] or "", 128),
        "tier": _text(turn["tier"] or "", 64),
        "end_user": _text(turn["end_user"] or "", 256),
        "tags": _tags(turn["tags"]),
        "currency": _text(turn["currency"], 3),
        "is_orphan": bool(turn.get("is_orphan", False)),
        "reason": _text(decision.get("reason") or "", 64),
        "cache": _text(turn.get("cache") or "none", 16),
        "score": _number(decision.get("score")),
        "first_ms": _number((turn.get("timings_ms") or {}).get("first_event")),
        "input_tokens": _integer(usage.get("input_tokens") or 0),
        "output_tokens": _integer(usage.get("output_tokens") or 0),
        "record": orjson.dumps(turn).decode(),
    }


def _entry_increment(row: Mapping[str, Any], sign: int) -> Values:
    return {
        **_dimensions(row, row["opened_us"], _entry_kind(row)),
        "requests": 0,
        "attempts": sign,
        "unpriced": sign * int(row["usd_micro"] is None),
        **{name: sign * row[name] for name in TOKENS},
        **dict.fromkeys(REUSED, 0),
        "usd_micro": sign * (row["usd_micro"] or 0),
        "micro": sign * (row["micro"] or 0),
    }


def _turn_increment(row: Mapping[str, Any], sign: int) -> Values:
    sums = dict.fromkeys(SUMS, 0)
    is_reused = row["cache"] != "none"
    if is_reused:
        sums["reused_input_tokens"] = sign * row["input_tokens"]
        sums["reused_output_tokens"] = sign * row["output_tokens"]
    place = _dimensions(row, row["started_us"], "cache" if is_reused else "chat")
    return {**place, **sums, "requests": sign}


def _dimensions(row: Mapping[str, Any], at_us: int, kind: str) -> Values:
    values = {name: row[name] for name in DIMENSIONS if name not in ("bucket_us", "kind")}
    return {**values, "kind": kind, "bucket_us": at_us // BUCKET_US * BUCKET_US}


def _entry_kind(row: Mapping[str, Any]) -> str:
    if row["usd_micro"] is None:
        return "unpriced"
    return "failed" if row["kind"] == "chat" and row["status"] == "failed" else str(row["kind"])


def _summed_entries() -> Select[Any]:
    table = entries_table.c
    sums: dict[str, ColumnElement[Any]] = {
        "requests": literal(0),
        "attempts": func.count(),
        "unpriced": func.sum(case((table.usd_micro.is_(None), 1), else_=0)),
        **{name: func.sum(table[name]) for name in TOKENS},
        **dict.fromkeys(REUSED, literal(0)),
        "usd_micro": func.coalesce(func.sum(table.usd_micro), 0),
        "micro": func.coalesce(func.sum(table.micro), 0),
    }
    is_failed = (table.kind == "chat") & (table.status == "failed")
    kind = case((table.usd_micro.is_(None), "unpriced"), (is_failed, "failed"), else_=table.kind)
    return _summed(entries_table, "opened_us", kind, sums)


def _summed_turns() -> Select[Any]:
    sums: dict[str, ColumnElement[Any]] = dict.fromkeys(SUMS, literal(0))
    table = turns_table.c
    is_reused = table.cache != "none"
    sums["requests"] = func.count()
    for name, column in zip(REUSED, (table.input_tokens, table.output_tokens), strict=True):
        sums[name] = func.sum(case((is_reused, column), else_=0))
    kind = case((is_reused, "cache"), else_="chat")
    return _summed(turns_table, "started_us", kind, sums).where(table.status != "refused")


def _summed(
    table: Table, moment: str, kind: ColumnElement[str], sums: Mapping[str, ColumnElement[Any]]
) -> Select[Any]:
    at = table.c[moment]
    own = {"bucket_us": (at - at % BUCKET_US).label("bucket_us"), "kind": kind.label("kind")}
    kept = [own[name] if name in own else table.c[name] for name in DIMENSIONS]
    totals = [value.label(name) for name, value in sums.items()]
    return select(*kept, *totals, func.count().label("n_rows")).group_by(*kept)


def _integers(row: Row[Any]) -> Values:
    # PostgreSQL sums big integers into decimals.
    counted = {*SUMS, "bucket_us", "n_rows"}
    return {name: int(v) if name in counted else v for name, v in row._mapping.items()}


def _integer(value: Any) -> int:
    if type(value) is not int or not -_MAX_EXACT < value < _MAX_EXACT:
        raise ValueError(f"{value!r:.80} is no whole number that can be kept")
    return value


def _number(value: Any) -> float | None:
    if value is None:
        return None
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{value!r:.80} is no number")
    return float(value)


def _amount(value: Any) -> int | None:
    return None if value is None else _integer(value)


def _text(value: Any, n_characters: int) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r:.80} is no text")
    return value.replace("\0", "")[:n_characters]


def _tags(tags: Iterable[Any]) -> str:
    return "\n".join(_text(tag, 128).replace("\n", " ") for tag in tags)
