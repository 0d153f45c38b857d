"""The books: the ledger of record in SQL, and the roll-ups that pages read.

Owns the tables of turns, entries and 15-minute roll-ups. A record leaves the tenant's Redis stream
only after the transaction that booked it; a record seen twice is booked once, because its id is the
primary key and roll-ups count only rows that were really inserted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import partial
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import orjson
from redis.asyncio import Redis
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Engine,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    delete,
    func,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite

from policies.ledger import ledger_keys

T = TypeVar("T")
BUCKET_US = 15 * 60 * 1_000_000  # a quarter of an hour divides every time zone's offset
_BATCH = 500
_TOKENS = ("input_tokens", "cached_input_tokens", "output_tokens")
GROUPS = ("day", "model", "tier", "tag", "end_user")

metadata = MetaData()
turns_table = Table(
    "turns",
    metadata,
    Column("request_id", String(64), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("started_us", BigInteger, nullable=False),
    Column("status", String(16), nullable=False),
    Column("record", Text, nullable=False),
    Index("turns_by_tenant", "tenant", "started_us"),
)
entries_table = Table(
    "entries",
    metadata,
    Column("id", String(80), primary_key=True),
    Column("request_id", String(64), nullable=False, index=True),
    Column("tenant", String(64), nullable=False),
    Column("n", Integer, nullable=False),
    Column("model", String(128), nullable=False),
    Column("backend", String(128), nullable=False),
    Column("tier", String(64), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("status", String(16), nullable=False),
    Column("opened_us", BigInteger, nullable=False),
    Column("closed_us", BigInteger, nullable=False),
    Column("end_user", String(256), nullable=False),
    Column("tags", Text, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("cached_input_tokens", BigInteger, nullable=False),
    Column("cache_write_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("is_estimated", Boolean, nullable=False),
    Column("usd_micro", BigInteger),  # NULL is an unknown price, never zero
    Column("micro", BigInteger),
    Column("currency", String(3), nullable=False),
    Column("rate", String(32)),
    Column("rate_date", String(10)),
    Column("spend_key", String(256), nullable=False),
    Column("error", Text),
    Index("entries_by_tenant", "tenant", "opened_us"),
)
rollups_table = Table(
    "rollups",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("bucket_us", BigInteger, primary_key=True, autoincrement=False),
    Column("model", String(128), primary_key=True),
    Column("tier", String(64), primary_key=True),
    Column("end_user", String(256), primary_key=True),
    Column("tags", String(1100), primary_key=True),
    Column("currency", String(3), primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("unpriced", BigInteger, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("cached_input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("usd_micro", BigInteger, nullable=False),
    Column("micro", BigInteger, nullable=False),
)
_SUMS = ("requests", "unpriced", *_TOKENS, "usd_micro", "micro")


@dataclass(frozen=True, slots=True)
class CostRow:
    """Costs of one group; `group` maps the asked keys to their values."""

    group: Mapping[str, str]
    requests: int
    unpriced: int
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    usd_micro: int
    micro: int


class Books:
    """The SQL side of the ledger; its methods run in a worker thread.

    Args:
        engine: SQLite (WAL) or PostgreSQL.
        redis: where the tenants' streams are.
    """

    def __init__(self, engine: Engine, redis: Redis) -> None:
        self._engine = engine
        self._redis = redis

    async def prepare(self) -> None:
        """Make the tables where they are missing."""
        await asyncio.to_thread(metadata.create_all, self._engine)

    async def catch_up(self, tenant: str) -> int:
        """Book everything in a tenant's stream; return how many records there were.

        Several processes may do so at once. A record is removed only after it was booked.

        Raises:
            redis.exceptions.RedisError, sqlalchemy.exc.SQLAlchemyError: booked so far stays booked.
        """
        stream = ledger_keys(tenant, "", "").stream
        n_booked = 0
        while True:
            batch: Any = await self._redis.xrange(stream, count=_BATCH)
            if not batch:
                return n_booked
            records = [orjson.loads(fields[b"e"]) for _, fields in batch]
            await self._write(partial(_book, records))
            await self._redis.xdel(stream, *[record_id for record_id, _ in batch])
            n_booked += len(batch)
            if len(batch) < _BATCH:
                return n_booked

    async def backlog(self, tenant: str) -> tuple[int, float | None]:
        """Return how many records wait in the stream, and when the oldest was written (epoch s)."""
        stream = ledger_keys(tenant, "", "").stream
        n_waiting: int = await self._redis.xlen(stream)
        oldest: Any = await self._redis.xrange(stream, count=1) if n_waiting else []
        return n_waiting, int(oldest[0][0].split(b"-")[0]) / 1000 if oldest else None

    async def turn(self, tenant: str, request_id: str) -> Mapping[str, Any] | None:
        """Return a recorded turn with its `attempts`, None where the tenant has none of this id."""

        def read(connection: Connection) -> Mapping[str, Any] | None:
            row = connection.execute(
                select(turns_table.c.record).where(
                    turns_table.c.request_id == request_id, turns_table.c.tenant == tenant
                )
            ).first()
            if row is None:
                return None
            entries = connection.execute(
                select(entries_table)
                .where(entries_table.c.request_id == request_id, entries_table.c.tenant == tenant)
                .order_by(entries_table.c.n)
            )
            record: dict[str, Any] = orjson.loads(row.record)
            record["attempts"] = [dict(entry._mapping) for entry in entries]
            return record

        return await self._read(read)

    async def turns(
        self, tenant: str, *, before_us: int | None = None, limit: int = 50
    ) -> list[Mapping[str, Any]]:
        """Return the newest recorded turns, without their attempts."""

        def read(connection: Connection) -> list[Mapping[str, Any]]:
            wanted = select(turns_table.c.record).where(turns_table.c.tenant == tenant)
            if before_us is not None:
                wanted = wanted.where(turns_table.c.started_us < before_us)
            rows = connection.execute(wanted.order_by(turns_table.c.started_us.desc()).limit(limit))
            return [orjson.loads(row.record) for row in rows]

        return await self._read(read)

    async def costs(
        self,
        tenant: str,
        *,
        start: datetime,
        end: datetime,
        timezone: str,
        group_by: Sequence[str],
    ) -> list[CostRow]:
        """Return costs by group, from the roll-ups; groups in rising order of their keys.

        Args:
            tenant: whose.
            start: included; rounded down to its quarter of an hour.
            end: excluded; rounded up.
            timezone: in which days are counted.
            group_by: any of GROUPS; a turn with several tags counts under each of them.
        """
        zone = ZoneInfo(timezone)
        first, last = _bucket(_to_us(start)), -(-_to_us(end) // BUCKET_US) * BUCKET_US

        def read(connection: Connection) -> list[CostRow]:
            columns = [rollups_table.c[name] for name in ("model", "tier", "end_user", "tags")]
            kept = [
                column
                for column in columns
                if column.name in group_by or (column.name == "tags" and "tag" in group_by)
            ]
            if "day" in group_by:
                kept.append(rollups_table.c.bucket_us)
            sums = [func.sum(rollups_table.c[name]).label(name) for name in _SUMS]
            rows = connection.execute(
                select(*kept, *sums)
                .where(
                    rollups_table.c.tenant == tenant,
                    rollups_table.c.bucket_us >= first,
                    rollups_table.c.bucket_us < last,
                )
                .group_by(*kept)
            )
            return _fold((row._mapping for row in rows), group_by, zone)

        return await self._read(read)

    async def rebuild(self, tenant: str | None = None) -> int:
        """Make the roll-ups anew from turns and entries; return how many rows were read."""

        def write(connection: Connection) -> int:
            doomed, entries, turns = (
                delete(rollups_table),
                select(entries_table),
                select(turns_table.c.record),
            )
            if tenant is not None:
                doomed = doomed.where(rollups_table.c.tenant == tenant)
                entries = entries.where(entries_table.c.tenant == tenant)
                turns = turns.where(turns_table.c.tenant == tenant)
            connection.execute(doomed)
            increments: list[dict[str, Any]] = []
            for entry in connection.execute(entries):
                increments.append(_entry_increment(dict(entry._mapping)))
            for row in connection.execute(turns):
                increments.append(_turn_increment(orjson.loads(row.record)))
            _add_to_rollups(connection, increments)
            return len(increments)

        return await self._write(write)

    async def settled(self, tenant: str, spend_key: str, *, in_usd: bool) -> int:
        """Return what the entries of one budget period sum to, in micro-units."""
        amount = entries_table.c.usd_micro if in_usd else entries_table.c.micro

        def read(connection: Connection) -> int:
            total = connection.execute(
                select(func.coalesce(func.sum(amount), 0)).where(
                    entries_table.c.tenant == tenant, entries_table.c.spend_key == spend_key
                )
            ).scalar_one()
            return int(total)

        return await self._read(read)

    async def _read(self, ask: Callable[[Connection], T]) -> T:
        def work() -> T:
            with self._engine.connect() as connection:
                return ask(connection)

        return await asyncio.to_thread(work)

    async def _write(self, act: Callable[[Connection], T]) -> T:
        def work() -> T:
            with self._engine.begin() as connection:
                return act(connection)

        return await asyncio.to_thread(work)


def _book(records: Iterable[Mapping[str, Any]], connection: Connection) -> None:
    increments = []
    for record in records:
        entry, turn = record["entry"], record["turn"]
        if entry is not None:
            row = _entry_row(entry)
            if _insert_once(connection, entries_table, row):
                increments.append(_entry_increment(row))
        if turn is not None:
            row = {
                "request_id": turn["request_id"],
                "tenant": turn["tenant"],
                "started_us": turn["started_us"],
                "status": turn["status"],
                "record": orjson.dumps(turn).decode(),
            }
            if _insert_once(connection, turns_table, row):
                increments.append(_turn_increment(turn))
    _add_to_rollups(connection, increments)


def _entry_row(entry: Mapping[str, Any]) -> dict[str, Any]:
    usage, cost = entry["usage"], entry["cost"] or {}
    same = ("id", "request_id", "tenant", "n", "model", "backend", "tier", "kind", "status")
    return {
        **{name: entry[name] for name in same},
        "opened_us": entry["opened_us"],
        "closed_us": entry["closed_us"],
        "end_user": entry["end_user"] or "",
        "tags": _tags_text(entry["tags"]),
        "input_tokens": usage.get("input_tokens", 0),
        "cached_input_tokens": usage.get("cached_input_tokens", 0),
        "cache_write_tokens": usage.get("cache_write_tokens", 0),
        "output_tokens": usage.get("output_tokens", 0),
        "reasoning_tokens": usage.get("reasoning_tokens", 0),
        "is_estimated": bool(usage.get("is_estimated", False)),
        "usd_micro": cost.get("usd_micro"),
        "micro": cost.get("micro"),
        "currency": entry["currency"],
        "rate": cost.get("rate"),
        "rate_date": cost.get("rate_date"),
        "spend_key": entry["spend"],
        "error": entry["error"],
    }


def _entry_increment(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{name: row[name] for name in ("tenant", "model", "tier", "end_user", "tags", "currency")},
        "bucket_us": _bucket(row["opened_us"]),
        "requests": 0,
        "unpriced": int(row["usd_micro"] is None),
        **{name: row[name] for name in _TOKENS},
        "usd_micro": row["usd_micro"] or 0,
        "micro": row["micro"] or 0,
    }


def _turn_increment(turn: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "tenant": turn["tenant"],
        "model": turn["model"] or "",
        "tier": turn["tier"] or "",
        "end_user": turn["end_user"] or "",
        "tags": _tags_text(turn["tags"]),
        "currency": turn["currency"],
        "bucket_us": _bucket(turn["started_us"]),
        **dict.fromkeys(_SUMS, 0),
        "requests": 1,
    }


def _tags_text(tags: Iterable[str]) -> str:
    return "\n".join(tags)


def _dialect(connection: Connection) -> Any:
    return postgresql if connection.dialect.name == "postgresql" else sqlite


def _insert_once(connection: Connection, table: Table, row: Mapping[str, Any]) -> bool:
    statement = _dialect(connection).insert(table).values(row).on_conflict_do_nothing()
    return bool(connection.execute(statement).rowcount)


def _add_to_rollups(connection: Connection, increments: Iterable[Mapping[str, Any]]) -> None:
    keys = [column.name for column in rollups_table.primary_key]
    merged: dict[tuple[Any, ...], dict[str, Any]] = {}
    for increment in increments:
        place = tuple(increment[key] for key in keys)
        into = merged.get(place)
        if into is None:
            merged[place] = dict(increment)
        else:
            for name in _SUMS:
                into[name] += increment[name]
    if not merged:
        return
    statement = _dialect(connection).insert(rollups_table)
    added = {name: rollups_table.c[name] + statement.excluded[name] for name in _SUMS}
    upsert = statement.on_conflict_do_update(index_elements=keys, set_=added)
    # In one order always, so that two processes never wait for each other in a circle.
    connection.execute(upsert, [merged[place] for place in sorted(merged)])


def _fold(rows: Iterable[Any], group_by: Sequence[str], zone: ZoneInfo) -> list[CostRow]:
    """Return rows with buckets folded into days and tag lists into their tags."""
    totals: dict[tuple[str, ...], list[int]] = {}
    for row in rows:
        for tag in row["tags"].split("\n") if "tag" in group_by else ("",):
            place = tuple(_value(name, row, tag, zone) for name in group_by)
            sums = totals.setdefault(place, [0] * len(_SUMS))
            for index, name in enumerate(_SUMS):
                sums[index] += int(row[name] or 0)
    if not group_by and not totals:
        totals[()] = [0] * len(_SUMS)
    return [
        CostRow(dict(zip(group_by, place, strict=True)), **dict(zip(_SUMS, sums, strict=True)))
        for place, sums in sorted(totals.items())
    ]


def _value(name: str, row: Any, tag: str, zone: ZoneInfo) -> str:
    if name == "day":
        return datetime.fromtimestamp(row["bucket_us"] / 1e6, zone).date().isoformat()
    return tag if name == "tag" else str(row[name])


def day_bounds(first: date, last: date, timezone: str) -> tuple[datetime, datetime]:
    """Return the start of the first day and the end of the last one in the time zone."""
    zone = ZoneInfo(timezone)
    start = datetime(first.year, first.month, first.day, tzinfo=zone)
    after = last + timedelta(days=1)
    return start, datetime(after.year, after.month, after.day, tzinfo=zone)


def _bucket(at_us: int) -> int:
    return at_us // BUCKET_US * BUCKET_US


def _to_us(at: datetime) -> int:
    return round(at.timestamp() * 1_000_000)
