"""What every page of the dashboard passes: who is signed in, what they look at, errors as pages.

A form is taken only with the token of its session, from this site.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Annotated, Any
from urllib.parse import parse_qsl, quote

from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute
from redis.exceptions import RedisError

from gateway.dashboard.rendering import SECURITY, html, render
from gateway.dashboard.session import COOKIE, Viewer
from gateway.dashboard.view import View, view_of
from gateway.errors import GatewayError, InvalidKey, RequestError
from gateway.http_errors import EXPECTED_ERRORS, http_error_of
from gateway.routes.dependencies import Wired, services_of
from gateway.services import Services
from gateway.tenants import Tenant

LOGIN = "/dashboard/login"
_MOST_FORM_BYTES = 256 * 1024


class SignInNeeded(GatewayError):
    """Nobody is signed in, or the session is over."""


class PageRoute(APIRoute):
    """A route whose errors are pages, and which sends strangers to the sign-in page."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler with its errors turned into pages."""
        answer = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await answer(request)
            except SignInNeeded:
                return _to_login(request)
            except EXPECTED_ERRORS as error:
                failure = http_error_of(error)
                text = render("error.html", title="Error", failure=failure)
                return html(request, text, status=failure.status)

        return handle


async def viewer_of(request: Request) -> Viewer:
    """Return who is signed in.

    Raises:
        SignInNeeded: nobody is.
    """
    try:
        return await services_of(request).sessions.viewer_of(request.cookies.get(COOKIE))
    except InvalidKey as error:
        raise SignInNeeded(str(error)) from error


SignedIn = Annotated[Viewer, Depends(viewer_of)]


async def page_view(wired: Wired, viewer: SignedIn, request: Request) -> View:
    """Return what the page shows, the books brought up to date first.

    Raises:
        RequestError: 404, no such tenant among the viewer's.
    """
    tenants: Mapping[str, Tenant]
    if viewer.tenant is not None:
        tenants = {viewer.tenant.id: viewer.tenant}
    else:
        tenants = {tenant.id: tenant for tenant in await wired.tenants.tenants()}
    if not tenants:
        raise RequestError("There is no tenant yet: create one with PUT /admin/tenants/{id}.")
    view = view_of(
        viewer,
        tenants,
        now=wired.clock(),
        path=request.url.path,
        query=dict(request.query_params),
    )
    return replace(view, is_fresh=await _catch_up(wired, view.tenant.id))


async def _catch_up(wired: Services, tenant: str) -> bool:
    """Book what waits in the tenant's stream; False where Redis does not answer."""
    try:
        await wired.books.catch_up(tenant)
    except (RedisError, OSError) as error:  # the books stand without it, and the page says so
        wired.degradations.failed("pages", error, "a page of the dashboard")
        return False
    wired.degradations.worked("pages")
    return True


Shown = Annotated[View, Depends(page_view)]


async def form_of(request: Request) -> dict[str, str]:
    """Return the fields of a form that was sent from a page of this site.

    Raises:
        RequestError: 403 for a form of another site; 413 for one that is too large.
    """
    # Browsers that send neither header are held by the same-site cookie and the form's token.
    site = request.headers.get("sec-fetch-site", "same-origin")
    if site not in ("same-origin", "none"):
        raise RequestError("The form comes from another site.", status=403, code="wrong_site")
    body = await request.body()
    if len(body) > _MOST_FORM_BYTES:
        raise RequestError("The form is too large.", status=413, code="request_too_large")
    return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))


async def guarded_form(request: Request, viewer: SignedIn) -> dict[str, str]:
    """Return a form's fields, its token checked.

    Raises:
        RequestError: 403, the token is not the session's.
    """
    fields = await form_of(request)
    given = fields.pop("csrf", "")
    if not hmac.compare_digest(given.encode(), viewer.csrf.encode()):
        raise RequestError(
            "The form is out of date: load the page again.", status=403, code="wrong_form_token"
        )
    return fields


Form = Annotated[dict[str, str], Depends(guarded_form)]


def page(request: Request, view: View, template: str, title: str, **values: Any) -> Response:
    """Return a page of the dashboard."""
    return html(request, render(template, v=view, title=title, request=request, **values))


def see(address: str) -> Response:
    """Return the way to another page, after a form was taken."""
    headers = {**SECURITY, "location": address, "cache-control": "no-store"}
    return Response(status_code=303, headers=headers)


def _to_login(request: Request) -> Response:
    back = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    address = LOGIN if request.method != "GET" else f"{LOGIN}?next={quote(back, safe='')}"
    if "hx-request" in request.headers:  # a part of a page cannot hold the sign-in page
        return Response(status_code=204, headers={**SECURITY, "hx-redirect": LOGIN})
    return see(address)
