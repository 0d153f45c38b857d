"""Versions: the numbered, immutable policies that were put, and the texts that files have had.

Owns their tables and every question asked of them, each inside a transaction of the caller. Parses
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Integer,
    MetaData,
    Row,
    Select,
    String,
    Table,
    Text,
    UniqueConstraint,
    func,
    select,
)

metadata = MetaData()
versions_table = Table(
    "policy_versions",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("name", String(64), nullable=False),
    Column("document", Text, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("until_us", BigInteger),  # a temporary override ends by itself then
)
revisions_table = Table(
    "policy_files",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("revision", Integer, primary_key=True, autoincrement=False),
    Column("digest", String(32), nullable=False),
    Column("document", Text, nullable=False),
    Column("seen_us", BigInteger, nullable=False),
    UniqueConstraint("name", "digest", name="policy_files_by_digest"),
)


@dataclass(frozen=True, slots=True)
class PolicyVersion:
    """One stored version; `text` is the document as it was put.

    One with `until_us` is a temporary override: from then on the one before it holds again.
    """

    tenant: str
    version: int
    name: str
    text: str
    created_us: int
    until_us: int | None = None

    @property
    def etag(self) -> str:
        """The version as an HTTP entity tag."""
        return etag_of(self.version)


def etag_of(version: int) -> str:
    """Return the entity tag of a version; 0 is the file's."""
    return f'"v{version}"'


def matches(if_match: str, version: int) -> bool:
    """Return whether an If-Match header names the version."""
    tags = [tag.strip() for tag in if_match.split(",")]
    return "*" in tags or etag_of(version) in tags


def insert(connection: Connection, version: PolicyVersion) -> None:
    """Keep a version.

    Raises:
        sqlalchemy.exc.IntegrityError: another process has just taken its number.
    """
    values = {"tenant": version.tenant, "version": version.version, "name": version.name}
    values |= {"document": version.text, "created_us": version.created_us}
    connection.execute(versions_table.insert().values(**values, until_us=version.until_us))


def all_of(connection: Connection, tenant: str) -> list[PolicyVersion]:
    """Return the tenant's versions, newest first."""
    return [_version(row) for row in connection.execute(_of(tenant))]


def newest(connection: Connection, tenant: str) -> PolicyVersion | None:
    """Return the tenant's newest version, whether it still holds or not."""
    return _first(connection, _of(tenant))


def standing(connection: Connection, tenant: str, now_us: int) -> PolicyVersion | None:
    """Return the newest version that holds at a moment."""
    return _first(connection, _of(tenant).where(_holds(now_us)))


def standing_numbers(connection: Connection, now_us: int) -> dict[str, int]:
    """Return the number of each tenant's standing version."""
    table = versions_table.c
    query = select(table.tenant, func.max(table.version)).where(_holds(now_us))
    return {tenant: version for tenant, version in connection.execute(query.group_by(table.tenant))}


def revision_of(connection: Connection, name: str, text: str, now_us: int) -> int:
    """Return the number of a policy file's text: 0 for its first, one more for each other one.

    A text that comes back has the number it had.

    Raises:
        sqlalchemy.exc.IntegrityError: another process has just taken the number.
    """
    table = revisions_table.c
    digest = blake2b(text.encode(), digest_size=16).hexdigest()
    known = connection.execute(
        select(table.revision).where(table.name == name, table.digest == digest)
    ).scalar()
    if known is not None:
        return int(known)
    last = connection.execute(select(func.max(table.revision)).where(table.name == name)).scalar()
    revision = 0 if last is None else last + 1
    values = {"name": name, "revision": revision, "digest": digest, "document": text}
    connection.execute(revisions_table.insert().values(**values, seen_us=now_us))
    return revision


def _of(tenant: str) -> Select[Any]:
    query = select(versions_table).where(versions_table.c.tenant == tenant)
    return query.order_by(versions_table.c.version.desc())


def _holds(now_us: int) -> ColumnElement[bool]:
    return versions_table.c.until_us.is_(None) | (versions_table.c.until_us > now_us)


def _first(connection: Connection, query: Select[Any]) -> PolicyVersion | None:
    row = connection.execute(query.limit(1)).first()
    return None if row is None else _version(row)


def _version(row: Row[Any]) -> PolicyVersion:
    values = row._mapping
    return PolicyVersion(
        values["tenant"],
        values["version"],
        values["name"],
        values["document"],
        values["created_us"],
        values["until_us"],
    )
