"""/admin/tenants/{tenant}/policy: read, put, list and roll back a tenant's policy.

Entity tags guard against two administrators who edit at once: what was read is named in If-Match.
"""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from gateway.errors import RequestError
from gateway.routes.dependencies import Wired
from gateway.tenants import Tenant
from policies.document import load_document
from policies.errors import UnknownPolicy
from policies.store import PolicyVersion, etag_of

IfMatch = Annotated[str | None, Header()]

router = APIRouter(prefix="/tenants/{tenant_id}/policy")


class RollbackBody(BaseModel):
    """Which version to put again."""

    model_config = ConfigDict(extra="forbid")

    version: Annotated[int, Field(ge=1)]


@router.get("")
async def get_policy(wired: Wired, tenant_id: str) -> JSONResponse:
    """Return the policy that the tenant's turns are routed by, and its entity tag."""
    tenant = await existing_tenant(wired, tenant_id)
    stored = await wired.policies.versions(tenant_id)
    if stored:
        newest = stored[0]
        return _shown(tenant, newest.name, newest.version, newest.text)
    return _shown(tenant, tenant.policy, 0, wired.policies.text_of(tenant.policy))


@router.put("")
async def put_policy(
    wired: Wired, tenant_id: str, request: Request, if_match: IfMatch = None
) -> JSONResponse:
    """Make a document, YAML or JSON, the tenant's policy; live here when this returns."""
    tenant = await existing_tenant(wired, tenant_id)
    try:
        text = (await request.body()).decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError("The policy is not UTF-8 text.", code="invalid_policy") from error
    version = await wired.policies.put(
        tenant_id,
        text,
        name=tenant.policy,
        if_match=_strong(if_match),
        currency=tenant.currency,
    )
    return _put(version)


@router.get("/versions")
async def list_versions(wired: Wired, tenant_id: str) -> JSONResponse:
    """Return the versions that were put for the tenant, newest first."""
    await existing_tenant(wired, tenant_id)
    versions = await wired.policies.versions(tenant_id)
    return JSONResponse({"object": "list", "data": [_version(version) for version in versions]})


@router.get("/versions/{number}")
async def get_version(wired: Wired, tenant_id: str, number: int) -> JSONResponse:
    """Return one version with its document."""
    tenant = await existing_tenant(wired, tenant_id)
    for version in await wired.policies.versions(tenant_id):
        if version.version == number:
            return _shown(tenant, version.name, version.version, version.text)
    raise _no_version(number)


@router.post("/rollback")
async def roll_back(
    wired: Wired, tenant_id: str, body: RollbackBody, if_match: IfMatch = None
) -> JSONResponse:
    """Put an earlier version again, as a new one."""
    tenant = await existing_tenant(wired, tenant_id)
    try:
        version = await wired.policies.rollback(
            tenant_id, body.version, if_match=_strong(if_match), currency=tenant.currency
        )
    except UnknownPolicy as error:
        raise _no_version(body.version) from error
    return _put(version)


async def existing_tenant(wired: Wired, tenant_id: str) -> Tenant:
    """Return the tenant.

    Raises:
        RequestError: 404, there is none of that id.
    """
    tenant = await wired.tenants.tenant(tenant_id)
    if tenant is None:
        raise RequestError(f"There is no tenant {tenant_id!r}.", status=404, code="not_found")
    return tenant


def replica_name() -> str:
    """Return what this process is called among the replicas."""
    return f"{socket.gethostname()}:{os.getpid()}"


def _no_version(number: int) -> RequestError:
    return RequestError(f"There is no version {number}.", status=404, code="not_found")


def _strong(etag: str | None) -> str | None:
    return None if etag is None else etag.strip().removeprefix("W/")


def _shown(tenant: Tenant, name: str, version: int, text: str) -> JSONResponse:
    etag = etag_of(version)
    body = {
        "tenant": tenant.id,
        "name": name,
        "version": version,
        "etag": etag,
        "policy": load_document(text, name).data,
        "text": text,
    }
    return JSONResponse(body, headers={"etag": etag})


def _put(version: PolicyVersion) -> JSONResponse:
    body = {
        "tenant": version.tenant,
        "version": version.version,
        "live_on": [replica_name()],
        "etag": version.etag,
    }
    return JSONResponse(body, headers={"etag": version.etag})


def _version(version: PolicyVersion) -> dict[str, Any]:
    created_at = datetime.fromtimestamp(version.created_us / 1_000_000, tz=UTC)
    return {
        "version": version.version,
        "name": version.name,
        "etag": version.etag,
        "created_at": created_at.isoformat(timespec="seconds"),
    }
