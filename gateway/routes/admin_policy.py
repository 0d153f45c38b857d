"""/admin/tenants/{tenant}/policy: read, put, list and roll back a tenant's policy.

Entity tags guard against two administrators who edit at once: what was read is named in If-Match.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict, fields
from datetime import UTC, date, datetime
from functools import partial
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import JSONResponse
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from gateway.errors import RequestError
from gateway.routes.audited_route import AuditedRoute
from gateway.routes.dependencies import Wired
from gateway.services import Services
from gateway.tenants import Tenant
from policies.books import day_bounds
from policies.difference import difference
from policies.document import load_document
from policies.errors import UnknownPolicy
from policies.reports import Span
from policies.store import PolicyVersion, etag_of
from router.replay import Replay, replay
from router.table import RoutingTable

IfMatch = Annotated[str | None, Header()]
Wait = Literal["live"] | None
Until = Annotated[AwareDatetime | None, Query()]
MOST_REPLAYED = 100_000
_MOST_LISTED = 1000
_LAST_MOMENT = datetime(9999, 1, 1, tzinfo=UTC)  # later ones overflow in some time zone

router = APIRouter(prefix="/tenants/{tenant_id}/policy", route_class=AuditedRoute)


class RollbackBody(BaseModel):
    """Which version to put again."""

    model_config = ConfigDict(extra="forbid")

    version: Annotated[int, Field(ge=1)]


@router.get("")
async def get_policy(wired: Wired, tenant_id: str) -> JSONResponse:
    """Return the policy that the tenant's turns are routed by, and its entity tag."""
    tenant = await existing_tenant(wired, tenant_id)
    name, version, text = await _live(wired, tenant)
    # Whoever writes next must have seen the newest version, also where an override has ended.
    newest = await wired.policies.versions(tenant_id)
    etag = newest[0].etag if newest else etag_of(0)
    return _shown(tenant, name, version, text, etag)


@router.put("")
async def put_policy(
    wired: Wired,
    tenant_id: str,
    request: Request,
    if_match: IfMatch = None,
    wait: Wait = None,
    until: Until = None,
) -> JSONResponse:
    """Make a document, YAML or JSON, the tenant's policy; live here when this returns.

    With `wait=live`, live on every replica that serves; one that does not follow within 5 s is told
    in `behind`. With `until` it is an override: then the version before it holds again.
    """
    tenant = await existing_tenant(wired, tenant_id)
    text = _text(await request.body())
    version = await wired.policies.put(
        tenant_id,
        text,
        name=tenant.policy,
        if_match=_strong(if_match),
        currency=tenant.currency,
        until=_later(wired, until),
    )
    return await _put(wired, version, wait)


@router.get("/versions")
async def list_versions(wired: Wired, tenant_id: str) -> JSONResponse:
    """Return the versions that were put for the tenant, newest first."""
    await existing_tenant(wired, tenant_id)
    versions = await wired.policies.versions(tenant_id)
    return JSONResponse({"object": "list", "data": [_version(version) for version in versions]})


@router.get("/versions/{number}")
async def get_version(wired: Wired, tenant_id: str, number: int) -> JSONResponse:
    """Return one version with its document."""
    if number < 1:
        raise _no_version(number)
    tenant = await existing_tenant(wired, tenant_id)
    name, version, text = await _numbered(wired, tenant, number)
    return _shown(tenant, name, version, text, etag_of(version))


@router.get("/diff")
async def get_difference(
    wired: Wired,
    tenant_id: str,
    before: Annotated[int, Query(alias="from", ge=0)],
    after: Annotated[int | None, Query(alias="to", ge=0)] = None,
) -> JSONResponse:
    """Return what changed between two versions, field by field.

    Version 0 is the file; without `to`, it is compared with what is live.
    """
    tenant = await existing_tenant(wired, tenant_id)
    documents = []
    for number in (before, after):
        name, _, text = await _numbered(wired, tenant, number)
        documents.append(load_document(text, name).data)
    changes = difference(*documents)
    return JSONResponse({"object": "list", "data": [asdict(change) for change in changes]})


