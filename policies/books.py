"""The books: the ledger of record in SQL, and the questions that pages ask of it.

A record leaves the tenant's Redis stream only after the transaction that booked it; a record seen
twice is booked once, whichever process sees it. Costs are read from the roll-ups alone.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import orjson
from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

from policies.booking import Booking, book, parse_record, rebuild_derived, rebuild_rollups
from policies.budget import Period
from policies.costs import CostQuestion, CostRow, read_costs
from policies.database import Database
from policies.entry import to_us
from policies.errors import LedgerUnavailable
from policies.ledger import ledger_keys
from policies.rollups import set_zone
from policies.tables import (
    entries_table,
    insert_into,
    turns_table,
    unbooked_table,
    zones_table,
)

_BATCH = 500
_N_RACES = 20


class Books:
    """The SQL side of the ledger; its methods run in a worker thread.

    `n_unbooked` counts the records that this process had to set aside.

    Args:
        engine: SQLite (WAL) or PostgreSQL.
        redis: where the tenants' streams are.
    """

    def __init__(self, engine: Engine, redis: Redis) -> None:
        self.database = Database(engine)
        self._redis = redis
        self._turnstiles: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.n_unbooked = 0

    async def catch_up(self, tenant: str) -> int:
        """Book everything in a tenant's stream; return how many records there were.

        Several processes may do so at once. A record is removed only after it was booked; one that
        makes no sense is set aside in the table `unbooked`.

        Raises:
            redis.exceptions.RedisError, sqlalchemy.exc.SQLAlchemyError: booked so far stays booked.
        """
        stream = ledger_keys(tenant).stream
        n_booked = 0
        async with self._turnstiles[tenant]:
            while True:
                batch: Any = await self._redis.xrange(stream, count=_BATCH)
                if not batch:
                    return n_booked
                records = [(stream_id, fields[b"e"]) for stream_id, fields in batch]
                self.n_unbooked += await asyncio.to_thread(self._book, tenant, records)
                await self._redis.xdel(stream, *[stream_id for stream_id, _ in records])
                n_booked += len(batch)
                if len(batch) < _BATCH:
                    return n_booked

    async def backlog(self, tenant: str) -> tuple[int, float | None]:
        """Return how many records wait in the stream, and when the oldest was written (epoch s)."""
        stream = ledger_keys(tenant).stream
        n_waiting: int = await self._redis.xlen(stream)
        oldest: Any = await self._redis.xrange(stream, count=1) if n_waiting else []
        return n_waiting, int(oldest[0][0].split(b"-")[0]) / 1000 if oldest else None

    async def turn(self, tenant: str, request_id: str) -> Mapping[str, Any] | None:
        """Return a recorded turn with its `attempts`, None where the tenant has none of this id."""

        def read(connection: Connection) -> Mapping[str, Any] | None:
            text = connection.execute(
                select(turns_table.c.record).where(
                    turns_table.c.tenant == tenant, turns_table.c.request_id == request_id
                )
            ).scalar()
            if text is None:
                return None
            # By the request alone: asked for the tenant too, SQLite takes the index of its times.
            entries = connection.execute(
                select(entries_table)
                .where(entries_table.c.request_id == request_id)
                .order_by(entries_table.c.n)
            )
            record: dict[str, Any] = orjson.loads(text)
            record["attempts"] = [dict(e._mapping) for e in entries if e.tenant == tenant]
            return record

        return await self.database.read(read)

    async def turns(
        self, tenant: str, *, before_us: int | None = None, limit: int = 50
    ) -> list[Mapping[str, Any]]:
        """Return the newest recorded turns, without their attempts."""

        def read(connection: Connection) -> list[Mapping[str, Any]]:
            wanted = select(turns_table.c.record).where(turns_table.c.tenant == tenant)
            if before_us is not None:
                wanted = wanted.where(turns_table.c.started_us < before_us)
            rows = connection.execute(wanted.order_by(turns_table.c.started_us.desc()).limit(limit))
            return [orjson.loads(text) for text in rows.scalars()]

        return await self.database.read(read)

    async def costs(
        self,
        tenant: str,
        *,
        start: datetime,
        end: datetime,
        timezone: str,
        group_by: Sequence[str],
        currency: str | None = None,
    ) -> list[CostRow]:
        """Return costs by group, from the roll-ups; groups in rising order of their keys.

        Args:
            tenant: whose.
            start: included; rounded down to its quarter of an hour.
            end: excluded; rounded up.
            timezone: in which days are counted.
            group_by: any of GROUPS; a turn with several tags counts under each of them.
            currency: of `micro`; None adds up whatever the tenant's currency was.
        """
        asked = CostQuestion(tenant, to_us(start), to_us(end), timezone, tuple(group_by), currency)
        return await self.database.read(lambda connection: read_costs(connection, asked))

    async def keep_days_in(self, timezones: Mapping[str, str]) -> int:
        """Count each tenant's day rows in its time zone; return for how many that was a change.

        A span of another zone's days is read from finer rows: right all the same, but slower.
        """

        def act(connection: Connection) -> int:
            known = {row.tenant: row.timezone for row in connection.execute(select(zones_table))}
            changed = [t for t, zone in timezones.items() if known.get(t, "UTC") != zone]
            for tenant in changed:
                set_zone(connection, tenant, timezones[tenant])
                rebuild_derived(connection, tenant)
            return len(changed)

        return await self.database.write(act)

    async def rebuild(self, tenant: str | None = None) -> int:
        """Make the roll-ups anew from turns and entries; return how many rows were read."""
        return await self.database.write(lambda connection: rebuild_rollups(connection, tenant))

    async def settled(self, tenant: str, spend_key: str) -> int:
        """Return what entries charged to one counter of the ledger, in its micro-units."""
        query = select(func.coalesce(func.sum(entries_table.c.charge_micro), 0)).where(
            entries_table.c.tenant == tenant, entries_table.c.spend_key == spend_key
        )
        return int(
            await self.database.read(lambda connection: connection.execute(query).scalar_one())
        )

    async def settled_in(self, tenant: str, period: Period, currency: str) -> int:
        """Return what a budget period has cost, everything in the stream booked first.

        Args:
            tenant: whose.
            period: from its start to its end.
            currency: USD or the tenant's; entries booked in another one do not count.

        Raises:
            LedgerUnavailable: Redis or the database does not answer.
        """
        asked = CostQuestion(tenant, to_us(period.start), to_us(period.end), "UTC", (), currency)
        try:
            await self.catch_up(tenant)
            (row,) = await self.database.read(lambda connection: read_costs(connection, asked))
        except (SQLAlchemyError, RedisError, OSError) as error:
            raise LedgerUnavailable("The books cannot be read.") from error
        return row.usd_micro if currency == "USD" else row.micro

    def _book(self, tenant: str, records: Sequence[tuple[bytes, bytes]]) -> int:
        """Book a batch and return how many records were set aside."""
        bookings: list[Booking] = []
        aside: list[dict[str, str]] = []
        for stream_id, blob in records:
            try:
                bookings.append(parse_record(blob, tenant))
            except ValueError as error:
                aside.append(_set_aside(tenant, stream_id, blob, str(error)))
        for n_races in range(_N_RACES):
            try:
                with self.database.engine.begin() as connection:
                    book(connection, bookings)
                    if aside:
                        statement = insert_into(connection, unbooked_table)
                        connection.execute(statement.on_conflict_do_nothing(), aside)
                break
            except IntegrityError:  # another process has just booked one of them
                if n_races == _N_RACES - 1:
                    raise
            except DataError as error:
                if len(records) > 1:  # one at a time, so that only the wrong one is set aside
                    return sum(self._book(tenant, [record]) for record in records)
                bookings, aside = [], [_set_aside(tenant, *records[0], str(error.orig))]
        return len(aside)


def day_bounds(first: date, last: date, timezone: str) -> tuple[datetime, datetime]:
    """Return the start of the first day and the end of the last one in the time zone."""
    zone = ZoneInfo(timezone)
    start = datetime(first.year, first.month, first.day, tzinfo=zone)
    after = last + timedelta(days=1)
    return start, datetime(after.year, after.month, after.day, tzinfo=zone)


def _set_aside(tenant: str, stream_id: bytes, blob: bytes, error: str) -> dict[str, str]:
    record = blob.decode(errors="replace").replace("\0", "")
    return {"tenant": tenant, "stream_id": stream_id.decode(), "record": record, "error": error}
