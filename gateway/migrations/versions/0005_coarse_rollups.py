"""Roll-ups without what most questions do not ask for; turns found by conversation and filter."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_TEXTS = (("model", 128), ("tier", 64), ("kind", 32), ("end_user", 256))
_SUMS = (
    *("requests", "attempts", "unpriced", "input_tokens", "cached_input_tokens"),
    *("cache_write_tokens", "output_tokens", "reasoning_tokens"),
    *("reused_input_tokens", "reused_output_tokens", "usd_micro", "micro"),
)
_INDEXES = {
    "turns_by_time": (
        *("tenant", "started_us", "model", "tier", "status", "reason", "cache"),
        *("end_user", "conversation"),
    ),
    "turns_by_conversation": ("tenant", "conversation", "started_us"),
}


def upgrade() -> None:
    """Make the tables, empty, and the index; `gateway.database.upgrade` fills the tables."""
    metadata = sa.MetaData()
    sa.Table(
        "coarse_rollups",
        metadata,
        sa.Column("tenant", sa.String(64), primary_key=True),
        sa.Column("level", sa.String(16), primary_key=True),
        sa.Column("bucket_us", sa.BigInteger, primary_key=True),
        sa.Column("id", sa.String(32), primary_key=True),
        *(sa.Column(name, sa.String(length), nullable=False) for name, length in _TEXTS),
        sa.Column("tags", sa.Text, nullable=False),
        sa.Column("currency", sa.String(3), nullable=False),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in _SUMS),
        sqlite_with_rowid=False,
    )
    sa.Table(
        "rollup_zones",
        metadata,
        sa.Column("tenant", sa.String(64), primary_key=True),
        sa.Column("timezone", sa.String(64), nullable=False),
    )
    sa.Table(
        "day_counts",
        metadata,
        sa.Column("tenant", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(16), primary_key=True),
        sa.Column("bucket_us", sa.BigInteger, primary_key=True),
        sa.Column("tier", sa.String(64), primary_key=True),
        sa.Column("value", sa.String(64), primary_key=True),
        sa.Column("n", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    metadata.create_all(op.get_bind())
    # Known before the tables are filled, so that days are counted once.
    op.execute("INSERT INTO rollup_zones (tenant, timezone) SELECT id, timezone FROM tenants")
    op.drop_index("turns_by_time", "turns", if_exists=True)
    for name, columns in _INDEXES.items():
        op.create_index(name, "turns", list(columns), if_not_exists=True)
