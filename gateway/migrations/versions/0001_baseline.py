"""The tables as they were before there were steps; a database that has them already is adopted."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_TOKENS = (
    *("input_tokens", "cached_input_tokens", "cache_write_tokens"),
    *("output_tokens", "reasoning_tokens"),
)
_SUMS = ("requests", "attempts", "unpriced", *_TOKENS, "usd_micro", "micro")


def _big(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.BigInteger, nullable=False) for name in names]


def _text(name: str, length: int) -> sa.Column[Any]:
    return sa.Column(name, sa.String(length), nullable=False)


def _key(name: str, length: int) -> sa.Column[Any]:
    return sa.Column(name, sa.String(length), primary_key=True)


def upgrade() -> None:
    """Make what is missing."""
    metadata = sa.MetaData()
    _money(metadata)
    _identity(metadata)
    metadata.create_all(op.get_bind())


def _money(metadata: sa.MetaData) -> None:
    sa.Table(
        "turns",
        metadata,
        *(_key("tenant", 64), _key("request_id", 64), _text("status", 16)),
        *_big("started_us", "ended_us"),
        sa.Column("conversation", sa.String(256)),
        *(_text("model", 128), _text("tier", 64), _text("end_user", 256)),
        sa.Column("tags", sa.Text, nullable=False),
        _text("currency", 3),
        sa.Column("is_orphan", sa.Boolean, nullable=False),
        sa.Column("record", sa.Text, nullable=False),
        sa.Index("turns_by_time", "tenant", "started_us"),
    )
    sa.Table(
        "entries",
        metadata,
        _key("id", 80),
        sa.Column("request_id", sa.String(64), nullable=False, index=True),
        _text("tenant", 64),
        sa.Column("n", sa.Integer, nullable=False),
        *(_text("model", 128), _text("backend", 128), _text("tier", 64), _text("kind", 32)),
        *(_text("policy", 128), _text("status", 16), *_big("opened_us", "closed_us")),
        _text("end_user", 256),
        sa.Column("tags", sa.Text, nullable=False),
        *_big(*_TOKENS),
        *(sa.Column(name, sa.Boolean, nullable=False) for name in ("is_estimated", "is_orphan")),
        *(sa.Column(name, sa.BigInteger) for name in ("usd_micro", "micro")),
        _text("currency", 3),
        *(sa.Column("rate", sa.String(32)), sa.Column("rate_date", sa.String(10))),
        *_big("charge_micro"),
        _text("spend_key", 256),
        sa.Column("error", sa.Text),
        sa.Index("entries_by_time", "tenant", "opened_us"),
    )
    sa.Table(
        "rollups",
        metadata,
        *(_key("id", 32), _text("tenant", 64), *_big("bucket_us")),
        *(_text("model", 128), _text("tier", 64), _text("end_user", 256)),
        sa.Column("tags", sa.Text, nullable=False),
        *(_text("currency", 3), *_big(*_SUMS)),
        sa.Index("rollups_by_time", "tenant", "bucket_us"),
    )
    sa.Table(
        "unbooked",
        metadata,
        *(_key("tenant", 64), _key("stream_id", 64)),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("record", "error")),
    )


def _identity(metadata: sa.MetaData) -> None:
    sa.Table(
        "policy_versions",
        metadata,
        _key("tenant", 64),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        _text("name", 64),
        sa.Column("document", sa.Text, nullable=False),
        *_big("created_us"),
    )
    sa.Table(
        "tenants",
        metadata,
        *(_key("id", 63), _text("currency", 3), _text("timezone", 64), _text("policy", 128)),
        *(_text("origin", 8), *_big("created_us")),
    )
    sa.Table(
        "tenant_keys",
        metadata,
        _key("id", 16),
        sa.Column("tenant", sa.String(63), index=True),
        *(_text("name", 128), _text("hash", 64), _text("scopes", 512), _text("origin", 8)),
        *_big("created_us"),
        *(sa.Column(name, sa.BigInteger) for name in ("expires_us", "revoked_us")),
    )
    sa.Table(
        "identity_version",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        *_big("version"),
    )
