"""Policies by tenant: YAML files, and numbered immutable versions put over the admin API.

A version that an administrator put for a tenant outranks the file that the tenant's configuration
names. Reading is from process memory; a background refresh follows what other processes put.
"""

from __future__ import annotations

import asyncio
import difflib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    Integer,
    MetaData,
    Row,
    String,
    Table,
    Text,
    func,
    select,
)
from sqlalchemy.exc import IntegrityError

from policies.catalog import ModelCatalog
from policies.document import Document, load_document
from policies.errors import DocumentErrors, PolicyConflict, UnknownPolicy
from policies.policy import Policy, parse_policy

T = TypeVar("T")
log = logging.getLogger("turnwise.policies")

metadata = MetaData()
versions_table = Table(
    "policy_versions",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("name", String(64), nullable=False),
    Column("document", Text, nullable=False),
    Column("created_us", BigInteger, nullable=False),
)


@dataclass(frozen=True, slots=True)
class PolicyVersion:
    """One stored version; `text` is the document as it was put."""

    tenant: str
    version: int
    name: str
    text: str
    created_us: int

    @property
    def etag(self) -> str:
        """The version as an HTTP entity tag."""
        return etag_of(self.version)


def etag_of(version: int) -> str:
    """Return the entity tag of a version; 0 is the file's."""
    return f'"v{version}"'


