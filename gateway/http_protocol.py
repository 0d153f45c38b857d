"""What goes out to a connection on which no request of HTTP came: an error in the contract's shape.

Parsing is httptools', serving uvicorn's; all else that it cannot read gets uvicorn's own answer.
"""

from __future__ import annotations

import sys

import orjson
from httptools import HttpParserInvalidMethodError
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gateway.app import new_id
from gateway.errors import RequestError
from gateway.http_errors import http_error_of


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol; a method that HTTP does not know is refused as one that a route lacks."""

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