@router.post("/replay")
async def replay_policy(
    wired: Wired,
    tenant_id: str,
    request: Request,
    first: Annotated[date | None, Query(alias="from")] = None,
    last: Annotated[date | None, Query(alias="to")] = None,
) -> JSONResponse:
    """Return what the posted policy would have made of the tenant's turns; it changes nothing.

    The newest hundred thousand turns of the days are looked at; without days, this month's.
    """
    tenant = await existing_tenant(wired, tenant_id)
    today = wired.clock().astimezone(ZoneInfo(tenant.timezone)).date()
    try:
        bounds = day_bounds(first or today.replace(day=1), last or today, tenant.timezone)
    except OverflowError as error:
        raise RequestError("`to` is past the calendar's end.", code="invalid_value") from error
    text = _text(await request.body())
    proposed = await asyncio.to_thread(
        partial(wired.policies.check, text, "proposed", currency=tenant.currency)
    )
    span = Span(*bounds, tenant.timezone)
    await wired.books.catch_up(tenant.id)
    records = await wired.reports.recorded(tenant.id, span, limit=MOST_REPLAYED)
    table = RoutingTable.of(proposed, wired.settings.catalog)
    return JSONResponse(replay_to_wire(await asyncio.to_thread(replay, records, table), tenant))


@router.post("/rollback")
async def roll_back(
    wired: Wired,
    tenant_id: str,
    body: RollbackBody,
    if_match: IfMatch = None,
    wait: Wait = None,
) -> JSONResponse:
    """Put an earlier version again, as a new one."""
    tenant = await existing_tenant(wired, tenant_id)
    try:
        version = await wired.policies.rollback(
            tenant_id, body.version, if_match=_strong(if_match), currency=tenant.currency
        )
    except UnknownPolicy as error:
        raise _no_version(body.version) from error
    return await _put(wired, version, wait)


async def existing_tenant(wired: Wired, tenant_id: str) -> Tenant:
    """Return the tenant.

    Raises:
        RequestError: 404, there is none of that id.
    """
    tenant = await wired.tenants.tenant(tenant_id)
    if tenant is None:
        raise RequestError(f"There is no tenant {tenant_id!r}.", status=404, code="not_found")
    return tenant


def replay_to_wire(found: Replay, tenant: Tenant) -> dict[str, Any]:
    """Return a replay as JSON values; at most a thousand changed turns are listed."""
    return {
        "tenant": tenant.id,
        "currency": tenant.currency,
        **{field.name: getattr(found, field.name) for field in fields(found)},
        "n_changed": len(found.changed),
        "changed": [asdict(turn) for turn in found.changed[:_MOST_LISTED]],
    }


def _text(body: bytes) -> str:
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError("The policy is not UTF-8 text.", code="invalid_policy") from error


async def _live(wired: Services, tenant: Tenant) -> tuple[str, int, str]:
    """Return name, number and text of the policy that the tenant's turns are routed by."""
    version = await wired.policies.live_version(tenant.id)
    if version is not None:
        return version.name, version.version, version.text
    return tenant.policy, 0, wired.policies.text_of(tenant.policy)


async def _numbered(wired: Services, tenant: Tenant, number: int | None) -> tuple[str, int, str]:
    if number is None:
        return await _live(wired, tenant)
    if number == 0:
        return tenant.policy, 0, wired.policies.text_of(tenant.policy)
    for version in await wired.policies.versions(tenant.id):
        if version.version == number:
            return version.name, version.version, version.text
    raise _no_version(number)


def _later(wired: Services, until: datetime | None) -> datetime | None:
    if until is None or wired.clock() < until < _LAST_MOMENT:
        return until
    raise RequestError(
        f"Invalid value {until.isoformat()!r} for until: it must be a time still to come.",
        code="invalid_value",
        param="until",
    )


def _no_version(number: int) -> RequestError:
    return RequestError(f"There is no version {number}.", status=404, code="not_found")


def _strong(etag: str | None) -> str | None:
    return None if etag is None else etag.strip().removeprefix("W/")


def _shown(tenant: Tenant, name: str, version: int, text: str, etag: str) -> JSONResponse:
    body = {
        "tenant": tenant.id,
        "name": name,
        "version": version,
        "etag": etag,
        "policy": load_document(text, name).data,
        "text": text,
    }
    return JSONResponse(body, headers={"etag": etag})


async def _put(wired: Services, version: PolicyVersion, wait: str | None) -> JSONResponse:
    following = await wired.replicas.served_by(wait=wait == "live")
    body = {
        "tenant": version.tenant,
        "version": version.version,
        "live_on": list(following.live_on),
        "behind": list(following.behind),
        "etag": version.etag,
    }
    return JSONResponse(body, headers={"etag": version.etag})


def _version(version: PolicyVersion) -> dict[str, Any]:
    created_at = datetime.fromtimestamp(version.created_us / 1_000_000, tz=UTC)
    until = version.until_us and datetime.fromtimestamp(version.until_us / 1_000_000, tz=UTC)
    return {
        "version": version.version,
        "name": version.name,
        "etag": version.etag,
        "created_at": created_at.isoformat(timespec="seconds"),
        "until": until.isoformat(timespec="seconds") if until else None,
    }
