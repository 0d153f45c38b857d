"""turnwise policy: check a file, show and change what a tenant's turns are routed by."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
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
    from gateway.settings import Settings
    from gateway.tenants import Tenant
    from policies.policy import Policy
    from policies.store import PolicyStore, PolicyVersion

app = typer.Typer(help="Check, show and change routing policies.", no_args_is_help=True)


@app.command()
def check(
    files: Annotated[list[Path], typer.Argument(help="Policy files.")],
    config: ConfigPath = None,
    as_json: JsonFlag = False,
) -> None:
    """Check policy files against the configured models; exit code 1 when one is wrong."""
    from policies.errors import DocumentErrors

    settings = load_settings_or_fail(config, is_dry=True)
    problems: list[dict[str, Any]] = []
    for path in files:
        try:
            policy = read_policy(path, settings)
        except DocumentErrors as errors:
            problems += [error_to_wire(error) for error in errors.errors]
            if not as_json:
                note(str(errors))
        else:
            if not as_json:
                tiers = " < ".join(
                    f"{tier.name} ({', '.join(tier.models)})" for tier in policy.tiers
                )
                say(f"{path}: ok: {tiers}")
    if as_json:
        say_json({"ok": not problems, "errors": problems})
    if problems:
        raise SystemExit(1)


def read_policy(path: Path, settings: Settings) -> Policy:
    """Return the policy of a file.

    Raises:
        CommandFailed: the file cannot be read as text.
        DocumentErrors: it holds wrong values.
    """
    from policies.document import load_document
    from policies.policy import parse_policy

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise CommandFailed(f"{path} cannot be read: {reason}", code=2) from error
    return parse_policy(load_document(text, str(path)), settings.catalog, name=path.stem)


def policy_named(name: str, settings: Settings) -> Policy:
    """Return the policy of a file, given its path or its name in the policy folders."""
    path = Path(name)
    if path.suffix not in (".yaml", ".yml", ".json"):
        candidates = [folder / f"{name}.yaml" for folder in settings.policy_dirs]
        found = [candidate for candidate in candidates if candidate.exists()]
        if not found:
            folders = ", ".join(str(folder) for folder in settings.policy_dirs)
            raise CommandFailed(f"there is no policy {name!r} in {folders}", code=2)
        path = found[0]
    return read_policy(path, settings)


def error_to_wire(error: Any) -> dict[str, Any]:
    """Return one mistake of a document with its place and remedy."""
    return {
        "file": error.file,
        "line": error.line,
        "field": error.field,
        "value": error.value,
        "allowed": error.allowed,
        "nearest": error.nearest,
    }


@app.command()
def show(
    tenant: Annotated[str, typer.Argument(help="Whose policy.")],
    config: ConfigPath = None,
    as_json: JsonFlag = False,
) -> None:
    """Show the policy that a tenant's turns are routed by, as it was written."""

    async def work() -> tuple[str, int, str]:
        async with _opened(config) as (policies, tenants):
            return await _numbered(policies, tenant_of(tenant, tenants), None)

    name, version, text = asyncio.run(work())
    if as_json:
        say_json({"tenant": tenant, "name": name, "version": version, "text": text})
    else:
        note(f"{name}@{version}")
        say(text.rstrip())


