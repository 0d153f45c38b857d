"""GET /chat, GET /dashboard and the files they load.

The pages hold no data: their scripts call the tenant surface with the key that the reader pastes,
so a page shows exactly what that key may see. Nothing is loaded from elsewhere.
"""

from __future__ import annotations

import hashlib
import mimetypes
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from fastapi import APIRouter, Request, Response
from jinja2 import Environment, PackageLoader, StrictUndefined

from gateway.errors import RequestError

PAGES = {"chat": "Try a turn", "dashboard": "Costs"}
ASSETS = ("base.css", "page.js", "chat.js", "dashboard.js", "icon.svg")
_SECURITY = {
    "content-security-policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "object-src 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
_A_YEAR = "public, max-age=31536000, immutable"

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A body with its media type and its strong entity tag."""

    body: bytes
    media_type: str
    etag: str


# Plain functions: the first call reads files, so FastAPI runs them in its worker threads.
@router.get("/chat")
def chat(request: Request) -> Response:
    """Return the page to try a turn."""
    return _answer(request, page("chat"), "no-cache")


@router.get("/dashboard")
def dashboard(request: Request) -> Response:
    """Return the page of costs."""
    return _answer(request, page("dashboard"), "no-cache")


@router.get("/assets/{name}")
def asset_file(request: Request, name: str) -> Response:
    """Return a file of the pages; with the version the pages link to, it may be kept for long."""
    if name not in ASSETS:
        raise RequestError(f"There is no file {name!r}.", status=404, code="not_found")
    file = asset(name)
    is_versioned = request.query_params.get("v") == _version_of(file)
    return _answer(request, file, _A_YEAR if is_versioned else "no-cache")


@cache
def asset(name: str) -> StaticFile:
    """Return one of `ASSETS`, read once."""
    body = files("gateway").joinpath("dashboard", "static", name).read_bytes()
    media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
    return StaticFile(body, f"{media_type}; charset=utf-8", _etag_of(body))


@cache
def page(name: str) -> StaticFile:
    """Return one of `PAGES`, rendered once."""
    environment = Environment(
        loader=PackageLoader("gateway", "dashboard/templates"),
        autoescape=True,
        undefined=StrictUndefined,
    )
    environment.filters["asset"] = _url_of
    template = environment.get_template(f"{name}.html")
    body = template.render(name=name, title=PAGES[name], pages=PAGES).encode()
    return StaticFile(body, "text/html; charset=utf-8", _etag_of(body))


def _answer(request: Request, file: StaticFile, cache_control: str) -> Response:
    headers = {**_SECURITY, "etag": file.etag, "cache-control": cache_control}
    known = (tag.strip() for tag in request.headers.get("if-none-match", "").split(","))
    if any(tag in (file.etag, f"W/{file.etag}", "*") for tag in known):
        return Response(status_code=304, headers=headers)
    return Response(file.body, media_type=file.media_type, headers=headers)


def _etag_of(body: bytes) -> str:
    return f'"{hashlib.sha256(body).hexdigest()[:20]}"'


def _version_of(file: StaticFile) -> str:
    return file.etag.strip('"')


def _url_of(name: str) -> str:
    return f"assets/{name}?v={_version_of(asset(name))}"
