from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from gateway.auth import CHECK_EVERY_S, GRACE_S, Authenticator
from gateway.database import open_database
from gateway.errors import AuthUnavailable, InsufficientScope, InvalidKey
from gateway.keys import new_key
from gateway.tenants import StoredKey, TenantStore
from tests.tables import make_tables

NOON = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


class World:
    """A clock to turn, a record to break, and a count of what was asked of it."""

    def __init__(self, store: TenantStore) -> None:
        self.store = store
        self.now = NOON
        self.seconds = 1000.0
        self.is_broken = False
        self.n_lookups = 0

    @property
    def n_changes(self) -> int:
        return self.store.n_changes

    def hash_of(self, token: str) -> str:
        return self.store.hash_of(token)

    async def find_key(self, key_id: str) -> StoredKey | None:
        self._may_fail()
        self.n_lookups += 1
        return await self.store.find_key(key_id)

    async def version(self) -> int:
        self._may_fail()
        return await self.store.version()

    def _may_fail(self) -> None:
        if self.is_broken:
            raise OperationalError("SELECT", {}, Exception("unable to open database file"))


@pytest.fixture
async def other_process(tmp_path: Path) -> AsyncIterator[TenantStore]:
    """The same database, written by someone else."""
    engine = open_database(f"sqlite:///{tmp_path}/ledger.db")
    store = TenantStore(engine, pepper=b"pepper", clock=lambda: NOON)
    make_tables(engine)
    await store.put_tenant("acme", currency="INR")
    yield store
    engine.dispose()


@pytest.fixture
async def world(tmp_path: Path, other_process: TenantStore) -> AsyncIterator[World]:
    engine = open_database(f"sqlite:///{tmp_path}/ledger.db")
    yield World(TenantStore(engine, pepper=b"pepper", clock=lambda: NOON))
    engine.dispose()


@pytest.fixture
def authenticator(world: World) -> Authenticator:
    return Authenticator(
        world,
        admin_key="the admin key",
        clock=lambda: world.now,
        monotonic_s=lambda: world.seconds,
    )


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


async def test_a_key_stands_for_its_tenant(authenticator: Authenticator, world: World) -> None:
    key, token = await world.store.create_key("acme", "backend")

    principal = await authenticator.authenticate(bearer(token))

    assert principal.tenant.id == "acme"
    assert principal.tenant.currency == "INR"
    assert principal.key_id == key.id


async def test_x_api_key_is_as_good_as_bearer(authenticator: Authenticator, world: World) -> None:
    _, token = await world.store.create_key("acme", "backend")

    principal = await authenticator.authenticate({"x-api-key": token})

    assert principal.tenant.id == "acme"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer "},
        {"authorization": "Basic dXNlcjpwdw=="},
        {"authorization": "Bearer \x00\udcff नमस्ते"},
        {"x-api-key": "sk-something"},
        bearer("tw_0123456789abcdef_" + "a" * 43),
    ],
)
async def test_what_is_not_a_known_key_is_refused(
    authenticator: Authenticator, headers: dict[str, str]
) -> None:
    with pytest.raises(InvalidKey):
        await authenticator.authenticate(headers)


async def test_the_id_of_a_key_without_its_secret_is_refused(
    authenticator: Authenticator, world: World
) -> None:
    key, token = await world.store.create_key("acme", "backend")
    await authenticator.authenticate(bearer(token))

    with pytest.raises(InvalidKey):
        await authenticator.authenticate(bearer(f"tw_{key.id}_{'a' * 43}"))


async def test_a_warm_key_asks_the_database_nothing(
    authenticator: Authenticator, world: World
) -> None:
    _, token = await world.store.create_key("acme", "backend")

    for _ in range(5):
        await authenticator.authenticate(bearer(token))

    assert world.n_lookups == 1


async def test_an_unknown_key_is_looked_up_once(authenticator: Authenticator, world: World) -> None:
    token = new_key()
    for _ in range(5):
        with pytest.raises(InvalidKey):
            await authenticator.authenticate(bearer(token))

    assert world.n_lookups == 1


