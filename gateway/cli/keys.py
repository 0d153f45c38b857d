"""turnwise keys: create, list and revoke keys in the database that the gateway reads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.output import (
    CommandFailed,
    ConfigPath,
    JsonFlag,
    load_settings_or_fail,
    note,
    say,
    say_json,
    say_table,
)

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from gateway.tenants import Key, TenantStore

app = typer.Typer(help="Create, list and revoke keys.", no_args_is_help=True)


@app.command()
def create(
    name: Annotated[str, typer.Option(help="What the key is for.")],
    tenant: Annotated[str | None, typer.Option(help="Whose key it is.")] = None,
    admin: Annotated[bool, typer.Option("--admin", help="A key for /admin instead.")] = False,
    scopes: Annotated[
        str | None, typer.Option(help="Comma-separated; left out, all but min_tier.")
    ] = None,
    expires_at: Annotated[
        datetime | None, typer.Option(help="UTC, such as 2027-01-31 or 2027-01-31T12:00:00.")
    ] = None,
    config: ConfigPath = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a key and print it; it is never shown again."""
    if admin == (tenant is not None):
        raise CommandFailed("name a tenant with --tenant, or ask for --admin", code=2)
    chosen = None if scopes is None else _scopes(scopes)
    ends = None if expires_at is None else expires_at.replace(tzinfo=UTC)

    async def work() -> tuple[Key, str]:
        async with opened_store(config) as (store, _):
            if tenant is not None and await store.tenant(tenant) is None:
                raise CommandFailed(f"there is no tenant {tenant!r}")
            return await store.create_key(tenant, name, scopes=chosen, expires_at=ends)

    key, token = asyncio.run(work())
    if as_json:
        say_json({"id": key.id, "key": token})
    else:
        say(token)
        note(f"id {key.id}; the key is not kept and cannot be shown again")


@app.command("list")
def list_keys(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    admin: Annotated[bool, typer.Option("--admin", help="Only keys for /admin.")] = False,
    config: ConfigPath = None,
    as_json: JsonFlag = False,
) -> None:
    """List keys: ids, names, scopes and dates, never the keys themselves."""

    async def work() -> list[Key]:
        async with opened_store(config) as (store, _):
            if admin:
                return await store.keys(None)
            if tenant is not None:
                return await store.keys(tenant)
            owners = [None, *(each.id for each in await store.tenants())]
            return [key for owner in owners for key in await store.keys(owner)]

    found = [key_to_wire(key) for key in asyncio.run(work())]
    if as_json:
        say_json(found)
    else:
        columns = ("id", "tenant", "name", "status", "created_at", "expires_at", "scopes")
        say_table(columns, [[_cell(key[column]) for column in columns] for key in found])


@app.command()
def revoke(key_id: str, config: ConfigPath = None, as_json: JsonFlag = False) -> None:
    """Make a key useless, in every running gateway within two seconds."""

    async def work() -> bool:
        async with opened_store(config) as (store, _):
            return await store.revoke_key(key_id)

    if not asyncio.run(work()):
        raise CommandFailed(f"there is no key {key_id!r}")
    if as_json:
        say_json({"id": key_id, "revoked": True})
    else:
        say(f"{key_id} is revoked")


def key_to_wire(key: Key) -> dict[str, Any]:
    """Return a key as it may be shown."""
    return {
        "id": key.id,
        "tenant": key.tenant,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "status": "revoked" if key.revoked_at is not None else "active",
        "created_at": _iso(key.created_at),
        "expires_at": _iso(key.expires_at),
        "revoked_at": _iso(key.revoked_at),
    }


@asynccontextmanager
async def opened_store(config: Path | None) -> AsyncIterator[tuple[TenantStore, Engine]]:
    """Hold the database of the configuration open, with its tenants in it."""
    from gateway.database import open_database, upgrade
    from gateway.tenants import TenantStore

    settings = load_settings_or_fail(config)
    engine = open_database(settings.ledger.url)
    store = TenantStore(engine, pepper=settings.pepper, clock=lambda: datetime.now(UTC))
    try:
        await asyncio.to_thread(upgrade, engine)
        await store.prepare(settings.tenants)
        yield store, engine
    finally:
        engine.dispose()


def _scopes(text: str) -> list[str]:
    from gateway.keys import TENANT_SCOPES

    scopes = [scope.strip() for scope in text.split(",") if scope.strip()]
    unknown = [scope for scope in scopes if scope not in TENANT_SCOPES]
    if unknown:
        raise CommandFailed(
            f"no such scope: {', '.join(unknown)}; there are {', '.join(TENANT_SCOPES)}", code=2
        )
    return scopes


def _cell(value: object) -> str:
    if isinstance(value, list):
        return ",".join(value)
    return "-" if value is None else str(value)


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat(timespec="seconds").replace("+00:00", "Z")
