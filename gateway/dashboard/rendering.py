"""Rendering: templates to pages, files to links that may be kept for ever, both compressed.

Owns the Jinja environment and the static files of the package, read and compressed once.
"""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from fastapi import Request, Response

from gateway.dashboard import formats
from gateway.dashboard.wording import WORDS

if TYPE_CHECKING:
    from jinja2 import Environment

ASSETS = (
    "dashboard.css",
    "chat.css",
    "uplot.css",
    "page.js",
    "chat.js",
    "dashboard.js",
    "htmx.min.js",
    "uplot.min.js",
    "icon.svg",
)
SECURITY = {
    "content-security-policy": (
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
        "object-src 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
}
_A_YEAR = "public, max-age=31536000, immutable"
_WORTH_PACKING_BYTES = 600


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A body, packed and not, with its media type and its strong entity tag."""

    body: bytes
    packed: bytes
    media_type: str
    etag: str

    @property
    def version(self) -> str:
        """What the pages' links name, so that a changed file has another address."""
        return self.etag.strip('"')


@cache
def asset(name: str) -> StaticFile:
    """Return one of `ASSETS`, read and packed once."""
    body = files("gateway").joinpath("dashboard", "static", name).read_bytes()
    media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
    return StaticFile(body, _pack(body, 9), f"{media_type}; charset=utf-8", _etag_of(body))


def render(template: str, **values: Any) -> str:
    """Return a template of the dashboard as HTML; every value is escaped."""
    return _environment().get_template(template).render(**values)


def html(request: Request, text: str, *, status: int = 200) -> Response:
    """Return a page that nobody may keep, packed where the browser can read that."""
    headers = {**SECURITY, "cache-control": "no-store", "vary": "accept-encoding, hx-request"}
    body = text.encode()
    if takes_gzip(request) and len(body) > _WORTH_PACKING_BYTES:
        body, headers["content-encoding"] = _pack(body, 6), "gzip"
    return Response(body, status, headers, media_type="text/html; charset=utf-8")


def answer_file(request: Request, file: StaticFile, *, is_versioned: bool) -> Response:
    """Return a file, or 304 where the browser has it; for ever where its address is versioned."""
    headers = {
        **SECURITY,
        "etag": file.etag,
        "cache-control": _A_YEAR if is_versioned else "no-cache",
        "vary": "accept-encoding",
    }
    known = (tag.strip() for tag in request.headers.get("if-none-match", "").split(","))
    if any(tag in (file.etag, f"W/{file.etag}", "*") for tag in known):
        return Response(status_code=304, headers=headers)
    body = file.body
    if takes_gzip(request) and len(file.packed) < len(body):
        body, headers["content-encoding"] = file.packed, "gzip"
    return Response(body, media_type=file.media_type, headers=headers)


def takes_gzip(request: Request) -> bool:
    """Return whether the browser reads gzip."""
    return "gzip" in request.headers.get("accept-encoding", "")


def asset_url(name: str) -> str:
    """Return the versioned address of a file, relative to the site's root."""
    return f"/assets/{name}?v={asset(name).version}"


@cache
def _environment() -> Environment:
    # Only here: a gateway whose pages nobody opens starts smaller without it.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("gateway", "dashboard/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["asset"] = asset_url
    environment.filters["duration"] = formats.duration
    environment.filters["words"] = lambda code: WORDS.get(str(code), str(code).replace("_", " "))
    environment.globals.update(fmt=formats, widest=_widest)
    return environment


def _widest(values: Iterable[int | float | None]) -> float:
    """Return the largest size among values, at least a little above zero: the scale of bars."""
    return max([abs(value) for value in values if value], default=0) or 1


def _pack(body: bytes, level: int) -> bytes:
    return gzip.compress(body, level, mtime=0)


def _etag_of(body: bytes) -> str:
    return f'"{hashlib.sha256(body).hexdigest()[:20]}"'
