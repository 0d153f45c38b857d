from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from gateway.database import open_database
from gateway.keys import DEFAULT_SCOPES, hash_of, id_of, is_same_hash, new_key
from gateway.settings import TenantSettings
from gateway.tenants import TenantStore
from tests.tables import make_tables

NOON = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = open_database(f"sqlite:///{tmp_path}/ledger.db")
    make_tables(engine)
    yield engine
    engine.dispose()


@pytest.fixture
async def store(engine: Engine) -> TenantStore:
    store = TenantStore(engine, pepper=b"pepper", clock=lambda: NOON)
    return store


def demo(*keys: str, currency: str = "INR") -> dict[str, TenantSettings]:
    return {"demo": TenantSettings("demo", currency=currency, keys=keys)}


async def test_a_new_tenant_takes_defaults_for_what_was_not_said(store: TenantStore) -> None:
    tenant = await store.put_tenant("acme", currency="INR")

    assert (tenant.id, tenant.currency, tenant.timezone, tenant.policy) == (
        "acme",
        "INR",
        "UTC",
        "default",
    )


async def test_putting_a_tenant_again_changes_only_what_is_given(store: TenantStore) -> None:
    await store.put_tenant("acme", currency="INR", timezone="Asia/Kolkata")

    await store.put_tenant("acme", policy="frugal")

    tenant = await store.tenant("acme")
    assert tenant is not None
    assert (tenant.currency, tenant.timezone, tenant.policy) == ("INR", "Asia/Kolkata", "frugal")


async def test_no_key_is_ever_kept(store: TenantStore, engine: Engine) -> None:
    await store.put_tenant("acme")
    _, token = await store.create_key("acme", "backend")

    with engine.connect() as connection:
        rows = connection.execute(text("SELECT * FROM tenant_keys")).all()

    secret = token.rpartition("_")[2]
    assert rows
    assert not any(secret in str(value) for row in rows for value in row)


async def test_scopes_left_out_are_every_tenant_scope_but_min_tier(store: TenantStore) -> None:
    await store.put_tenant("acme")

    key, _ = await store.create_key("acme", "backend")

    assert key.scopes == DEFAULT_SCOPES
    assert "chat" in key.scopes
    assert "min_tier" not in key.scopes


async def test_an_expiry_is_kept_to_the_second_in_utc(store: TenantStore) -> None:
    await store.put_tenant("acme")

    await store.create_key("acme", "backend", expires_at=NOON)

    (key,) = await store.keys("acme")
    assert key.expires_at == NOON


async def test_revoking_twice_keeps_the_first_date(engine: Engine) -> None:
    now = NOON
    store = TenantStore(engine, pepper=b"pepper", clock=lambda: now)
    key, _ = await store.create_key(None, "ops")
    assert await store.revoke_key(key.id)
    now = datetime(2027, 1, 1, tzinfo=UTC)

    assert await store.revoke_key(key.id)

    (kept,) = await store.keys(None)
    assert kept.revoked_at == NOON


async def test_an_unknown_key_cannot_be_revoked(store: TenantStore) -> None:
    assert not await store.revoke_key("nobody")


async def test_a_deleted_tenant_takes_its_keys_along(store: TenantStore) -> None:
    await store.put_tenant("acme")
    key, _ = await store.create_key("acme", "backend")

    assert await store.delete_tenant("acme")

    assert await store.tenant("acme") is None
    assert await store.find_key(key.id) is None
    assert not await store.delete_tenant("acme")


async def test_a_key_in_the_file_works_whatever_it_looks_like(store: TenantStore) -> None:
    await store.prepare(demo("a key of my own"))

    token_hash = store.hash_of("a key of my own")
    stored = await store.find_key(id_of("a key of my own", token_hash))

    assert stored is not None
    assert stored.tenant is not None
    assert stored.tenant.id == "demo"
    assert stored.hash == token_hash


async def test_a_key_that_left_the_file_is_dropped(store: TenantStore) -> None:
    old, new = new_key(), new_key()
    await store.prepare(demo(old))

    await store.prepare(demo(new))

    assert await store.find_key(id_of(old, store.hash_of(old))) is None
    assert await store.find_key(id_of(new, store.hash_of(new))) is not None


async def test_a_revoked_key_stays_revoked_though_the_file_names_it(store: TenantStore) -> None:
    token = new_key()
    key_id = id_of(token, store.hash_of(token))
    await store.prepare(demo(token))
    await store.revoke_key(key_id)

    await store.prepare(demo(token))

    stored = await store.find_key(key_id)
    assert stored is not None
    assert stored.key.revoked_at == NOON


async def test_the_file_changes_a_tenant_until_an_administrator_does(store: TenantStore) -> None:
    await store.prepare(demo(currency="INR"))
    await store.prepare(demo(currency="USD"))
    tenant = await store.tenant("demo")
    assert tenant is not None
    assert tenant.currency == "USD"
    await store.put_tenant("demo", currency="EUR")

    await store.prepare(demo(currency="INR"))

    tenant = await store.tenant("demo")
    assert tenant is not None
    assert tenant.currency == "EUR"


async def test_every_change_raises_the_version(store: TenantStore) -> None:
    versions = [await store.version()]
    await store.put_tenant("acme")
    versions.append(await store.version())
    key, _ = await store.create_key("acme", "backend")
    versions.append(await store.version())
    await store.revoke_key(key.id)
    versions.append(await store.version())

    assert versions == sorted(set(versions))


async def test_two_starts_at_once_seed_the_same_tenants(engine: Engine) -> None:
    token = new_key()
    stores = [TenantStore(engine, pepper=b"pepper", clock=lambda: NOON) for _ in range(4)]

    await asyncio.gather(*(store.prepare(demo(token)) for store in stores))

    assert [tenant.id for tenant in await stores[0].tenants()] == ["demo"]
    assert len(await stores[0].keys("demo")) == 1


def test_the_same_key_under_another_pepper_has_another_hash() -> None:
    token = new_key()

    assert hash_of(token, b"one") != hash_of(token, b"two")
    assert is_same_hash(hash_of(token, b"one"), hash_of(token, b"one"))


def test_a_key_carries_its_id() -> None:
    token = new_key()

    assert token.startswith(f"tw_{id_of(token, hash_of(token, b'p'))}_")
