"""Turns show reason, cache, score and first token as columns; roll-ups know the kind of call.

Roll-ups are derived, so the old ones go; `gateway.database.upgrade` makes them anew.
"""

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_CHUNK = 1000


def upgrade() -> None:
    """Add the columns and fill them from the records."""
    bind = op.get_bind()
    known = {column["name"] for column in sa.inspect(bind).get_columns("turns")}
    for column in (
        sa.Column("reason", sa.String(64), nullable=False, server_default=""),
        sa.Column("cache", sa.String(16), nullable=False, server_default="none"),
        sa.Column("score", sa.Float),
        sa.Column("first_ms", sa.Float),
        sa.Column("input_tokens", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("output_tokens", sa.BigInteger, nullable=False, server_default="0"),
    ):
        if column.name not in known:
            op.add_column("turns", column)
    _fill(bind)
    for name in ("rollups", "turn_counts"):
        bind.execute(sa.text(f"DROP TABLE IF EXISTS {name}"))
    _make_derived(bind)


def _fill(bind: sa.Connection) -> None:
    filled = ("reason", "cache", "score", "first_ms", "input_tokens", "output_tokens")
    kept = ("tenant", "request_id", "record")
    turns = sa.table("turns", *(sa.column(name) for name in (*kept, *filled)))
    place = (turns.c.tenant == sa.bindparam("t")) & (turns.c.request_id == sa.bindparam("r"))
    after = ("", "")
    while True:
        key = sa.tuple_(turns.c.tenant, turns.c.request_id)
        rows = bind.execute(
            sa.select(turns.c.tenant, turns.c.request_id, turns.c.record)
            .where(key > after)
            .order_by(turns.c.tenant, turns.c.request_id)
            .limit(_CHUNK)
        ).all()
        if not rows:
            return
        values: dict[str, Any] = {name: sa.bindparam(f"new_{name}") for name in filled}
        change = sa.update(turns).where(place).values(values)
        bind.execute(change, [{"t": r[0], "r": r[1], **_columns(json.loads(r[2]))} for r in rows])
        after = (rows[-1][0], rows[-1][1])


def _columns(turn: dict[str, dict[str, object] | None]) -> dict[str, object]:
    decision, usage = turn.get("decision") or {}, turn.get("usage") or {}
    return {
        "new_reason": decision.get("reason") or "",
        "new_cache": turn.get("cache") or "none",
        "new_score": decision.get("score"),
        "new_first_ms": (turn.get("timings_ms") or {}).get("first_event"),
        "new_input_tokens": usage.get("input_tokens") or 0,
        "new_output_tokens": usage.get("output_tokens") or 0,
    }


def _make_derived(bind: sa.Connection) -> None:
    metadata = sa.MetaData()
    sums = (
        *("requests", "attempts", "unpriced", "input_tokens", "cached_input_tokens"),
        *("cache_write_tokens", "output_tokens", "reasoning_tokens"),
        *("reused_input_tokens", "reused_output_tokens", "usd_micro", "micro"),
    )

    def text(name: str, length: int) -> sa.Column[Any]:
        return sa.Column(name, sa.String(length), nullable=False)

    def big(name: str) -> sa.Column[Any]:
        return sa.Column(name, sa.BigInteger, nullable=False)

    sa.Table(
        "rollups",
        metadata,
        sa.Column("id", sa.String(32), primary_key=True),
        *(text("tenant", 64), big("bucket_us"), text("model", 128), text("tier", 64)),
        *(text("kind", 32), text("end_user", 256)),
        sa.Column("tags", sa.Text, nullable=False),
        *(text("currency", 3), *(big(name) for name in sums)),
        sa.Index("rollups_by_time", "tenant", "bucket_us"),
    )
    sa.Table(
        "turn_counts",
        metadata,
        sa.Column("id", sa.String(32), primary_key=True),
        *(text("tenant", 64), big("bucket_us"), text("tier", 64), text("name", 16)),
        *(text("value", 64), big("n")),
        sa.Index("turn_counts_by_name", "tenant", "name", "bucket_us", "value", "tier", "n"),
    )
    metadata.create_all(bind)
