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
from functools import partial
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
from policies.document import load_document
from policies.errors import DocumentErrors, PolicyConflict, UnknownPolicy
from policies.policy import Policy, parse_policy
from policies.tables import create_tables

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


_N_RACES = 20


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
        self._seen: dict[str, int] = {}  # the newest version looked at, broken ones too

    async def prepare(self, names: Sequence[str]) -> None:
        """Make the table, and load the named policy files and every stored version's newest.

        Raises:
            DocumentErrors: a file has a wrong value.
            UnknownPolicy: a name has no file.
        """
        await asyncio.to_thread(create_tables, self._engine, metadata)
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

    def check(
        self, text: str, source: str, *, name: str = "checked", currency: str | None = None
    ) -> Policy:
        """Return the policy of a document without storing it.

        Args:
            text: YAML or JSON.
            source: what errors call it.
            name: the policy's.
            currency: of the tenant it is for; its budget must be in that or in USD. None for any.

        Raises:
            DocumentErrors: it has a wrong value.
        """
        document = load_document(text, source)
        return parse_policy(document, self._catalog, name=name, currency=currency)

    def check_file(self, name: str, currency: str) -> Policy:
        """Return the policy of a file, checked for a tenant that counts in this currency.

        Raises:
            UnknownPolicy: there is no such file.
            DocumentErrors: it has a wrong value, or a budget in a third currency.
        """
        text, source = self._find_file(name)
        return self.check(text, source, name=name, currency=currency)

    async def put(
        self,
        tenant: str,
        text: str,
        *,
        name: str,
        if_match: str | None = None,
        currency: str | None = None,
    ) -> PolicyVersion:
        """Store a new version for the tenant and make it live in this process.

        Args:
            tenant: whose policy.
            text: YAML or JSON.
            name: the policy's name in labels.
            if_match: the ETags the author read, as in HTTP; None overwrites whatever stands.
            currency: the tenant's; a budget must be in that or in USD. None is not checked.

        Raises:
            DocumentErrors: it has a wrong value; the live policy stays.
            PolicyConflict: another version stands by now.
        """
        # Parsing YAML is slow enough to be felt by the turns of the same process.
        check = partial(self.check, text, f"policy of {tenant}", name=name, currency=currency)
        await asyncio.to_thread(check)
        now_us = round(self._clock().timestamp() * 1_000_000)

        def write(connection: Connection) -> PolicyVersion:
            newest = _newest(connection, tenant)
            standing = newest.version if newest else 0
            if if_match is not None and not _matches(if_match, standing):
                raise PolicyConflict(etag_of(standing))
            version = PolicyVersion(tenant, standing + 1, name, text, now_us)
            values = {"tenant": tenant, "version": version.version, "name": name}
            values |= {"document": text, "created_us": now_us}
            connection.execute(versions_table.insert().values(values))
            return version

        for _ in range(_N_RACES):
            try:
                version = await self._write(write)
            except IntegrityError:  # another process took the number: look again what stands
                continue
            self._adopt(version)
            return version
        raise PolicyConflict(None)

    async def rollback(
        self,
        tenant: str,
        version: int,
        *,
        if_match: str | None = None,
        currency: str | None = None,
    ) -> PolicyVersion:
        """Put an earlier version again, as a new one.

        Raises:
            UnknownPolicy: the tenant has no such version.
            PolicyConflict, DocumentErrors: as put().
        """
        for stored in await self.versions(tenant):
            if stored.version == version:
                return await self.put(
                    tenant, stored.text, name=stored.name, if_match=if_match, currency=currency
                )
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
        """Adopt what other processes have put since; a broken version leaves the last good one.

        Asks for numbers alone, and only for the documents of those that are new here.
        """
        newest = func.max(versions_table.c.version).label("version")
        numbers = select(versions_table.c.tenant, newest).group_by(versions_table.c.tenant)

        def read(connection: Connection) -> tuple[dict[str, int], list[PolicyVersion]]:
            standing = {row.tenant: row.version for row in connection.execute(numbers)}
            new = [t for t, version in standing.items() if self._seen.get(t, 0) < version]
            found = (_newest(connection, tenant) for tenant in new)
            return standing, [version for version in found if version is not None]

        standing, stored = await self._read(read)
        for version in stored:
            # A put of this process may have overtaken the read.
            if self._seen.get(version.tenant, 0) < version.version:
                self._adopt(version)
        for tenant in self._put.keys() - standing.keys():
            if self._seen[tenant] > 0 and not await self.versions(tenant):
                self._put.pop(tenant, None)
                self._seen.pop(tenant, None)

    def _adopt(self, version: PolicyVersion) -> None:
        self._seen[version.tenant] = version.version
        try:
            document = load_document(version.text, f"policy of {version.tenant}")
            self._put[version.tenant] = parse_policy(
                document, self._catalog, name=version.name, version=version.version
            )
        except DocumentErrors as error:
            # A version stored under another catalogue may no longer hold; it is seen only once.
            log.error(
                "version %d of the policy of %s is not used: %s",
                version.version,
                version.tenant,
                error,
            )

    def _load_file(self, name: str) -> Policy:
        text, source = self._find_file(name)
        return self.check(text, source, name=name)

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


def _matches(if_match: str, standing: int) -> bool:
    tags = [tag.strip() for tag in if_match.split(",")]
    return "*" in tags or etag_of(standing) in tags


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
