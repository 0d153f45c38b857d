"""The connection as uvicorn serves it, but for two things: what is not HTTP, and how bytes leave.

Parsing is httptools', serving uvicorn's. A method that HTTP does not know gets the error of the
contract; all else that cannot be read gets uvicorn's own answer.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any, cast

import orjson
from httptools import HttpParserInvalidMethodError
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gateway.app import new_id
from gateway.errors import RequestError
from gateway.http_errors import http_error_of


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol; a method that HTTP does not know is refused as one that a route lacks."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Serve a new connection; see asyncio.Protocol."""
        super().connection_made(cast(asyncio.Transport, _Gathering(transport, self.loop)))

    def send_400_response(self, msg: str) -> None:
        """Refuse what was not parsed, and close; called while the parser's error is handled."""
        if not isinstance(sys.exception(), HttpParserInvalidMethodError):
            super().send_400_response(msg)
            return
        error = RequestError("Method Not Allowed", status=405, code="method_not_allowed")
        body = orjson.dumps(http_error_of(error).body())
        request_id = new_id("req").encode()
        head = (
            STATUS_LINE[405],
            b"content-type: application/json\r\n",
            b"content-length: %d\r\n" % len(body),
            b"x-request-id: %s\r\nrequest-id: %s\r\n" % (request_id, request_id),
            b"connection: close\r\n\r\n",
        )
        self.transport.write(b"".join((*head, body)))
        self.transport.close()


class _Gathering:
    """A transport that sends what is written within one turn of the loop as one piece.

    uvicorn writes an answer's head and body apart and uvloop sends each at once: two system calls,
    two packets, and a reader who wakes twice.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []
        # Asked for every request, so not through __getattr__.
        self.is_closing = transport.is_closing
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send soon; see asyncio.WriteTransport."""
        if not self._held:
            self._loop.call_soon(self._send)
        self._held.append(data)

    def close(self) -> None:
        """Close once all is sent; see asyncio.WriteTransport."""
        self._send()
        self._transport.close()

    def _send(self) -> None:
        if self._held:
            data, self._held = b"".join(self._held), []
            self._transport.write(data)
