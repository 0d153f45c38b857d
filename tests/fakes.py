"""Fakes that tests share: backends that play a script, upstreams that misbehave on purpose."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

from gateway.backends.base import Call, ReplyDelta, ReplyEnd
from policies.usage import Usage

CHUNK = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "fake"}
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


class FakeBackend:
    """Plays a script of events for every call and remembers what it was asked.

    An exception in the script is raised at its place; a number waits that many seconds.
    """

    def __init__(self, script: Sequence[ReplyDelta | ReplyEnd | Exception | float] = ()) -> None:
        self.script = list(script) or [
            ReplyDelta(0, "Hello"),
            ReplyDelta(0, finish_reason="stop"),
            ReplyEnd(Usage(7, 3), model="fake"),
        ]
        self.calls: list[Call] = []
        self.n_closed_early = 0

    async def stream(self, call: Call) -> AsyncGenerator[ReplyDelta | ReplyEnd, None]:
        self.calls.append(call)
        has_ended = False
        try:
            for step in self.script:
                if isinstance(step, Exception):
                    has_ended = True
                    raise step
                if isinstance(step, float):
                    await asyncio.sleep(step)
                    continue
                has_ended = isinstance(step, ReplyEnd)
                yield step
        finally:
            self.n_closed_early += not has_ended

    async def close(self) -> None:
        return None


def chunk(
    delta: dict[str, Any], finish_reason: str | None = None, index: int = 0
) -> dict[str, Any]:
    """Return one chunk of a stream in OpenAI's shape."""
    choice = {"index": index, "delta": delta, "finish_reason": finish_reason}
    return {**CHUNK, "choices": [choice]}


def event(payload: Any) -> bytes:
    """Return one server-sent event."""
    data = payload if isinstance(payload, bytes) else orjson.dumps(payload)
    return b"data: " + data + b"\n\n"


def whole_stream(*deltas: dict[str, Any]) -> list[bytes]:
    """Return the events of a stream that ends well."""
    events = [event(chunk({"role": "assistant", "content": ""}))]
    events += [event(chunk(delta)) for delta in deltas or ({"content": "Hel"}, {"content": "lo"})]
    events += [event(chunk({}, "stop")), event({**CHUNK, "choices": [], "usage": USAGE})]
    return [*events, event(b"[DONE]")]


def completion(message: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """Return a whole answer in OpenAI's shape."""
    choice = {
        "index": 0,
        "message": message or {"role": "assistant", "content": "Hello"},
        "finish_reason": "stop",
    }
    base = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "fake"}
    return {**base, "choices": [choice], "usage": USAGE, **fields}


@dataclass
class FakeUpstream:
    """A real HTTP server of OpenAI's protocol that answers as it is told.

    `answer` is called with the request's body. It returns a dict (a whole answer), a list of bytes
    (a stream, each sent apart), or a prepared response.
    """

    base_url: str = ""
    answer: Callable[[dict[str, Any]], Any] = field(default=lambda body: None)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    pause_s: float = 0.0
    is_cut: bool = False

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = orjson.loads(await request.read())
        self.bodies.append(body)
        self.asked.set()
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        answer = self.answer(body)
        if isinstance(answer, Awaitable):
            answer = await answer
        if answer is None:
            answer = whole_stream() if body.get("stream") else completion()
        if isinstance(answer, web.StreamResponse):
            return answer
        if isinstance(answer, dict):
            return web.json_response(answer)
        return await self._stream(request, answer)

    async def _stream(self, request: web.Request, events: list[bytes]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        try:
            for data in events:
                await response.write(data)
                await asyncio.sleep(self.pause_s)
            if self.is_cut:
                assert request.transport is not None
                request.transport.abort()
        except (ConnectionResetError, asyncio.CancelledError):
            self.left.set()
            raise
        return response


async def until(holds: Callable[[], bool | Awaitable[bool]], limit_s: float = 20.0) -> None:
    """Return when the condition holds; for what another process does and no event tells."""
    async with asyncio.timeout(limit_s):
        while True:
            answer = holds()
            if isinstance(answer, Awaitable):
                answer = await answer
            if answer:
                return
            await asyncio.sleep(0.02)


@asynccontextmanager
async def fake_upstream() -> AsyncIterator[FakeUpstream]:
    """Run a FakeUpstream on a free loopback port."""
    upstream = FakeUpstream()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", upstream.handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        upstream.base_url = f"http://127.0.0.1:{port}/v1"
        yield upstream
    finally:
        await runner.cleanup()
