"""The tables of the books, and the two statements that SQLite and PostgreSQL spell differently.

Times are whole microseconds since the epoch. An amount that is NULL has an unknown price, which is
never the same as zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)

from policies.days import QUARTER_US

BUCKET_US = QUARTER_US  # a quarter of an hour divides every time zone's offset
TOKENS = (
    "input_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
)
DIMENSIONS = ("tenant", "bucket_us", "model", "tier", "kind", "end_user", "tags", "currency")
REUSED = ("reused_input_tokens", "reused_output_tokens")  # of answers given again from the cache
SUMS = ("requests", "attempts", "unpriced", *TOKENS, *REUSED, "usd_micro", "micro")

metadata = MetaData()
turns_table = Table(
    "turns",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("request_id", String(64), primary_key=True),
    Column("status", String(16), nullable=False),
    Column("started_us", BigInteger, nullable=False),
    Column("ended_us", BigInteger, nullable=False),
    Column("conversation", String(256)),
    Column("model", String(128), nullable=False),
    Column("tier", String(64), nullable=False),
    Column("end_user", String(256), nullable=False),
    Column("tags", Text, nullable=False),
    Column("currency", String(3), nullable=False),
    Column("is_orphan", Boolean, nullable=False),
    Column("reason", String(64), nullable=False, server_default=""),
    Column("cache", String(16), nullable=False, server_default="none"),
    Column("score", Float),
    Column("first_ms", Float),
    Column("input_tokens", BigInteger, nullable=False, server_default="0"),
    Column("output_tokens", BigInteger, nullable=False, server_default="0"),
    Column("record", Text, nullable=False),
    # Wide, so that looking for what few turns have reads no turn that has it not.
    Index(
        "turns_by_time",
        *("tenant", "started_us", "model", "tier", "status", "reason", "cache"),
        *("end_user", "conversation"),
    ),
    Index("turns_by_conversation", "tenant", "conversation", "started_us"),
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
    Column("policy", String(128), nullable=False),
    Column("status", String(16), nullable=False),
    Column("opened_us", BigInteger, nullable=False),
    Column("closed_us", BigInteger, nullable=False),
    Column("end_user", String(256), nullable=False),
    Column("tags", Text, nullable=False),
    *(Column(name, BigInteger, nullable=False) for name in TOKENS),
    Column("is_estimated", Boolean, nullable=False),
    Column("is_orphan", Boolean, nullable=False),
    Column("usd_micro", BigInteger),
    Column("micro", BigInteger),
    Column("currency", String(3), nullable=False),
    Column("rate", String(32)),
    Column("rate_date", String(10)),
    Column("charge_micro", BigInteger, nullable=False),
    Column("spend_key", String(256), nullable=False),
    Column("error", Text),
    Index("entries_by_time", "tenant", "opened_us"),
)
rollups_table = Table(
    "rollups",
    metadata,
    # The dimensions together are too long for an index of PostgreSQL: their digest names the row.
    Column("id", String(32), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("bucket_us", BigInteger, nullable=False),
    Column("model", String(128), nullable=False),
    Column("tier", String(64), nullable=False),
    # chat, failed, unpriced, or the helper whose call it was; cache for turns served from there.
    Column("kind", String(32), nullable=False),
    Column("end_user", String(256), nullable=False),
    Column("tags", Text, nullable=False),
    Column("currency", String(3), nullable=False),
    *(Column(name, BigInteger, nullable=False) for name in SUMS),
    Index("rollups_by_time", "tenant", "bucket_us"),
)
# The same sums without what a question does not ask for: see policies/rollups.py.
coarse_table = Table(
    "coarse_rollups",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("level", String(16), primary_key=True),
    Column("bucket_us", BigInteger, primary_key=True),
    Column("id", String(32), primary_key=True),
    Column("model", String(128), nullable=False),
    Column("tier", String(64), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("end_user", String(256), nullable=False),
    Column("tags", Text, nullable=False),
    Column("currency", String(3), nullable=False),
    *(Column(name, BigInteger, nullable=False) for name in SUMS),
    sqlite_with_rowid=False,  # rows that are read together lie together
)
zones_table = Table(
    "rollup_zones",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("timezone", String(64), nullable=False),
)
counts_table = Table(
    "turn_counts",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("bucket_us", BigInteger, nullable=False),
    Column("tier", String(64), nullable=False),
    Column("name", String(16), nullable=False),
    Column("value", String(64), nullable=False),
    Column("n", BigInteger, nullable=False),
    Index("turn_counts_by_name", "tenant", "name", "bucket_us", "value", "tier", "n"),
)
day_counts_table = Table(
    "day_counts",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("name", String(16), primary_key=True),
    Column("bucket_us", BigInteger, primary_key=True),
    Column("tier", String(64), primary_key=True),
    Column("value", String(64), primary_key=True),
    Column("n", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
# How good an answer was, by who said so; no text, and no reason why.
outcomes_table = Table(
    "outcomes",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("request_id", String(64), primary_key=True),
    Column("source", String(16), primary_key=True),
    Column("score", Float, nullable=False),
    Column("at_us", BigInteger, nullable=False),
)
# Records that make no sense: set aside with the reason, so that those behind them are booked.
unbooked_table = Table(
    "unbooked",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("stream_id", String(64), primary_key=True),
    Column("record", Text, nullable=False),
    Column("error", Text, nullable=False),
)


def insert_into(connection: Connection, table: Table) -> Any:
    """Return an INSERT that knows `on_conflict_do_update`, in the connection's dialect."""
    return _insert(connection.dialect.name, table)


def add_into(connection: Connection, table: Table, counted: Sequence[str]) -> Any:
    """Return an INSERT that adds the counted columns where the primary key is there already."""
    return _insert_or_add(connection.dialect.name, table, tuple(counted))


@cache  # making one costs as much as booking fifty turns
def _insert_or_add(dialect: str, table: Table, counted: tuple[str, ...]) -> Any:
    statement = _insert(dialect, table)
    sums = {name: table.c[name] + statement.excluded[name] for name in counted}
    return statement.on_conflict_do_update(index_elements=list(table.primary_key), set_=sums)


def _insert(dialect: str, table: Table) -> Any:
    # Only the dialect in use is loaded: both together are a fiftieth of a gateway's memory.
    module: Any = import_module(f"sqlalchemy.dialects.{dialect}")
    return module.insert(table)
