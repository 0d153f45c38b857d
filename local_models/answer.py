"""One chat answer on its way out: a JSON object, or server-sent events in OpenAI's order.

Owns the framing and the small senders that every route uses. A token costs one `send`.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from local_models.engine_thread import Mailbox, Piece, Reply
from local_models.sequence import Finish, TokenLogprobs
from local_models.text import TextCodec
from local_models.tool_calls import CallReader, ToolCall
from local_models.wire import ChatRequest, error_object, logprobs_object, usage_object

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_KEEP_ALIVE_S = 10.0


class Answer:
    """One chat answer on its way out."""

    def __init__(
        self,
        model_name: str,
        codec: TextCodec,
        request: ChatRequest,
        replies: list[Reply],
        mailbox: Mailbox,
        send: Send,
    ) -> None:
        self._codec = codec
        self._request = request
        self._replies = replies
        self._mailbox = mailbox
        self._send = send
        self._envelope = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": "chat.completion.chunk" if request.is_stream else "chat.completion",
            "created": int(time.time()),
            "model": model_name,
            "system_fingerprint": "turnwise",
        }
        self._headers: list[tuple[bytes, bytes]] = []
        if request.dropped:
            names = ",".join(request.dropped).encode("latin-1", "replace")
            self._headers.append((b"x-turnwise-dropped-params", names))
        self._is_open = False
        tools = [str(tool["function"]["name"]) for tool in request.tools]
        self._readers = [CallReader(tools, codec.tool_form) if tools else None for _ in replies]

    async def send_all(self) -> None:
        """Send the whole answer in the shape that was asked for."""
        await (self._stream() if self._request.is_stream else self._collect())

    async def _collect(self) -> None:
        texts = [""] * len(self._replies)
        calls: list[list[ToolCall]] = [[] for _ in self._replies]
        found: list[tuple[TokenLogprobs, ...]] = [()] * len(self._replies)
        finishes: dict[int, Finish] = {}
        while len(finishes) < len(self._replies):
            for at, piece in await self._mailbox.next():
                if await self._fail(piece.finish):
                    return
                text, made = self._read(at, piece)
                texts[at] += text
                calls[at] += made
                found[at] += piece.logprobs
                if piece.finish is not None:
                    finishes[at] = piece.finish
        choices = []
        for at, text in enumerate(texts):
            message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
            if calls[at]:
                message["content"] = text or None
                message["tool_calls"] = [call.to_wire() for call in calls[at]]
            choices.append(self._choice(at, "message", message, found[at], finishes[at]))
        body = {**self._envelope, "choices": choices, "usage": self._usage()}
        await send_json(self._send, 200, body, self._headers)

    async def _stream(self) -> None:
        n_open = len(self._replies)
        while n_open:
            try:
                async with asyncio.timeout(_KEEP_ALIVE_S):
                    pieces = await self._mailbox.next()
            except TimeoutError:
                if self._is_open:
                    await self._write(b": keep-alive\n\n")
                continue
            for at, piece in pieces:
                if await self._fail(piece.finish):
                    return
                await self._send_piece(at, piece)
                n_open -= piece.finish is not None
        if self._request.includes_usage:
            await self._event({**self._envelope, "choices": [], "usage": self._usage()})
        await self._write(b"data: [DONE]\n\n", is_last=True)

    async def _send_piece(self, at: int, piece: Piece) -> None:
        if not self._is_open:
            await self._open()
        reader = self._readers[at]
        n_before = reader.n_calls if reader is not None else 0
        text, calls = self._read(at, piece)
        if text or piece.logprobs:
            await self._chunk(at, {"content": text}, piece.logprobs, None)
        if calls:
            made = [call.to_wire(n_before + index) for index, call in enumerate(calls)]
            await self._chunk(at, {"tool_calls": made}, (), None)
        if piece.finish is not None:
            await self._chunk(at, {}, (), piece.finish)

    def _read(self, at: int, piece: Piece) -> tuple[str, list[ToolCall]]:
        """Return the content and the calls that a piece of one choice brings."""
        reader = self._readers[at]
        if reader is None:
            return piece.text, []
        text, calls = reader.feed(piece.text)
        if piece.finish is None:
            return text, calls
        rest, more = reader.end()
        return text + rest, calls + more

    async def _open(self) -> None:
        self._is_open = True
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
            *self._headers,
        ]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        for at in range(len(self._replies)):
            await self._chunk(at, {"role": "assistant", "content": "", "refusal": None}, (), None)

    async def _fail(self, finish: Finish | None) -> bool:
        """Answer an unhappy end with an error, as a status or as the last frame."""
        if finish in (None, Finish.STOP, Finish.LENGTH):
            return False
        status, code = (504, "timeout") if finish is Finish.TIMEOUT else (503, "generation_failed")
        message = "The deadline passed." if finish is Finish.TIMEOUT else "The generation failed."
        if not self._is_open:
            await send_error(self._send, status, message, "server_error", code)
            return True
        await self._event(error_object(message, "server_error", code))
        await self._write(b"", is_last=True)
        return True

    def _choice(
        self, at: int, key: str, value: Any, found: tuple[Any, ...], finish: Finish | None
    ) -> dict[str, Any]:
        logprobs = logprobs_object(self._codec, found) if found else None
        reason = None if finish is None else finish.value
        reader = self._readers[at]
        if finish is Finish.STOP and reader is not None and reader.n_calls:
            reason = "tool_calls"
        return {"index": at, key: value, "logprobs": logprobs, "finish_reason": reason}

    async def _chunk(
        self, at: int, delta: dict[str, Any], found: tuple[Any, ...], finish: Finish | None
    ) -> None:
        choices = [self._choice(at, "delta", delta, found, finish)]
        chunk: dict[str, Any] = {**self._envelope, "choices": choices}
        if self._request.includes_usage:
            chunk["usage"] = None
        await self._event(chunk)

    async def _event(self, value: Any) -> None:
        await self._write(b"data: " + dump(value) + b"\n\n")

    async def _write(self, data: bytes, *, is_last: bool = False) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": not is_last})

    def _usage(self) -> dict[str, Any]:
        sequences = [r.sequence for r in self._replies if r.sequence is not None]
        return usage_object(
            sequences[0].n_prompt,
            sum(s.n_output for s in sequences),
            sequences[0].n_reused,
            sum(s.busy_s for s in sequences),
        )


def dump(value: Any) -> bytes:
    """Return compact JSON, text as it is."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


async def send_json(
    send: Send, status: int, value: Any, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    """Send one JSON object as the whole response."""
    await send_body(send, status, dump(value), b"application/json", headers)


async def send_error(
    send: Send,
    status: int,
    message: str,
    type_: str,
    code: str | None = None,
    param: str | None = None,
    headers: list[tuple[bytes, bytes]] | None = None,
) -> None:
    """Send OpenAI's error body as the whole response."""
    await send_json(send, status, error_object(message, type_, code, param), headers)


async def send_body(
    send: Send,
    status: int,
    body: bytes,
    content_type: bytes,
    headers: list[tuple[bytes, bytes]] | None = None,
) -> None:
    """Send a whole response."""
    lines = [
        (b"content-type", content_type),
        (b"content-length", str(len(body)).encode()),
        *(headers or []),
    ]
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": body})
