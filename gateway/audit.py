"""The audit log: who changed what, in SQL, in the order it happened. Rows are only ever added."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    select,
)

from policies.database import Database
from policies.entry import to_us

metadata = MetaData()
_log = Table(
    "audit_log",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("at_us", BigInteger, nullable=False),
    Column("actor", String(64), nullable=False),
    Column("role", String(32), nullable=False),
    Column("tenant", String(64), nullable=False),
    Column("act", String(128), nullable=False),
    Column("detail", Text, nullable=False),
    Column("request_id", String(64), nullable=False),
    Index("audit_log_by_tenant", "tenant", "id"),
)


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One change: the id of the key that made it, whose tenant it touched, and what was asked."""

    id: int
    at_us: int
    actor: str
    role: str
    tenant: str
    act: str
    detail: str
    request_id: str


class AuditLog:
    """The table of changes; its methods run in a worker thread.

    Args:
        engine: the SQL database.
        clock: aware UTC now.
    """

    def __init__(self, engine: Engine, clock: Callable[[], datetime]) -> None:
        self._database = Database(engine)
        self._clock = clock

    async def add(
        self,
        *,
        actor: str,
        role: str,
        act: str,
        tenant: str = "",
        detail: Mapping[str, Any] | None = None,
        request_id: str = "",
    ) -> None:
        """Add a row. `detail` never holds a key or a policy's text, only what names them."""
        row = {
            "at_us": to_us(self._clock()),
            "actor": actor[:64],
            "role": role,
            "tenant": tenant[:64],
            "act": act[:128],
            "detail": json.dumps(detail or {}, ensure_ascii=False)[:4000],
            "request_id": request_id,
        }
        await self._database.write(lambda connection: connection.execute(_log.insert().values(row)))

    async def rows(
        self, tenant: str | None, *, before: int | None = None, limit: int = 100
    ) -> list[AuditRow]:
        """Return the newest rows of a tenant, or of all for None, those before an id if given."""
        query = select(_log).order_by(_log.c.id.desc()).limit(limit)
        if tenant is not None:
            query = query.where(_log.c.tenant == tenant)
        if before is not None:
            query = query.where(_log.c.id < before)

        def read(connection: Connection) -> list[AuditRow]:
            return [AuditRow(**row._mapping) for row in connection.execute(query)]

        return await self._database.read(read)