async def test_a_key_revoked_here_is_refused_at_once(
    authenticator: Authenticator, world: World
) -> None:
    key, token = await world.store.create_key("acme", "backend")
    await authenticator.authenticate(bearer(token))

    await world.store.revoke_key(key.id)

    with pytest.raises(InvalidKey):
        await authenticator.authenticate(bearer(token))


async def test_a_key_revoked_in_another_process_is_refused_at_the_next_check(
    authenticator: Authenticator, world: World, other_process: TenantStore
) -> None:
    key, token = await other_process.create_key("acme", "backend")
    await authenticator.authenticate(bearer(token))
    await other_process.revoke_key(key.id)

    world.seconds += CHECK_EVERY_S

    with pytest.raises(InvalidKey):
        await authenticator.authenticate(bearer(token))


async def test_a_tenant_changed_in_another_process_is_seen_at_the_next_check(
    authenticator: Authenticator, world: World, other_process: TenantStore
) -> None:
    _, token = await other_process.create_key("acme", "backend")
    await authenticator.authenticate(bearer(token))
    await other_process.put_tenant("acme", policy="frugal")

    world.seconds += CHECK_EVERY_S

    assert (await authenticator.authenticate(bearer(token))).tenant.policy == "frugal"


async def test_a_warm_key_ends_when_its_time_comes(
    authenticator: Authenticator, world: World
) -> None:
    ends = NOON + timedelta(hours=1)
    _, token = await world.store.create_key("acme", "backend", expires_at=ends)
    await authenticator.authenticate(bearer(token))

    world.now = ends

    with pytest.raises(InvalidKey):
        await authenticator.authenticate(bearer(token))


async def test_a_missing_scope_is_named(authenticator: Authenticator, world: World) -> None:
    _, token = await world.store.create_key("acme", "dashboard", scopes=["costs"])
    principal = await authenticator.authenticate(bearer(token))
    principal.require("costs")

    with pytest.raises(InsufficientScope, match="chat"):
        principal.require("chat")


async def test_without_the_database_a_cold_key_is_refused(
    authenticator: Authenticator, world: World
) -> None:
    _, token = await world.store.create_key("acme", "backend")
    world.is_broken = True

    with pytest.raises(AuthUnavailable):
        await authenticator.authenticate(bearer(token))


async def test_without_the_database_a_warm_key_works_until_the_grace_is_over(
    authenticator: Authenticator, world: World
) -> None:
    _, token = await world.store.create_key("acme", "backend")
    await authenticator.authenticate(bearer(token))
    world.is_broken = True

    world.seconds += GRACE_S
    await authenticator.authenticate(bearer(token))
    world.seconds += CHECK_EVERY_S

    for _ in range(2):
        with pytest.raises(AuthUnavailable):
            await authenticator.authenticate(bearer(token))


async def test_when_the_database_is_back_keys_work_again(
    authenticator: Authenticator, world: World
) -> None:
    _, token = await world.store.create_key("acme", "backend")
    await authenticator.authenticate(bearer(token))
    world.is_broken = True
    world.seconds += GRACE_S + CHECK_EVERY_S
    with pytest.raises(AuthUnavailable):
        await authenticator.authenticate(bearer(token))

    world.is_broken = False
    world.seconds += CHECK_EVERY_S

    assert (await authenticator.authenticate(bearer(token))).tenant.id == "acme"


async def test_the_admin_key_of_the_environment_opens_admin(authenticator: Authenticator) -> None:
    assert (await authenticator.authenticate_admin(bearer("the admin key"))).key_id == "environment"


async def test_a_created_admin_key_opens_admin_and_no_tenant(
    authenticator: Authenticator, world: World
) -> None:
    key, token = await world.store.create_key(None, "ops")

    assert (await authenticator.authenticate_admin(bearer(token))).key_id == key.id
    with pytest.raises(InvalidKey):
        await authenticator.authenticate(bearer(token))


async def test_a_tenant_key_does_not_open_admin(authenticator: Authenticator, world: World) -> None:
    _, token = await world.store.create_key("acme", "backend", scopes=["chat", "admin"])

    with pytest.raises(InsufficientScope):
        await authenticator.authenticate_admin(bearer(token))