@app.command()
def put(
    tenant: Annotated[str, typer.Argument(help="Whose policy.")],
    file: Annotated[Path, typer.Argument(help="The new policy.")],
    config: ConfigPath = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a file the tenant's policy, as a new version; running gateways follow."""
    settings = load_settings_or_fail(config)
    read_policy(file, settings)
    text = file.read_text(encoding="utf-8")

    async def work() -> PolicyVersion:
        async with _opened(config) as (policies, tenants):
            owner = tenant_of(tenant, tenants)
            return await policies.put(tenant, text, name=owner.policy, currency=owner.currency)

    _say_version(asyncio.run(work()), as_json=as_json)


@app.command()
def diff(
    tenant: Annotated[str, typer.Argument(help="Whose policy.")],
    before: Annotated[int, typer.Argument(help="A version; 0 is the file.", min=0)],
    after: Annotated[int | None, typer.Argument(help="Another; what is live.", min=0)] = None,
    config: ConfigPath = None,
    as_json: JsonFlag = False,
) -> None:
    """Show what changed between two versions, field by field."""
    from policies.difference import difference
    from policies.document import load_document

    async def work() -> list[str]:
        async with _opened(config) as (policies, tenants):
            owner = tenant_of(tenant, tenants)
            return [(await _numbered(policies, owner, each))[2] for each in (before, after)]

    changes = difference(*(load_document(text, tenant).data for text in asyncio.run(work())))
    if as_json:
        say_json([asdict(change) for change in changes])
        return
    rows = [[each.field, _shown(each.before), _shown(each.after)] for each in changes]
    say_table(("field", "before", "after"), rows)


@app.command(name="replay")
def replay_command(
    policy: Annotated[Path, typer.Option(help="The proposed policy.")],
    tenant: Annotated[str, typer.Option(help="Whose turns.")] = "demo",
    first_day: Annotated[
        datetime | None, typer.Option("--from", formats=["%Y-%m-%d"], help="First day; today.")
    ] = None,
    last_day: Annotated[
        datetime | None, typer.Option("--to", formats=["%Y-%m-%d"], help="Last day; today.")
    ] = None,
    config: ConfigPath = None,
    as_json: JsonFlag = False,
) -> None:
    """Show what a policy would have made of recorded turns; nothing is changed."""
    from zoneinfo import ZoneInfo

    from redis.asyncio import Redis

    from gateway.routes.admin_policy import MOST_REPLAYED, replay_to_wire
    from policies.books import Books, day_bounds
    from policies.reports import Reports, Span
    from policies.usage import Rates
    from router.replay import replay
    from router.table import RoutingTable

    settings = load_settings_or_fail(config)
    table = RoutingTable.of(read_policy(policy, settings), settings.catalog)

    async def work() -> dict[str, Any]:
        async with _opened(config) as (policies, tenants):
            owner = tenant_of(tenant, tenants)
            today = datetime.now(ZoneInfo(owner.timezone)).date()
            days = [each.date() if each else today for each in (first_day, last_day)]
            span = Span(*day_bounds(days[0], days[1], owner.timezone), owner.timezone)
            # Reading the books asks Redis nothing: what waits there is booked by the gateway.
            reports = Reports(Books(policies.database.engine, Redis()), Rates({}))
            records = await reports.recorded(tenant, span, limit=MOST_REPLAYED)
            return replay_to_wire(replay(records, table), owner)

    wire = asyncio.run(work())
    if as_json:
        say_json(wire)
    else:
        _say_replay(wire)


@app.command()
def rollback(
    tenant: Annotated[str, typer.Argument(help="Whose policy.")],
    version: Annotated[int, typer.Argument(help="The version to put again.", min=1)],
    config: ConfigPath = None,
    as_json: JsonFlag = False,
) -> None:
    """Put an earlier version again, as a new one."""

    async def work() -> PolicyVersion:
        async with _opened(config) as (policies, tenants):
            owner = tenant_of(tenant, tenants)
            return await policies.rollback(tenant, version, currency=owner.currency)

    _say_version(asyncio.run(work()), as_json=as_json)


def tenant_of(name: str, tenants: Mapping[str, Tenant]) -> Tenant:
    """Return the tenant of a name.

    Raises:
        CommandFailed: there is none.
    """
    if name not in tenants:
        raise CommandFailed(f"there is no tenant {name!r}")
    return tenants[name]


async def _numbered(
    policies: PolicyStore, owner: Tenant, number: int | None
) -> tuple[str, int, str]:
    """Return name, number and text of a version; 0 is the file, None what is live."""
    if number is None:
        live = await policies.live_version(owner.id)
        number = live.version if live else 0
    if number == 0:
        return owner.policy, 0, policies.text_of(owner.policy)
    for version in await policies.versions(owner.id):
        if version.version == number:
            return version.name, version.version, version.text
    raise CommandFailed(f"{owner.id} has no version {number}")


def _shown(value: Any) -> str:
    return "-" if value is None else json.dumps(value, ensure_ascii=False, default=str)


def _say_replay(wire: Mapping[str, Any]) -> None:
    n_turns = wire["n_turns"]
    rows = [
        [tier, *(wire[side].get(tier, 0) for side in ("tiers_before", "tiers_after"))]
        for tier in dict.fromkeys([*wire["tiers_before"], *wire["tiers_after"]])
    ]
    say_table(("tier", "turns as it was", "turns under the policy"), rows)
    before, after = wire["cost_before_micro"], wire["cost_after_micro"]
    unit = wire["currency"]
    say(f"{wire['n_changed']} of {n_turns} turns would go to another model")
    say(f"cost {before / 1e6:.6f} {unit} as it was, {after / 1e6:.6f} {unit} under the policy")
    if wire["n_uncosted"] or wire["n_skipped"]:
        note(f"not in the cost: {wire['n_uncosted']} turns; not replayed: {wire['n_skipped']}")


def _say_version(version: PolicyVersion, *, as_json: bool) -> None:
    if as_json:
        say_json({"tenant": version.tenant, "version": version.version, "etag": version.etag})
    else:
        say(f"{version.tenant} is now routed by {version.name}@{version.version}")


@asynccontextmanager
async def _opened(config: Path | None) -> AsyncIterator[tuple[PolicyStore, Mapping[str, Tenant]]]:
    from gateway.cli.keys import opened_store
    from policies.store import PolicyStore

    settings = load_settings_or_fail(config)
    async with opened_store(config) as (store, engine):
        policies = PolicyStore(
            engine,
            settings.catalog,
            folders=settings.policy_dirs,
            clock=lambda: datetime.now(UTC),
        )
        await policies.prepare([])
        yield policies, {tenant.id: tenant for tenant in await store.tenants()}
