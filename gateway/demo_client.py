"""The caller's side of a turn, for the demo: requests, server-sent events, what was measured.

Knows the HTTP contract and nothing of the gateway's inside.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass, field
from time import perf_counter
from types import TracebackType
from typing import Any

import aiohttp
import orjson

from policies.usage import Usage

_DONE = b"[DONE]"


class GatewayUnusable(Exception):
    """The gateway could not be reached, started, or refused the key; the text says which."""


@dataclass(slots=True)
class StreamedReply:
    """One streamed answer as its caller saw it.

    `status` is the HTTP status. `error` is None on success; a stream that broke is an error with
    status 200. `first_token_s` and `total_s` run from sending the request; `retry_after_s` is what
    a refusal asked for. `tool_calls` are joined: id, name, arguments.
    """

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    model: str | None = None
    finish_reason: str | None = None
    turnwise: dict[str, Any] = field(default_factory=dict)
    wire_usage: dict[str, Any] = field(default_factory=dict)
    tool_calls: dict[int, dict[str, str]] = field(default_factory=dict)
    error: str | None = None
    retry_after_s: float | None = None
    first_token_s: float | None = None
    total_s: float = 0.0

    @property
    def is_refused(self) -> bool:
        """True for a refusal that may pass: a conflict, a rate limit, a server in trouble."""
        may_pass = self.status in (408, 409, 429) or self.status >= 500
        return may_pass and self.headers.get("x-should-retry") != "false"

    @property
    def usage(self) -> Usage | None:
        """Token counts, None where the answer carried none."""
        wire = self.wire_usage
        if not wire:
            return None
        return Usage(
            input_tokens=wire["prompt_tokens"],
            output_tokens=wire["completion_tokens"],
            cached_input_tokens=(wire.get("prompt_tokens_details") or {}).get("cached_tokens", 0),
        )

    def add(self, chunk: dict[str, Any]) -> bool:
        """Take in one chunk; return whether it carried something of the answer."""
        if "error" in chunk:
            self.error = str(chunk["error"].get("code") or chunk["error"].get("type"))
            return False
        self.model = chunk.get("model") or self.model
        self.turnwise = chunk.get("turnwise") or self.turnwise
        self.wire_usage = chunk.get("usage") or self.wire_usage
        has_content = False
        for choice in chunk.get("choices", ()):
            delta = choice.get("delta") or {}
            has_content |= bool(delta.get("content") or delta.get("tool_calls"))
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
            for piece in delta.get("tool_calls") or ():
                self._add_tool_call(piece)
        return has_content

    def _add_tool_call(self, piece: dict[str, Any]) -> None:
        call = self.tool_calls.setdefault(
            piece.get("index", 0), {"id": "", "name": "", "arguments": ""}
        )
        call["id"] = piece.get("id") or call["id"]
        function = piece.get("function") or {}
        call["name"] += function.get("name") or ""
        call["arguments"] += function.get("arguments") or ""


class GatewayClient:
    """The few calls the demo makes; used as an async context manager."""

    def __init__(self, base_url: str, key: str, *, timeout_s: float, n_at_once: int = 8) -> None:
        self.base_url = base_url.rstrip("/")
        self._key = key
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=5)
        self._n_at_once = n_at_once

    async def __aenter__(self) -> GatewayClient:
        """Open the connection pool."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._n_at_once + 2),
            headers={"authorization": f"Bearer {self._key}"},
            timeout=self._timeout,
            json_serialize=lambda value: orjson.dumps(value).decode(),
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connection pool."""
        await self._session.close()

    async def json(self, method: str, path: str, **request: Any) -> tuple[int, Any]:
        """Return status and parsed body; the body is None where it is no JSON.

        Raises:
            GatewayUnusable: no connection, or no answer in time.
        """
        try:
            async with self._session.request(method, self.base_url + path, **request) as reply:
                return reply.status, _parsed(await reply.read())
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise GatewayUnusable(f"{self.base_url}: {type(error).__name__}: {error}") from error

    async def chat(self, body: dict[str, Any], headers: dict[str, str]) -> StreamedReply:
        """Return one streamed chat completion, read to its end; failures are in its `error`."""
        started_s = perf_counter()
        url = self.base_url + "/v1/chat/completions"
        reply = StreamedReply(status=0)
        try:
            async with self._session.post(url, json=body, headers=headers) as response:
                reply.status = response.status
                reply.headers = {name.lower(): value for name, value in response.headers.items()}
                if response.status == 200:
                    await _read_stream(response.content, reply, started_s)
                else:
                    _read_refusal(_parsed(await response.read()), reply)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            reply.error = type(error).__name__
        reply.total_s = perf_counter() - started_s
        return reply


async def _read_stream(
    content: AsyncIterable[bytes], reply: StreamedReply, started_s: float
) -> None:
    is_done = False
    async for data in sse_data(content):
        if data == _DONE:
            is_done = True
        elif reply.add(orjson.loads(data)) and reply.first_token_s is None:
            reply.first_token_s = perf_counter() - started_s
    # A stream that merely stops is a failure, though no client library says so.
    if not is_done and reply.error is None:
        reply.error = "stream_cut"


def _read_refusal(body: Any, reply: StreamedReply) -> None:
    error = body.get("error") if isinstance(body, dict) else None
    reply.error = str((error or {}).get("code") or f"http_{reply.status}")
    try:
        reply.retry_after_s = float(reply.headers.get("retry-after", ""))
    except ValueError:
        reply.retry_after_s = None


def _parsed(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


async def sse_data(lines: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """Yield the data of each server-sent event; comments and other fields are passed over."""
    data: list[bytes] = []
    async for line in lines:
        line = line.rstrip(b"\r\n")
        if line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
        elif not line and data:
            yield b"\n".join(data)
            data = []
    if data:
        yield b"\n".join(data)