class PolicyStore:
    """Every tenant's live policy.

    Args:
        engine: the SQL database.
        catalog: the models that policies may name.
        folders: searched in order for NAME.yaml, before the packaged ones.
        clock: aware UTC now.
    """

    def __init__(
        self,
        engine: Engine,
        catalog: ModelCatalog,
        *,
        folders: Sequence[Path],
        clock: Callable[[], datetime],
    ) -> None:
        self._engine = engine
        self._catalog = catalog
        self._folders = tuple(folders)
        self._clock = clock
        self._files: dict[str, Policy] = {}
        self._put: dict[str, Policy] = {}
        self._broken: set[tuple[str, int]] = set()

    async def prepare(self, names: Sequence[str]) -> None:
        """Make the table, and load the named policy files and every stored version's newest.

        Raises:
            DocumentErrors: a file has a wrong value.
            UnknownPolicy: a name has no file.
        """
        await asyncio.to_thread(metadata.create_all, self._engine)
        for name in dict.fromkeys(names):
            self._files[name] = self._load_file(name)
        await self.refresh()

    def policy_of(self, tenant: str, name: str) -> Policy:
        """Return the tenant's policy: the newest one put for it, else the named file's.

        Raises:
            UnknownPolicy: neither exists.
            DocumentErrors: the file has a wrong value.
        """
        policy = self._put.get(tenant)
        if policy is None:
            policy = self._files.get(name)
            if policy is None:
                policy = self._files[name] = self._load_file(name)
        return policy

    def text_of(self, name: str) -> str:
        """Return the text of a policy file.

        Raises:
            UnknownPolicy: there is no such file.
        """
        return self._find_file(name)[0]

    def check(self, text: str, source: str, *, name: str = "checked") -> Policy:
        """Return the policy of a document without storing it.

        Raises:
            DocumentErrors: it has a wrong value.
        """
        return parse_policy(load_document(text, source), self._catalog, name=name)

    async def put(
        self, tenant: str, text: str, *, name: str, if_match: str | None = None
    ) -> PolicyVersion:
        """Store a new version for the tenant and make it live in this process.

        Args:
            tenant: whose policy.
            text: YAML or JSON.
            name: the policy's name in labels.
            if_match: the ETag the author read; None overwrites whatever stands.

        Raises:
            DocumentErrors: it has a wrong value; the live policy stays.
            PolicyConflict: another version stands by now.
        """
        self.check(text, f"policy of {tenant}", name=name)

        def write(connection: Connection) -> PolicyVersion:
            newest = _newest(connection, tenant)
            standing = newest.version if newest else 0
            if if_match is not None and if_match.strip() not in ("*", etag_of(standing)):
                raise PolicyConflict(etag_of(standing))
            now_us = round(self._clock().timestamp() * 1_000_000)
            version = PolicyVersion(tenant, standing + 1, name, text, now_us)
            connection.execute(
                versions_table.insert().values(
                    tenant=tenant,
                    version=version.version,
                    name=name,
                    document=text,
                    created_us=now_us,
                )
            )
            return version

        try:
            version = await self._write(write)
        except IntegrityError as error:  # another process took the same number
            raise PolicyConflict(None) from error
        self._adopt(version)
        return version

    async def rollback(
        self, tenant: str, version: int, *, if_match: str | None = None
    ) -> PolicyVersion:
        """Put an earlier version again, as a new one.

        Raises:
            UnknownPolicy: the tenant has no such version.
            PolicyConflict, DocumentErrors: as put().
        """
        for stored in await self.versions(tenant):
            if stored.version == version:
                return await self.put(tenant, stored.text, name=stored.name, if_match=if_match)
        raise UnknownPolicy(f"{tenant} version {version}")

    async def versions(self, tenant: str) -> list[PolicyVersion]:
        """Return the tenant's stored versions, newest first."""

        def read(connection: Connection) -> list[PolicyVersion]:
            rows = connection.execute(
                select(versions_table)
                .where(versions_table.c.tenant == tenant)
                .order_by(versions_table.c.version.desc())
            )
            return [_version(row) for row in rows]

        return await self._read(read)

    async def refresh(self) -> None:
        """Adopt what other processes have put since; a broken version leaves the last good one."""

        def read(connection: Connection) -> list[PolicyVersion]:
            newest = (
                select(versions_table.c.tenant, func.max(versions_table.c.version).label("version"))
                .group_by(versions_table.c.tenant)
                .subquery()
            )
            rows = connection.execute(
                select(versions_table).join(
                    newest,
                    (versions_table.c.tenant == newest.c.tenant)
                    & (versions_table.c.version == newest.c.version),
                )
            )
            return [_version(row) for row in rows]

        stored = await self._read(read)
        for version in stored:
            live = self._put.get(version.tenant)
            if live is None or live.version != version.version:
                self._adopt(version)
        for tenant in self._put.keys() - {version.tenant for version in stored}:
            del self._put[tenant]

    def _adopt(self, version: PolicyVersion) -> None:
        try:
            document = load_document(version.text, f"policy of {version.tenant}")
            self._put[version.tenant] = parse_policy(
                document, self._catalog, name=version.name, version=version.version
            )
        except DocumentErrors as error:
            # A version stored under another catalogue may no longer hold; say so once.
            if (version.tenant, version.version) not in self._broken:
                self._broken.add((version.tenant, version.version))
                log.error("stored policy version %d is not used: %s", version.version, error)

    def _load_file(self, name: str) -> Policy:
        text, source = self._find_file(name)
        document: Document = load_document(text, source)
        return parse_policy(document, self._catalog, name=name)

    def _find_file(self, name: str) -> tuple[str, str]:
        for folder in self._folders:
            path = folder / f"{name}.yaml"
            if path.is_file():
                return path.read_text(encoding="utf-8"), str(path)
        packaged = files("policies").joinpath(f"{name}.yaml")
        if packaged.is_file():
            return packaged.read_text(encoding="utf-8"), f"policies/{name}.yaml"
        near = difflib.get_close_matches(name, self._names(), n=1, cutoff=0.5)
        raise UnknownPolicy(name, near[0] if near else None)

    def _names(self) -> list[str]:
        names = [path.stem for folder in self._folders for path in folder.glob("*.yaml")]
        return [*names, "default"]

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


def _newest(connection: Connection, tenant: str) -> PolicyVersion | None:
    row = connection.execute(
        select(versions_table)
        .where(versions_table.c.tenant == tenant)
        .order_by(versions_table.c.version.desc())
        .limit(1)
    ).first()
    return None if row is None else _version(row)


def _version(row: Row[Any]) -> PolicyVersion:
    mapping = row._mapping
    return PolicyVersion(
        mapping["tenant"],
        mapping["version"],
        mapping["name"],
        mapping["document"],
        mapping["created_us"],
    )
