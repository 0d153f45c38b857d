"""POST /v1/chat/completions: bytes in, bytes out; the turn itself is the responder's.

A raw ASGI endpoint: it watches for a caller who leaves, keeps a silent stream alive, and replays
finished answers to idempotent retries.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from datetime import datetime
from typing import Any

import orjson
from redis.exceptions import RedisError
from starlette.types import Receive, Scope, Send

from gateway.auth import Authenticator, Principal
from gateway.backends.base import ReplyDelta
from gateway.errors import LedgerAway
from gateway.front import send_error
from gateway.http_errors import http_error_of
from gateway.idempotency import Claim, IdempotencyStore, Outcome
from gateway.responder import Responder
from gateway.takeover import ReplyRestart
from gateway.telemetry import Degradations
from gateway.turn import Disclosure, Turn
from gateway.wire.chat import parse_chat
from gateway.wire.reply import completion_to_wire
from gateway.wire.sse import DONE, KEEP_ALIVE, ChatFrames, data_frame

log = logging.getLogger("turnwise.http")

_SILENCE_S = 10.0
_PATIENCE_S = 0.03  # a caller who leaves is noticed this late at most
_JSON = (b"content-type", b"application/json")
_EVENT_STREAM = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)


class CallerGone(Exception):
    """The caller closed the connection."""


class ChatEndpoint:
    """The ASGI application of the chat completions route."""

    path = "/v1/chat/completions"

    def __init__(
        self,
        *,
        authenticator: Authenticator,
        responder: Responder,
        idempotency: IdempotencyStore,
        degradations: Degradations,
        clock: Callable[[], datetime],
    ) -> None:
        self._authenticator = authenticator
        self._responder = responder
        self._idempotency = idempotency
        self._degradations = degradations
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or stop working when its caller leaves."""
        scope["route"] = self
        started_at = self._clock()
        request_id: str = scope["state"]["request_id"]
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        disclosure = Disclosure(request_id=request_id, started_at=started_at)
        answer = _Answer(send, disclosure)
        try:
            principal = await self._authenticator.authenticate(headers)
            principal.require("chat")
            body = await _read(receive)
            turn = parse_chat(body, headers, request_id)
            disclosure.requested = turn.requested
            disclosure.dropped_params.extend(turn.dropped_params)
            work = self._work(turn, principal, body, headers.get("idempotency-key"), answer)
            await _unless_gone(receive, answer.keep_alive if turn.is_stream else None, work)
        except CallerGone:
            return
        except Exception as error:  # noqa: BLE001 - the front counts it; the caller gets the table's row
            await answer.fail(error)

    async def _work(
        self, turn: Turn, principal: Principal, body: bytes, key: str | None, answer: _Answer
    ) -> None:
        claim: Claim | None = None
        if key is not None:
            claimed = await self._claim(turn, principal, key, body, answer.disclosure)
            if isinstance(claimed, Outcome):
                await answer.replay(claimed)
                return
            claim = claimed
        outcome: Outcome | None = None
        try:
            with self._responder.in_flight():
                events = await self._responder.respond(turn, principal, answer.disclosure)
                async with aclosing(events):
                    if turn.is_stream:
                        outcome = await answer.stream(events, turn.include_usage, claim is not None)
                    else:
                        outcome = await answer.collect(events)
        finally:
            if claim is not None:
                await self._conclude(claim, outcome, answer.disclosure)
        await answer.finish(outcome)

    async def _claim(
        self, turn: Turn, principal: Principal, key: str, body: bytes, disclosure: Disclosure
    ) -> Claim | Outcome | None:
        tenant = principal.tenant.id
        try:
            return await self._idempotency.begin(
                tenant, "chat", key, body, turn.request_id, turn.subjects
            )
        except (RedisError, OSError, TimeoutError) as error:
            # "Done once" cannot be promised without Redis, and doing it twice costs money.
            if self._responder.must_refuse_without_ledger(principal.tenant):
                raise LedgerAway("idempotency keys cannot be checked") from error
            self._degradations.failed("idempotency", error, turn.request_id)
            disclosure.degraded.add("idempotency")
            return None

    async def _conclude(
        self, claim: Claim, outcome: Outcome | None, disclosure: Disclosure
    ) -> None:
        try:
            if outcome is None:
                await self._idempotency.abandon(claim)
            else:
                await self._idempotency.finish(claim, outcome)
        except (RedisError, OSError, TimeoutError) as error:
            self._degradations.failed("idempotency", error, disclosure.request_id)


