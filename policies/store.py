"""Policies by tenant: YAML files, and numbered immutable versions put over the admin API.

A version that an administrator put for a tenant outranks the file that the tenant's configuration
names. Reading is from process memory; a background refresh follows what other processes put.
"""

from __future__ import annotations

import asyncio
import difflib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
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
from policies.database import Database, unannounced
from policies.document import load_document
from policies.entry import to_us
from policies.errors import DocumentErrors, PolicyConflict, UnknownPolicy
from policies.policy import Policy, parse_policy
from policies.tables import create_tables

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
    Column("until_us", BigInteger),  # a temporary override ends by itself then
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


@dataclass(frozen=True, slots=True)
class _File:
    """A policy file as it was read last; `told` is what was wrong with it since."""

    text: str
    policy: Policy
    told: str = ""


def in_timezone(policy: Policy, timezone: str) -> Policy:
    """Return the policy with its budget counted in this zone, unless it names one itself."""
    budget = policy.budget
    if budget is None or budget.has_own_timezone or budget.timezone == timezone:
        return policy
    return replace(policy, budget=replace(budget, timezone=timezone))


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
        announce: tells other processes that a version was put.
        timezones: returns every tenant's time zone, in which a budget counts its days that names
            none of its own.
    """

    def __init__(
        self,
        engine: Engine,
        catalog: ModelCatalog,
        *,
        folders: Sequence[Path],
        clock: Callable[[], datetime],
        announce: Callable[[], Awaitable[None]] = unannounced,
        timezones: Callable[[], Awaitable[Mapping[str, str]]] | None = None,
    ) -> None:
        self.database = Database(engine)
        self._announce = announce
        self._read_timezones = timezones
        self._catalog = catalog
        self._folders = tuple(folders)
        self._clock = clock
        self._files: dict[str, _File] = {}
        self._put: dict[str, Policy] = {}
        self._seen: dict[str, int] = {}  # the version looked at last, broken ones too
        self._timezones: Mapping[str, str] = {}
        self._live: dict[tuple[str, str], Policy] = {}  # what policy_of has worked out

    async def prepare(self, names: Sequence[str]) -> None:
        """Make the table, and load the named policy files and every stored version's newest.

        Raises:
            DocumentErrors: a file has a wrong value.
            UnknownPolicy: a name has no file.
        """
        await asyncio.to_thread(create_tables, self.database.engine, metadata)
        for name in dict.fromkeys(names):
            self._load_file(name)
        await self.refresh()

    def policy_of(self, tenant: str, name: str) -> Policy:
        """Return the tenant's policy: the newest one put for it, else the named file's.

        Raises:
            UnknownPolicy: neither exists.
            DocumentErrors: the file has a wrong value.
        """
        policy = self._live.get((tenant, name))
        if policy is None:
            policy = self._put.get(tenant)
            if policy is None:
                policy = (self._files.get(name) or self._load_file(name)).policy
            policy = in_timezone(policy, self._timezones.get(tenant, "UTC"))
            self._live[tenant, name] = policy
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
        until: datetime | None = None,
    ) -> PolicyVersion:
        """Store a new version for the tenant, make it live in this process and announce it.

        Args:
            tenant: whose policy.
            text: YAML or JSON.
            name: the policy's name in labels.
            if_match: the ETags the author read, as in HTTP; None overwrites whatever stands.
            currency: the tenant's; a budget must be in that or in USD. None is not checked.
            until: when it ends by itself; None holds until the next one.

        Raises:
            DocumentErrors: it has a wrong value; the live policy stays.
            PolicyConflict: another version stands by now.
        """
        # Parsing YAML is slow enough to be felt by the turns of the same process.
        check = partial(self.check, text, f"policy of {tenant}", name=name, currency=currency)
        await asyncio.to_thread(check)
        now_us = self._now_us()
        until_us = None if until is None else to_us(until)

        def write(connection: Connection) -> PolicyVersion:
            newest = _newest(connection, tenant)
            standing = newest.version if newest else 0
            if if_match is not None and not _matches(if_match, standing):
                raise PolicyConflict(etag_of(standing))
            version = PolicyVersion(tenant, standing + 1, name, text, now_us, until_us)
            values = {"tenant": tenant, "version": version.version, "name": name}
            values |= {"document": text, "created_us": now_us, "until_us": until_us}
            connection.execute(versions_table.insert().values(values))
            return version

        for _ in range(_N_RACES):
            try:
                version = await self.database.write(write)
            except IntegrityError:  # another process took the number: look again what stands
                continue
            self._adopt(version)
            await self._announce()
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

        return await self.database.read(read)

    async def live_version(self, tenant: str) -> PolicyVersion | None:
        """Return the version that turns are routed by, None where the file's holds."""
        now_us = self._now_us()
        return await self.database.read(lambda connection: _standing(connection, tenant, now_us))

    async def refresh(self) -> None:
        """Follow what other processes put, what has ended, and what was written to files.

        A broken version or file leaves the last good one. Asks for numbers alone, and only for the
        documents of those that are new here.
        """
        await asyncio.to_thread(self._reread_files)
        now_us = self._now_us()
        before = dict(self._seen)

        def read(connection: Connection) -> tuple[set[str], list[PolicyVersion]]:
            newest = func.max(versions_table.c.version)
            numbers = select(versions_table.c.tenant, newest).where(_holds(now_us))
            rows = connection.execute(numbers.group_by(versions_table.c.tenant))
            standing: dict[str, int] = {tenant: version for tenant, version in rows}
            new = [t for t, version in standing.items() if before.get(t, 0) != version]
            found = (_standing(connection, tenant, now_us) for tenant in new)
            return set(standing), [version for version in found if version is not None]

        standing, stored = await self.database.read(read)
        # A put of this process may have overtaken the read: that one stays.
        is_as_before = {
            t for t in self._seen.keys() | standing if self._seen.get(t) == before.get(t)
        }
        for version in stored:
            if version.tenant in is_as_before:
                self._adopt(version)
        for tenant in is_as_before - standing:
            self._put.pop(tenant, None)
            self._seen.pop(tenant, None)
        if self._read_timezones is not None:
            self._timezones = await self._read_timezones()
        self._live.clear()

    def _reread_files(self) -> None:
        for name, known in list(self._files.items()):
            try:
                text, source = self._find_file(name)
                if text != known.text:
                    self._files[name] = _File(text, self.check(text, source, name=name))
                    log.info("policy file %s was read anew", source)
            except (DocumentErrors, UnknownPolicy, OSError, UnicodeDecodeError) as error:
                # The last good one goes on; told once per change of the file.
                if str(error) != known.told:
                    self._files[name] = replace(known, told=str(error))
                    log.error("policy file %r is not read anew: %s", name, error)

    def _now_us(self) -> int:
        return to_us(self._clock())

    def _adopt(self, version: PolicyVersion) -> None:
        self._live.clear()
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

    def _load_file(self, name: str) -> _File:
        text, source = self._find_file(name)
        self._files[name] = _File(text, self.check(text, source, name=name))
        return self._files[name]

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


def _holds(now_us: int) -> ColumnElement[bool]:
    return versions_table.c.until_us.is_(None) | (versions_table.c.until_us > now_us)


def _standing(connection: Connection, tenant: str, now_us: int) -> PolicyVersion | None:
    row = connection.execute(
        select(versions_table)
        .where(versions_table.c.tenant == tenant, _holds(now_us))
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
        mapping["until_us"],
    )
