"""Tenants and their keys, in SQL: who may ask, and in which currency and time zone they count.

Owns three tables. Keeps hashes of keys, never keys. Knows nothing of HTTP and caches nothing: that
is `auth.py`'s, which learns of changes by `n_changes` here and by `version` from other processes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
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
    delete,
    insert,
    select,
    update,
)

from gateway.keys import ADMIN_SCOPE, DEFAULT_SCOPES, hash_of, id_of, new_key
from gateway.settings import TenantSettings
from policies.database import Database, unannounced
from policies.tables import insert_into

T = TypeVar("T")

metadata = MetaData()
_tenants = Table(
    "tenants",
    metadata,
    Column("id", String(63), primary_key=True),
    Column("currency", String(3), nullable=False),
    Column("timezone", String(64), nullable=False),
    Column("policy", String(128), nullable=False),
    Column("origin", String(8), nullable=False),
    Column("created_us", BigInteger, nullable=False),
)
_keys = Table(
    "tenant_keys",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("tenant", String(63), index=True),
    Column("name", String(128), nullable=False),
    Column("hash", String(64), nullable=False),
    Column("scopes", String(512), nullable=False),
    Column("origin", String(8), nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("expires_us", BigInteger),
    Column("revoked_us", BigInteger),
)
# One row, raised by every change, so that other processes can ask cheaply whether to forget.
_version = Table(
    "identity_version",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("version", BigInteger, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Tenant:
    """Who asks, and how their money and days are counted; `policy` names their routing policy."""

    id: str
    currency: str = "USD"
    timezone: str = "UTC"
    policy: str = "default"


@dataclass(frozen=True, slots=True)
class Key:
    """A key as it may be shown: never its secret. `tenant` is None for an administrator's key."""

    id: str
    tenant: str | None
    name: str
    scopes: frozenset[str]
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key with what is needed to check it, and the tenant it stands for."""

    key: Key
    hash: str
    tenant: Tenant | None


class TenantStore:
    """The tables of tenants and keys; every method but the constructor runs in a worker thread.

    `n_changes` counts the changes made through this object.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        pepper: bytes,
        clock: Callable[[], datetime],
        new_token: Callable[[], str] = new_key,
        announce: Callable[[], Awaitable[None]] = unannounced,
    ) -> None:
        self._database = Database(engine)
        self._announce = announce
        self._pepper = pepper
        self._clock = clock
        self._new_token = new_token
        self.n_changes = 0

    def hash_of(self, token: str) -> str:
        """Return the hash under which a key is kept."""
        return hash_of(token, self._pepper)

    async def prepare(self, tenants: Mapping[str, TenantSettings]) -> None:
        """Make the tenants and keys that the configuration file names.

        A tenant changed over the admin API keeps that change. A key that left the file is dropped.
        Safe to run in several processes at once.
        """
        await self._change(lambda connection: self._seed(connection, tenants))

    async def put_tenant(self, tenant_id: str, **fields: str | None) -> Tenant:
        """Create or change a tenant and return it; fields are currency, timezone and policy.

        A field that is None keeps what it was, or takes the default in a new tenant.
        """
        given = {name: value for name, value in fields.items() if value is not None}

        def put(connection: Connection) -> Tenant:
            now_us = _to_us(self._clock())
            base = Tenant(id=tenant_id)
            row = {
                "currency": base.currency,
                "timezone": base.timezone,
                "policy": base.policy,
                **given,
            }
            self._upsert(
                connection,
                _tenants,
                {"id": tenant_id, "origin": "admin", "created_us": now_us, **row},
                {"origin": "admin", **given},
            )
            stored = connection.execute(select(_tenants).where(_tenants.c.id == tenant_id)).one()
            return _tenant(stored)

        return await self._change(put)

    async def tenant(self, tenant_id: str) -> Tenant | None:
        """Return a tenant, None when there is none of that id."""
        query = select(_tenants).where(_tenants.c.id == tenant_id)
        row = await self._database.read(lambda connection: connection.execute(query).one_or_none())
        return None if row is None else _tenant(row)

    async def tenants(self) -> list[Tenant]:
        """Return every tenant by id."""
        query = select(_tenants).order_by(_tenants.c.id)
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        return [_tenant(row) for row in rows]

    async def timezones(self) -> dict[str, str]:
        """Return the time zone of every tenant."""
        return {tenant.id: tenant.timezone for tenant in await self.tenants()}

    async def delete_tenant(self, tenant_id: str) -> bool:
        """Remove a tenant and its keys; return whether it was there. Books are not touched."""

        def remove(connection: Connection) -> bool:
            connection.execute(delete(_keys).where(_keys.c.tenant == tenant_id))
            result = connection.execute(delete(_tenants).where(_tenants.c.id == tenant_id))
            return result.rowcount > 0

        return await self._change(remove)

    async def create_key(
        self,
        tenant_id: str | None,
        name: str,
        *,
        scopes: Iterable[str] | None = None,
        expires_at: datetime | None = None,
    ) -> tuple[Key, str]:
        """Return a new key and its text, which nobody can read again; None makes an admin key."""
        token = self._new_token()
        token_hash = self.hash_of(token)
        default = DEFAULT_SCOPES if tenant_id is not None else (ADMIN_SCOPE,)
        row = {
            "id": id_of(token, token_hash),
            "tenant": tenant_id,
            "name": name,
            "hash": token_hash,
            "scopes": _join(default if scopes is None else scopes),
            "origin": "admin",
            "created_us": _to_us(self._clock()),
            "expires_us": None if expires_at is None else _to_us(expires_at),
            "revoked_us": None,
        }

        def add(connection: Connection) -> Key:
            connection.execute(insert(_keys).values(row))
            return _key(connection.execute(select(_keys).where(_keys.c.id == row["id"])).one())

        return await self._change(add), token

    async def keys(self, tenant_id: str | None) -> list[Key]:
        """Return a tenant's keys, or the admin keys for None, oldest first, revoked ones too."""
        is_owner = _keys.c.tenant.is_(None) if tenant_id is None else _keys.c.tenant == tenant_id
        query = select(_keys).where(is_owner).order_by(_keys.c.created_us, _keys.c.id)
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        return [_key(row) for row in rows]

    async def revoke_key(self, key_id: str) -> bool:
        """Make a key useless for ever; return whether there was one of that id."""
        now_us = _to_us(self._clock())

        def revoke(connection: Connection) -> bool:
            found = connection.execute(select(_keys.c.id).where(_keys.c.id == key_id)).first()
            is_live = _keys.c.revoked_us.is_(None)
            change = update(_keys).where(_keys.c.id == key_id, is_live).values(revoked_us=now_us)
            connection.execute(change)
            return found is not None

        return await self._change(revoke)

    async def find_key(self, key_id: str) -> StoredKey | None:
        """Return a key by id with its hash and tenant, revoked and expired ones too."""

        def find(connection: Connection) -> StoredKey | None:
            row = connection.execute(select(_keys).where(_keys.c.id == key_id)).one_or_none()
            if row is None:
                return None
            tenant = None
            if row.tenant is not None:
                query = select(_tenants).where(_tenants.c.id == row.tenant)
                tenant = _tenant(connection.execute(query).one())
            return StoredKey(_key(row), row.hash, tenant)

        return await self._database.read(find)

    async def version(self) -> int:
        """Return a number that any change in any process raises."""
        query = select(_version.c.version)
        version = await self._database.read(lambda connection: connection.execute(query).scalar())
        return int(version or 0)

    def _seed(self, connection: Connection, tenants: Mapping[str, TenantSettings]) -> None:
        now_us = _to_us(self._clock())
        kept: set[str] = set()
        for tenant in tenants.values():
            fields = {
                "currency": tenant.currency,
                "timezone": tenant.timezone,
                "policy": tenant.policy,
            }
            row = {"id": tenant.id, "origin": "config", "created_us": now_us, **fields}
            self._upsert(connection, _tenants, row, fields, only_origin="config")
            for number, token in enumerate(tenant.keys, start=1):
                token_hash = self.hash_of(token)
                key_id = id_of(token, token_hash)
                kept.add(key_id)
                key_row = {
                    "id": key_id,
                    "tenant": tenant.id,
                    "name": f"configuration file, key {number}",
                    "hash": token_hash,
                    "scopes": _join(DEFAULT_SCOPES),
                    "origin": "config",
                    "created_us": now_us,
                }
                fresh = {name: key_row[name] for name in ("tenant", "hash", "scopes")}
                self._upsert(connection, _keys, key_row, fresh, only_origin="config")
        stale = delete(_keys).where(_keys.c.origin == "config", _keys.c.id.not_in(kept))
        connection.execute(stale)

    def _upsert(
        self,
        connection: Connection,
        table: Table,
        row: Mapping[str, Any],
        fresh: Mapping[str, Any],
        *,
        only_origin: str | None = None,
    ) -> None:
        where = None if only_origin is None else table.c.origin == only_origin
        statement = insert_into(connection, table).values(**row)
        connection.execute(
            statement.on_conflict_do_update(index_elements=["id"], set_=dict(fresh), where=where)
        )

    async def _change(self, act: Callable[[Connection], T]) -> T:
        def work(connection: Connection) -> T:
            self._upsert(
                connection,
                _version,
                {"id": 1, "version": 1},
                {"version": _version.c.version + 1},
            )
            return act(connection)

        try:
            return await self._database.write(work)
        finally:
            self.n_changes += 1
            await self._announce()


def _tenant(row: Row[Any]) -> Tenant:
    return Tenant(id=row.id, currency=row.currency, timezone=row.timezone, policy=row.policy)


def _key(row: Row[Any]) -> Key:
    return Key(
        id=row.id,
        tenant=row.tenant,
        name=row.name,
        scopes=frozenset(row.scopes.split()),
        created_at=_to_time(row.created_us),
        expires_at=None if row.expires_us is None else _to_time(row.expires_us),
        revoked_at=None if row.revoked_us is None else _to_time(row.revoked_us),
    )


def _join(scopes: Iterable[str]) -> str:
    return " ".join(sorted(set(scopes)))


def _to_us(at: datetime) -> int:
    return round(at.timestamp() * 1_000_000)


def _to_time(us: int) -> datetime:
    return datetime.fromtimestamp(us / 1_000_000, tz=UTC)