class _Answer:
    """One HTTP answer on its way out: its start, its frames, its failure."""

    def __init__(self, send: Send, disclosure: Disclosure) -> None:
        self._send = send
        self.disclosure = disclosure
        self._is_stream = False
        self._has_started = False
        self._last_write_s = asyncio.get_running_loop().time()

    async def stream(self, events: Any, include_usage: bool, keep_frames: bool) -> Outcome | None:
        """Send the events as they come; return the whole stream where it must be kept.

        The final [DONE] is left to `finish`, so that an outcome is kept before it is acknowledged.
        """
        self._is_stream = True
        disclosure = self.disclosure
        frames = ChatFrames(disclosure.request_id, disclosure.started_at, disclosure)
        kept: list[bytes] = []
        held: list[bytes] = []
        async for event in events:
            if isinstance(event, ReplyDelta):
                data = frames.delta(event)
                if event.has_more:  # what arrived together leaves in one write
                    held.append(data)
                    continue
            elif isinstance(event, ReplyRestart):
                data = frames.restart()
            elif include_usage:
                data = frames.usage()
            else:
                continue
            if held:
                data = b"".join((*held, data))
                held.clear()
            if keep_frames:
                kept.append(data)
            await self._write(data)
        if not keep_frames:
            return None
        return self._outcome(_EVENT_STREAM, b"".join(kept) + DONE)

    async def collect(self, events: Any) -> Outcome:
        """Return the answer as one JSON object, unsent."""
        async for _ in events:  # the responder has collected them
            pass
        return self._outcome((_JSON,), orjson.dumps(completion_to_wire(self.disclosure)))

    async def finish(self, outcome: Outcome | None) -> None:
        """Send what completes the answer."""
        if self._is_stream:
            if not self._has_started:
                await self._start()
            await self._send({"type": "http.response.body", "body": DONE})
        elif outcome is not None:
            await self.replay(outcome)

    async def replay(self, outcome: Outcome) -> None:
        """Send a finished answer whole."""
        headers = [*outcome.headers, (b"content-length", b"%d" % len(outcome.body))]
        await self._send(
            {"type": "http.response.start", "status": outcome.status, "headers": headers}
        )
        await self._send({"type": "http.response.body", "body": outcome.body})

    async def fail(self, error: Exception) -> None:
        """Send the error: as a status when nothing has gone out, else as the last frame."""
        failure = http_error_of(error)
        if failure.code == "internal_error":
            log.error("unexpected failure in %s", self.disclosure.request_id, exc_info=error)
        if self._has_started:
            await self._send({"type": "http.response.body", "body": data_frame(failure.body())})
            return
        await send_error(self._send, failure, self.disclosure.headers())

    async def keep_alive(self) -> None:
        """Send a comment after every 10 s of silence; the first one opens the stream."""
        loop = asyncio.get_running_loop()
        while True:
            silence_s = loop.time() - self._last_write_s
            if silence_s < _SILENCE_S:
                await asyncio.sleep(_SILENCE_S - silence_s)
            else:
                await self._write(KEEP_ALIVE)

    async def _write(self, data: bytes) -> None:
        self._last_write_s = asyncio.get_running_loop().time()
        if not self._has_started:
            await self._start()
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def _start(self) -> None:
        self._has_started = True
        headers = [*_EVENT_STREAM, *self.disclosure.headers()]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    def _outcome(self, kind: tuple[tuple[bytes, bytes], ...], body: bytes) -> Outcome:
        return Outcome(status=200, headers=[*kind, *self.disclosure.headers()], body=body)


async def _read(receive: Receive) -> bytes:
    message = await receive()
    body: bytes = message.get("body", b"")
    while message.get("more_body"):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise CallerGone
        body += message.get("body", b"")
    return body


async def _unless_gone(
    receive: Receive,
    companion: Callable[[], Coroutine[Any, Any, None]] | None,
    work: Coroutine[Any, Any, None],
) -> None:
    """Await the work beside its companion; cancel it when the caller leaves.

    Neither the watch over the caller nor the companion begins before the patience is over: most
    answers that are not streamed, cached ones above all, are done by then.

    Raises:
        CallerGone: the caller left and the work has cleaned up.
    """
    loop, worker = asyncio.get_running_loop(), asyncio.current_task()
    beside: list[asyncio.Task[None]] = []
    is_gone = False

    async def watch() -> None:
        nonlocal is_gone
        while (await receive())["type"] != "http.disconnect":
            pass
        is_gone = True
        if worker is not None:
            worker.cancel()

    def begin() -> None:
        beside.append(loop.create_task(watch()))
        if companion is not None:
            beside.append(loop.create_task(companion()))

    timer = loop.call_later(_PATIENCE_S, begin)
    try:
        await work
    except asyncio.CancelledError:
        if not is_gone or worker is None or worker.uncancel():
            raise  # the server is stopping
        raise CallerGone from None
    finally:
        timer.cancel()
        for task in beside:
            task.cancel()
