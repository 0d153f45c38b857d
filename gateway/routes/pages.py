"""GET /chat, and the files that the pages load.

The chat page holds no data: its script calls the tenant surface with the key that the reader
pastes, so it shows exactly what that key may see. Nothing is loaded from elsewhere.
"""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from gateway.dashboard.rendering import ASSETS, answer_file, asset, html, render
from gateway.errors import RequestError

router = APIRouter(include_in_schema=False)


# Plain functions: the first call reads files, so FastAPI runs them in its worker threads.
@router.get("/chat")
def chat(request: Request) -> Response:
    """Return the page to try a turn."""
    return html(request, render("chat.html"))


@router.get("/assets/{name}")
def asset_file(request: Request, name: str) -> Response:
    """Return a file of the pages; with the version the pages link to, it may be kept for long."""
    if name not in ASSETS:
        raise RequestError(f"There is no file {name!r}.", status=404, code="not_found")
    file = asset(name)
    is_versioned = request.query_params.get("v") == file.version
    return answer_file(request, file, is_versioned=is_versioned)
