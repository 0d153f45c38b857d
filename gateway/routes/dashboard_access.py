"""Sign-in and sign-out of the dashboard, the tenant's keys, and the audit log."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from fastapi import APIRouter, Request, Response

from gateway.dashboard.rendering import html, render
from gateway.dashboard.session import COOKIE, LIFETIME_S
from gateway.dashboard.view import View
from gateway.errors import InvalidKey, RequestError
from gateway.keys import DEFAULT_SCOPES, MANAGE_SCOPE, TENANT_SCOPES
from gateway.routes.dependencies import Wired
from gateway.routes.page_route import Form, PageRoute, Shown, SignedIn, form_of, page, see
from gateway.services import Services

router = APIRouter(route_class=PageRoute)
_HOME = "/dashboard"


@router.get("/login")
async def login_page(request: Request) -> Response:
    """Show the form that takes a key."""
    back = _inside(request.query_params.get("next", _HOME))
    return html(request, render("login.html", title="Sign in", next=back, problem=None))


@router.post("/login")
async def log_in(wired: Wired, request: Request) -> Response:
    """Take a key and set the session's cookie."""
    fields = await form_of(request)
    back = _inside(fields.get("next", _HOME))
    try:
        cookie = await wired.sessions.sign_in(fields.get("key", ""))
    except InvalidKey as error:
        text = render("login.html", title="Sign in", next=back, problem=str(error))
        return html(request, text, status=401)
    answer = see(back)
    answer.set_cookie(
        COOKIE,
        cookie,
        max_age=LIFETIME_S,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return answer


@router.post("/logout")
async def log_out(viewer: SignedIn, fields: Form) -> Response:
    """Forget the session's cookie."""
    answer = see("/dashboard/login")
    answer.delete_cookie(COOKIE)
    return answer


@router.get("/keys")
async def keys(wired: Wired, view: Shown, request: Request) -> Response:
    """Show the tenant's keys, never their secrets."""
    view.viewer.require(MANAGE_SCOPE)
    return await _keys(wired, view, request)


@router.post("/keys")
async def create_key(wired: Wired, view: Shown, fields: Form, request: Request) -> Response:
    """Make a key and show it, this once."""
    view.viewer.require(MANAGE_SCOPE)
    name = fields.get("name", "").strip()
    if not 1 <= len(name) <= 128:
        raise RequestError("A key needs a name of 1 to 128 characters.", param="name")
    scopes = [scope for scope in TENANT_SCOPES if f"scope_{scope}" in fields]
    beyond = set(scopes) - grantable(view)
    if not scopes or beyond:
        raise RequestError("Choose scopes among those that you may give.", param="scopes")
    key, token = await wired.tenants.create_key(view.tenant.id, name, scopes=scopes)
    detail = {"key": key.id, "name": name, "scopes": scopes}
    await _note(wired, view, request, "create key", detail)
    return await _keys(wired, view, request, token=token)


@router.post("/keys/{key_id}/revoke")
async def revoke_key(
    wired: Wired, view: Shown, fields: Form, request: Request, key_id: str
) -> Response:
    """Make one of the tenant's keys useless for ever."""
    view.viewer.require(MANAGE_SCOPE)
    known = {key.id for key in await wired.tenants.keys(view.tenant.id)}
    if key_id not in known:
        raise RequestError(f"There is no key {key_id!r}.", status=404, code="not_found")
    await wired.tenants.revoke_key(key_id)
    await _note(wired, view, request, "revoke key", {"key": key_id})
    return see(view.link("/dashboard/keys"))


@router.get("/audit")
async def audit(wired: Wired, view: Shown, request: Request) -> Response:
    """Show who changed what: the tenant's rows, or for administrators all of them."""
    view.viewer.require(MANAGE_SCOPE)
    before = view.query.get("before", "")
    is_everyone = view.viewer.tenant is None and "tenant" not in view.query
    rows = await wired.audit.rows(
        None if is_everyone else view.tenant.id,
        before=int(before) if before.isdecimal() and len(before) < 19 else None,
    )
    return page(request, view, "audit.html", "Audit log", rows=rows, is_everyone=is_everyone)


def grantable(view: View) -> frozenset[str]:
    """Return the scopes that the viewer may give: the usual ones and those of their own key."""
    if view.viewer.tenant is None:
        return frozenset(TENANT_SCOPES)
    return DEFAULT_SCOPES | (view.viewer.scopes & frozenset(TENANT_SCOPES))


async def _keys(
    wired: Services, view: View, request: Request, *, token: str | None = None
) -> Response:
    found = await wired.tenants.keys(view.tenant.id)
    return page(
        request,
        view,
        "keys.html",
        "Keys",
        keys=found,
        token=token,
        scopes=[scope for scope in TENANT_SCOPES if scope in grantable(view)],
        usual=DEFAULT_SCOPES,
        now=datetime.now(UTC),
    )


async def _note(
    wired: Services, view: View, request: Request, act: str, detail: Mapping[str, object]
) -> None:
    await wired.audit.add(
        actor=view.viewer.key_id,
        role=view.viewer.role,
        tenant=view.tenant.id,
        act=act,
        detail=detail,
        request_id=request.state.request_id,
    )


def _inside(address: str) -> str:
    """Return an address of the dashboard as it is, anything else as the overview's."""
    is_ours = address == _HOME or address.startswith((f"{_HOME}/", f"{_HOME}?"))
    return address if is_ours and "\\" not in address else _HOME
