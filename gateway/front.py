"""Front: what every request passes first, whatever its route.

Gives the request its id, bounds its body, sends the id back on every answer, counts it, and turns
whatever is raised below into the contract's error body. A pure ASGI layer, because a turn is too
cheap to pay for anything more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

import orjson
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import RequestError
from gateway.http_errors import HttpError, http_error_of
from gateway.telemetry import Metrics
from gateway.turn import header_value

log = logging.getLogger("turnwise.http")
SLASH_IN_NAME = "\udc2f"
_NAMED_PATHS = "/v1/conversations/"
_STREAMED = "/import"  # read line by line by its route, which bounds each line


class Front:
    """The outermost ASGI layer; `scope["state"]["request_id"]` names the request below it.

    Args:
        app: serves every path but the direct ones.
        direct: by path, POST endpoints that no framework stands before.
        metrics: counts requests.
        new_id: makes request ids.
        max_body_bytes: larger bodies are refused.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        direct: Mapping[str, ASGIApp],
        metrics: Metrics,
        new_id: Callable[[str], str],
        max_body_bytes: int,
    ) -> None:
        self._app = app
        self._direct = direct
        self._metrics = metrics
        self._new_id = new_id
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event of ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope = _with_slashes_in_names(scope)
        request_id = self._new_id("req")
        scope.setdefault("state", {})["request_id"] = request_id
        id_bytes = request_id.encode()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", id_bytes),
                    (b"request-id", id_bytes),
                ]
            await send(message)

        app = self._direct.get(scope["path"], self._app)
        try:
            if app is not self._app and scope["method"] != "POST":
                raise RequestError("Method Not Allowed", status=405, code="method_not_allowed")
            path: str = scope["path"]
            is_streamed = path.startswith(_NAMED_PATHS) and path.endswith(_STREAMED)
            await app(scope, receive if is_streamed else self._bounded(receive), send_with_id)
        except Exception as error:
            # The last line of defence: whatever it is, the caller gets the contract's error.
            failure = http_error_of(error)
            if failure.code == "internal_error":
                log.exception("unexpected failure in %s %s", request_id, scope["path"])
            if not status:
                await send_error(send_with_id, failure)
        finally:
            self._metrics.requests.labels(route_of(scope), str(status)).inc()

    def _bounded(self, receive: Receive) -> Receive:
        left = self._max_body_bytes

        async def bounded() -> Message:
            nonlocal left
            message = await receive()
            if message["type"] == "http.request":
                left -= len(message.get("body", b""))
                if left < 0:
                    # Starlette's own error: the framework below lets no other pass as it is.
                    raise HTTPException(
                        413, f"The request body is larger than {self._max_body_bytes} bytes."
                    )
            return message

        return bounded


def _with_slashes_in_names(scope: Scope) -> Scope:
    """Return the scope with a marker where a conversation's name holds an encoded slash.

    Servers decode the path before it is routed. Percent-decoding cannot produce the marker, so no
    other name is mistaken for it. The server's own scope stays as it is.
    """
    raw: bytes = scope.get("raw_path") or b""
    if not scope["path"].startswith(_NAMED_PATHS) or b"%2f" not in raw.lower():
        return scope
    parts = (unquote(part).replace("/", SLASH_IN_NAME) for part in raw.decode().split("/"))
    return {**scope, "path": "/".join(parts)}


def route_of(scope: Scope) -> str:
    """Return the route's template for a metric label, never the raw path."""
    route = scope.get("route")
    path = getattr(route, "path", None)
    return path if isinstance(path, str) else "unmatched"


async def send_error(
    send: Callable[[Any], Any], failure: HttpError, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    """Send an error as the contract's JSON body, with its own headers and the ones given."""
    body = orjson.dumps(failure.body())
    all_headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *((name.encode(), header_value(value)) for name, value in failure.headers.items()),
        *(headers or ()),
    ]
    await send({"type": "http.response.start", "status": failure.status, "headers": all_headers})
    await send({"type": "http.response.body", "body": body})
