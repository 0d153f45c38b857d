"""Costs: what a tenant's turns cost, by group, from the coarsest roll-ups that can tell.

Days that lie whole in the span are read as days, the rest as quarters of an hour; end users and
tags are read only where they are asked for. Groups are summed up in the database.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from operator import add
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import ColumnElement, Connection, Select, Table, case, false, func, select

from policies.days import HOUR_US, offsets, whole_days
from policies.rollups import KEPT, Level, local_day, local_offset, zone_of
from policies.tables import BUCKET_US, SUMS, coarse_table, rollups_table

GROUPS = ("day", "week", "month", "hour", "model", "tier", "kind", "tag", "end_user")
_DAYS = ("day", "week", "month")
_MOMENTS = (*_DAYS, "hour")
_COLUMNS = {"tag": "tags"}
_FINE = Level.QUARTERS
_EPOCH = date(1970, 1, 1)


@dataclass(frozen=True, slots=True)
class CostRow:
    """Costs of one group; `group` maps the asked keys to their values.

    `requests` are turns that were not refused, `attempts` ledger entries, `unpriced` those among
    them without a known price. `micro` is in the asked currency; what was booked while the tenant
    counted in another one is in `usd_micro` and, on its own, in `foreign_usd_micro`.
    """

    group: Mapping[str, str]
    requests: int
    unpriced: int
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    usd_micro: int
    micro: int
    attempts: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    foreign_usd_micro: int = 0
    reused_input_tokens: int = 0
    reused_output_tokens: int = 0


_COUNTED = tuple(field.name for field in fields(CostRow))[1:]


@dataclass(frozen=True, slots=True)
class CostQuestion:
    """What is asked: microseconds since the epoch (end excluded), rounded out to quarter hours.

    `group_by` holds any of GROUPS, or `tags` for the whole set of a turn. `currency` is that of
    `micro`; None adds up whatever the tenant's currency was.
    """

    tenant: str
    first_us: int
    last_us: int
    timezone: str
    group_by: tuple[str, ...] = ()
    currency: str | None = None


def read_costs(connection: Connection, asked: CostQuestion) -> list[CostRow]:
    """Return costs by group, in rising order of their keys."""
    first_us = asked.first_us // BUCKET_US * BUCKET_US
    last_us = -(-asked.last_us // BUCKET_US) * BUCKET_US
    pieces = offsets(first_us, last_us, asked.timezone)
    zone = ZoneInfo(asked.timezone)
    totals: dict[tuple[str, ...], list[int]] = {}
    for table, wanted in _sources(connection, asked, first_us, last_us, pieces):
        kept = _kept(asked, table, pieces)
        query = _summed(asked, table, kept).where(*wanted)
        for row in connection.execute(query):
            keys = dict(zip(kept, row, strict=False))
            # PostgreSQL sums big integers into decimals.
            amounts = [int(amount or 0) for amount in row[len(kept) :]]
            for tag in keys["tags"].split("\n") if "tag" in asked.group_by else ("",):
                place = tuple(_value(name, keys, tag, zone) for name in asked.group_by)
                before = totals.get(place)
                totals[place] = amounts if before is None else list(map(add, before, amounts))
    if not asked.group_by and not totals:
        totals[()] = [0] * len(_COUNTED)
    return [
        CostRow(dict(zip(asked.group_by, place, strict=True)), *sums)
        for place, sums in sorted(totals.items())
    ]


def parts_of(
    start: datetime, end: datetime, timezone: str, group_by: Sequence[str]
) -> list[tuple[datetime, datetime]]:
    """Return a span in the parts that no row stands across: days where the groups tell days apart.

    Args:
        start: aware, included.
        end: aware, excluded.
        timezone: whose days.
        group_by: what will be asked of each part.
    """
    if not any(name in ("day", "hour") for name in group_by):
        return [(start, end)]
    zone = ZoneInfo(timezone)
    bounds = [start]
    day = start.astimezone(zone).date()
    while bounds[-1] < end:
        day += timedelta(days=1)
        bounds.append(min(end, datetime(day.year, day.month, day.day, tzinfo=zone)))
    return list(pairwise(bounds))


def _sources(
    connection: Connection,
    asked: CostQuestion,
    first_us: int,
    last_us: int,
    pieces: Sequence[tuple[int, int]],
) -> Iterator[tuple[Table, list[ColumnElement[bool]]]]:
    """Yield which rows of which tables make up the span, each moment in one of them."""
    columns = {_COLUMNS.get(name, name) for name in asked.group_by if name not in _MOMENTS}
    # Levels stand coarsest first: the first that tells apart what is asked for has fewest rows.
    level = next(each for each, kept in KEPT.items() if each is not _FINE and columns <= {*kept})
    is_coarse = columns <= {*KEPT[_FINE]}
    inner = (first_us, first_us)
    if "hour" not in asked.group_by:
        kept_in = zone_of(connection, asked.tenant)
        asks_days = any(name in _DAYS for name in asked.group_by)
        if not asks_days or pieces == offsets(first_us, last_us, kept_in):
            inner = whole_days(first_us, last_us, kept_in)
    for start_us, end_us, is_day in (
        (first_us, inner[0], False),
        (*inner, True),
        (inner[1], last_us, False),
    ):
        if start_us == end_us:
            continue
        table = coarse_table if is_day or is_coarse else rollups_table
        wanted = [
            table.c.tenant == asked.tenant,
            table.c.bucket_us >= start_us,
            table.c.bucket_us < end_us,
        ]
        if table is coarse_table:
            wanted.append(table.c.level == (level if is_day else _FINE).value)
        yield table, wanted


def _kept(
    asked: CostQuestion, table: Table, pieces: Sequence[tuple[int, int]]
) -> Mapping[str, ColumnElement[Any]]:
    """Return what is grouped by, by the names that `_value` reads."""
    columns = table.c
    kept: dict[str, ColumnElement[Any]] = {}
    for name in asked.group_by:
        if name in _DAYS:
            kept["local_day"] = local_day(columns.bucket_us, pieces)
        elif name == "hour":
            offset = local_offset(columns.bucket_us, pieces)
            kept["hour_us"] = (columns.bucket_us + offset) // HOUR_US * HOUR_US - offset
        else:
            column = _COLUMNS.get(name, name)
            kept[column] = columns[column]
    return kept


def _summed(
    asked: CostQuestion, table: Table, kept: Mapping[str, ColumnElement[Any]]
) -> Select[Any]:
    """Return the query of the groups, followed by their sums in the order of `_COUNTED`."""
    columns = table.c
    is_any = asked.currency is None or asked.currency == "USD"
    is_foreign: ColumnElement[bool] = false() if is_any else columns.currency != asked.currency
    sums = {name: func.sum(columns[name]) for name in SUMS}
    sums["micro"] = func.sum(case((is_foreign, 0), else_=columns.micro))
    sums["foreign_usd_micro"] = func.sum(case((is_foreign, columns.usd_micro), else_=0))
    named = [column.label(name) for name, column in kept.items()]
    return select(*named, *(sums[name].label(name) for name in _COUNTED)).group_by(*kept)


def _value(name: str, keys: Mapping[str, Any], tag: str, zone: ZoneInfo) -> str:
    if name in _DAYS:
        return _day_label(name, int(keys["local_day"]))
    if name == "hour":
        at = datetime.fromtimestamp(int(keys["hour_us"]) / 1e6, UTC).astimezone(zone)
        return at.strftime("%Y-%m-%dT%H:00%z")
    return tag if name == "tag" else str(keys[name])


@lru_cache(maxsize=4096)
def _day_label(name: str, local_day: int) -> str:
    day = _EPOCH + timedelta(days=local_day)
    if name == "week":
        day -= timedelta(days=day.weekday())  # its Monday
    return f"{day:%Y-%m}" if name == "month" else day.isoformat()
