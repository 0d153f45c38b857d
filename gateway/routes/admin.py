"""/admin: tenants, their keys and their policies, for administrators alone."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any
from zoneinfo import available_timezones

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import JSONResponse
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from gateway.auth import Admin
from gateway.errors import RequestError
from gateway.keys import TENANT_SCOPES
from gateway.routes import admin_policy
from gateway.routes.admin_policy import existing_tenant
from gateway.routes.audited_route import AuditedRoute
from gateway.routes.dependencies import Wired, services_of
from gateway.tenants import Key, Tenant
from policies.errors import UnknownPolicy


async def admin_of(request: Request) -> Admin:
    """Return the administrator who asks.

    Raises:
        InvalidKey: 401.
        InsufficientScope: 403.
    """
    admin = await services_of(request).authenticator.authenticate_admin(request.headers)
    request.state.admin = admin
    return admin


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class TenantBody(_Body):
    """What to change of a tenant; what is left out stays as it is."""

    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] | None = None
    timezone: Annotated[str, Field(max_length=64)] | None = None
    policy: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")] | None = None


class KeyBody(_Body):
    """A key to make; without scopes it gets every tenant scope but min_tier."""

    name: Annotated[str, Field(min_length=1, max_length=128)]
    scopes: Annotated[list[str], Field(min_length=1)] | None = None
    expires_at: AwareDatetime | None = None


TenantId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]

_LAST_EXPIRY = datetime(9999, 1, 1, tzinfo=UTC)  # later ones overflow in some time zone

router = APIRouter(prefix="/admin", dependencies=[Depends(admin_of)], route_class=AuditedRoute)
router.include_router(admin_policy.router)


@router.get("/tenants")
async def list_tenants(wired: Wired) -> JSONResponse:
    """Return every tenant."""
    tenants = await wired.tenants.tenants()
    return JSONResponse({"object": "list", "data": [tenant_to_wire(tenant) for tenant in tenants]})


@router.get("/tenants/{tenant_id}")
async def get_tenant(wired: Wired, tenant_id: str) -> JSONResponse:
    """Return a tenant."""
    return JSONResponse(tenant_to_wire(await existing_tenant(wired, tenant_id)))


@router.put("/tenants/{tenant_id}")
async def put_tenant(
    wired: Wired, tenant_id: TenantId, body: TenantBody | None = None
) -> JSONResponse:
    """Create a tenant, or change what is given of it."""
    body = body or TenantBody()
    if body.timezone is not None and body.timezone not in available_timezones():
        raise _invalid("timezone", body.timezone, "a time zone of the IANA list")
    known = {"USD", *(pair.removeprefix("USD_") for pair in wired.settings.fx)}
    if body.currency is not None and body.currency not in known:
        raise _invalid("currency", body.currency, f"one with rates: {', '.join(sorted(known))}")
    if body.policy is not None or body.currency is not None:
        standing = await wired.tenants.tenant(tenant_id) or Tenant(tenant_id)
        try:
            wired.policies.check_file(
                body.policy or standing.policy, body.currency or standing.currency
            )
        except UnknownPolicy as error:
            raise RequestError(str(error), code="invalid_value", param="policy") from error
    tenant = await wired.tenants.put_tenant(
        tenant_id, currency=body.currency, timezone=body.timezone, policy=body.policy
    )
    return JSONResponse(tenant_to_wire(tenant))


@router.delete("/tenants/{tenant_id}")
async def delete_tenant(wired: Wired, tenant_id: str) -> JSONResponse:
    """Remove a tenant and its keys; its conversations go within seconds, its costs stay."""
    await wired.tenant_erasure.want(tenant_id, wired.clock())
    if not await wired.tenants.delete_tenant(tenant_id):
        raise _not_found("tenant", tenant_id)
    return JSONResponse({"id": tenant_id, "object": "tenant.deleted", "deleted": True})


@router.delete("/tenants/{tenant_id}/end-users/{end_user:path}")
async def erase_end_user(
    wired: Wired,
    tenant_id: str,
    end_user: Annotated[str, Path(min_length=1, max_length=256)],
) -> JSONResponse:
    """Erase an end user and return what went; erasing again is harmless and may find more."""
    await existing_tenant(wired, tenant_id)
    erased = await wired.eraser.end_user(tenant_id, end_user)
    return JSONResponse(
        {
            "object": "end_user.erased",
            "end_user": end_user,
            "conversations": list(erased.conversations),
            "answers": erased.n_answers,
            "turns": erased.n_turns,
            "attempts": erased.n_attempts,
        }
    )


@router.get("/tenants/{tenant_id}/keys")
async def list_keys(wired: Wired, tenant_id: str) -> JSONResponse:
    """Return a tenant's keys, without the keys themselves."""
    await existing_tenant(wired, tenant_id)
    keys = await wired.tenants.keys(tenant_id)
    return JSONResponse({"object": "list", "data": [key_to_wire(key) for key in keys]})


@router.post("/tenants/{tenant_id}/keys")
async def create_key(wired: Wired, tenant_id: str, body: KeyBody) -> JSONResponse:
    """Make a key and return it, the only time it is shown."""
    await existing_tenant(wired, tenant_id)
    unknown = [scope for scope in body.scopes or () if scope not in TENANT_SCOPES]
    if unknown:
        raise _invalid("scopes", unknown[0], f"among {', '.join(TENANT_SCOPES)}")
    if body.expires_at is not None and body.expires_at <= datetime.now(UTC):
        raise _invalid("expires_at", body.expires_at.isoformat(), "a time still to come")
    if body.expires_at is not None and body.expires_at >= _LAST_EXPIRY:
        raise _invalid("expires_at", body.expires_at.isoformat(), "a time before the year 9999")
    key, token = await wired.tenants.create_key(
        tenant_id, body.name, scopes=body.scopes, expires_at=body.expires_at
    )
    return JSONResponse({"id": key.id, "key": token})


@router.delete("/keys/{key_id}")
async def revoke_key(wired: Wired, key_id: str) -> JSONResponse:
    """Make a key useless for ever."""
    if not await wired.tenants.revoke_key(key_id):
        raise _not_found("key", key_id)
    return JSONResponse({"id": key_id, "object": "key.revoked", "revoked": True})


def tenant_to_wire(tenant: Tenant) -> dict[str, Any]:
    """Return a tenant as the admin surface shows it."""
    return {
        "id": tenant.id,
        "object": "tenant",
        "currency": tenant.currency,
        "timezone": tenant.timezone,
        "policy": tenant.policy,
    }


def key_to_wire(key: Key) -> dict[str, Any]:
    """Return a key as the admin surface shows it, without the key itself."""
    return {
        "id": key.id,
        "object": "key",
        "tenant": key.tenant,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "created_at": int(key.created_at.timestamp()),
        "expires_at": None if key.expires_at is None else key.expires_at.isoformat(),
        "revoked_at": None if key.revoked_at is None else key.revoked_at.isoformat(),
    }


def _not_found(noun: str, name: str) -> RequestError:
    return RequestError(f"There is no {noun} {name!r}.", status=404, code="not_found")


def _invalid(param: str, value: str, allowed: str) -> RequestError:
    return RequestError(
        f"Invalid value {value!r} for {param}: it must be {allowed}.",
        code="invalid_value",
        param=param,
    )
