"""The live policy of every tenant: a file's, or the newest version put over the admin API.

A version that an administrator put for a tenant outranks the file that the tenant's configuration
names. Reading is from process memory; a background refresh follows what other processes put.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import IntegrityError

from policies import versions
from policies.catalog import ModelCatalog
from policies.database import Database, unannounced
from policies.document import load_document
from policies.entry import to_us
from policies.errors import BrokenPolicy, DocumentErrors, PolicyConflict, UnknownPolicy
from policies.policy import Policy, parse_policy
from policies.policy_files import PolicyFiles
from policies.versions import PolicyVersion, etag_of

__all__ = ["PolicyStore", "PolicyVersion", "etag_of"]

log = logging.getLogger("turnwise.policies")
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
        self._clock = clock
        self._files = PolicyFiles(folders, self._parse)
        self._put: dict[str, Policy] = {}
        self._broken: dict[str, BrokenPolicy] = {}
        self._seen: dict[str, int] = {}  # the version looked at last, broken ones too
        self._timezones: Mapping[str, str] = {}
        self._live: dict[tuple[str, str], Policy] = {}  # what policy_of has worked out

    async def prepare(self, names: Sequence[str]) -> None:
        """Load the named policy files and every tenant's standing version.

        Raises:
            DocumentErrors: a file has a wrong value.
            UnknownPolicy: a name has no file.
        """
        for name in dict.fromkeys(names):
            self._files.policy_of(name)
        await self.refresh()

    def policy_of(self, tenant: str, name: str) -> Policy:
        """Return the tenant's policy: the newest one put for it, else the named file's.

        Raises:
            UnknownPolicy: neither exists.
            BrokenPolicy: the one put for it does not hold here, and no earlier one is known: the
                file might let out what that one keeps in.
            DocumentErrors: the file has a wrong value.
        """
        policy = self._live.get((tenant, name))
        if policy is None:
            if tenant in self._broken:
                raise self._broken[tenant]
            policy = self._put.get(tenant) or self._files.policy_of(name)
            policy = _in_timezone(policy, self._timezones.get(tenant, "UTC"))
            self._live[tenant, name] = policy
        return policy

    def text_of(self, name: str) -> str:
        """Return the text of a policy file.

        Raises:
            UnknownPolicy: there is no such file.
        """
        return self._files.find(name)[0]

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
        text, source = self._files.find(name)
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
        until_us = None if until is None else to_us(until)

        def write(connection: Connection) -> PolicyVersion:
            newest = versions.newest(connection, tenant)
            standing = newest.version if newest else 0
            if if_match is not None and not versions.matches(if_match, standing):
                raise PolicyConflict(etag_of(standing))
            version = PolicyVersion(tenant, standing + 1, name, text, self._now_us(), until_us)
            versions.insert(connection, version)
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
        return await self.database.read(partial(versions.all_of, tenant=tenant))

    async def live_version(self, tenant: str) -> PolicyVersion | None:
        """Return the version that turns are routed by, None where the file's holds."""
        now_us = self._now_us()
        return await self.database.read(
            lambda connection: versions.standing(connection, tenant, now_us)
        )

    async def refresh(self) -> None:
        """Follow what other processes put, what has ended, and what was written to files.

        A broken version or file leaves the last good one. Asks for numbers alone, and only for the
        documents of those that are new here.
        """
        await asyncio.to_thread(self._files.read_anew)
        await self._number_files()
        await self._follow_versions()
        if self._read_timezones is not None:
            self._timezones = await self._read_timezones()
        self._live.clear()

    async def _number_files(self) -> None:
        for name, text in self._files.without_number():
            number = partial(versions.revision_of, name=name, text=text, now_us=self._now_us())
            for _ in range(_N_RACES):
                try:
                    revision = await self.database.write(number)
                except IntegrityError:  # another process has just numbered it
                    continue
                self._files.number(name, text, revision)
                break

    async def _follow_versions(self) -> None:
        now_us = self._now_us()
        before = dict(self._seen)

        def read(connection: Connection) -> tuple[set[str], list[PolicyVersion]]:
            numbers = versions.standing_numbers(connection, now_us)
            new = [t for t, version in numbers.items() if before.get(t, 0) != version]
            found = (versions.standing(connection, tenant, now_us) for tenant in new)
            return set(numbers), [version for version in found if version is not None]

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
            self._broken.pop(tenant, None)
            self._seen.pop(tenant, None)

    def _now_us(self) -> int:
        return to_us(self._clock())

    def _adopt(self, version: PolicyVersion) -> None:
        tenant = version.tenant
        self._live.clear()
        self._seen[tenant] = version.version
        try:
            document = load_document(version.text, f"policy of {tenant}")
            self._put[tenant] = parse_policy(
                document, self._catalog, name=version.name, version=version.version
            )
            self._broken.pop(tenant, None)
        except DocumentErrors as error:
            # A version stored under another catalogue may no longer hold; it is seen only once.
            log.error(
                "version %d of the policy of %s is broken: %s", version.version, tenant, error
            )
            if tenant not in self._put:
                self._broken[tenant] = BrokenPolicy(tenant, version.version, error)

    def _parse(self, text: str, source: str, name: str) -> Policy:
        return self.check(text, source, name=name)


def _in_timezone(policy: Policy, timezone: str) -> Policy:
    """Return the policy with its budget counted in this zone, unless it names one itself."""
    budget = policy.budget
    if budget is None or budget.has_own_timezone or budget.timezone == timezone:
        return policy
    return replace(policy, budget=replace(budget, timezone=timezone))
