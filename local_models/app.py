"""The routes of the engine's HTTP server, as a raw ASGI application.

One request's life: parsed by `wire`, tokenized by `text`, queued by `engine_thread`; its pieces
come back through a mailbox and leave through `answer`. A client that leaves cancels its sequences.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from local_models.answer import Answer, Send, send_body, send_error, send_json
from local_models.config import EngineConfig
from local_models.defaults import GREEDY
from local_models.engine_thread import Asked, EngineThread, Mailbox, Reply
from local_models.errors import EngineStopped, QueueFull, RequestRefused
from local_models.grammar import Grammars, Mask
from local_models.metrics import prometheus_text
from local_models.sequence import SamplingParams
from local_models.text import ReplyText, TextCodec
from local_models.tool_calls import grammar_of
from local_models.wire import ChatRequest, parse_chat

if TYPE_CHECKING:
    from local_models.engine import Engine

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

MAX_BODY_BYTES = 8 << 20
TARGET_HEADER = b"x-turnwise-target-ttft-ms"
_LONGEST_TARGET_MS = 3_600_000


class _ClientLeft(Exception):
    """The socket closed; nothing is owed to anybody."""


@dataclass(slots=True)
class Service:
    """What the routes use; `engine` and `thread` are None until the model is loaded."""

    config: EngineConfig
    model_name: str
    codec: TextCodec | None = None
    engine: Engine | None = None
    thread: EngineThread | None = None
    grammars: Grammars | None = None
    sampling: SamplingParams = GREEDY
    token: str | None = None
    created: int = field(default_factory=lambda: int(time.time()))

    def ready(self) -> tuple[Engine, EngineThread, TextCodec]:
        """Return the parts of a loaded service.

        Raises:
            EngineStopped: still loading, or stopping.
        """
        if self.engine is None or self.thread is None or self.codec is None:
            raise EngineStopped("The model is still loading.")
        if not self.thread.is_alive:
            raise EngineStopped("The engine is stopping.")
        return self.engine, self.thread, self.codec


@dataclass(frozen=True, slots=True)
class Caller:
    """What the headers say: whose turn it is, and how soon its first token should come."""

    scope: str
    target_ttft_s: float | None


class App:
    """The ASGI application."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._routes: dict[tuple[str, str], Callable[[Scope, Receive, Send], Awaitable[None]]] = {
            ("POST", "/v1/chat/completions"): self._chat,
            ("GET", "/v1/models"): self._models,
            ("GET", "/health"): self._health,
            ("GET", "/stats"): self._stats,
            ("GET", "/metrics"): self._metrics,
            ("POST", "/tokenize"): self._tokenize,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; every failure becomes an OpenAI error body."""
        if scope["type"] != "http":
            return
        if not self._is_known(scope):
            text = "This engine answers to its own token alone."
            await send_error(send, 401, text, "authentication_error", "invalid_api_key")
            return
        route = self._routes.get((scope["method"], scope["path"]))
        try:
            if route is None:
                await send_error(send, 404, "No such route.", "invalid_request_error", "not_found")
            else:
                await route(scope, receive, send)
        except _ClientLeft:
            return
        except RequestRefused as error:
            kind = "invalid_request_error"
            await send_error(send, 400, str(error), kind, error.code, error.param)
        except QueueFull as error:
            wait = [(b"retry-after", str(max(1, round(error.retry_after_s))).encode())]
            await send_error(send, 429, str(error), "rate_limit_error", "queue_full", None, wait)
        except EngineStopped as error:
            await send_error(send, 503, str(error), "server_error", "engine_stopped")

    def _is_known(self, scope: Scope) -> bool:
        if self.service.token is None:
            return True
        given: bytes = dict(scope["headers"]).get(b"authorization", b"")
        return hmac.compare_digest(given, f"Bearer {self.service.token}".encode())

    async def _chat(self, scope: Scope, receive: Receive, send: Send) -> None:
        engine, thread, codec = self.service.ready()
        request = parse_chat(_json(await _body(receive)), self.service.sampling)
        if request.model not in ("", self.service.model_name, self.service.config.model):
            message = f"This server serves {self.service.model_name!r}."
            kind = "invalid_request_error"
            await send_error(send, 404, message, kind, "model_not_found", "model")
            return
        prompt = await _encode(codec, request)
        caller = _caller(dict(scope["headers"]))
        replies: list[Reply] = []
        mailbox = Mailbox()
        try:
            for at in range(request.n):
                asked = self._asked(codec, request, prompt, caller, at)
                replies.append(await thread.start(asked, mailbox, at))
            answer = Answer(self.service.model_name, codec, request, replies, mailbox, send)
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(_leave_with(receive))
                await answer.send_all()
                watch.cancel()
        except* _ClientLeft:
            pass  # nothing is owed to anybody
        finally:
            for reply in replies:
                if reply.sequence is not None and reply.sequence.finish is None:
                    with contextlib.suppress(EngineStopped):
                        thread.cancel(reply)

    def _asked(
        self, codec: TextCodec, request: ChatRequest, prompt: list[int], caller: Caller, at: int
    ) -> Asked:
        params = request.params
        if at and params.seed is not None:
            # Choices of one request differ, and repeat when the request does.
            params = replace(params, seed=params.seed + at)
        text = ReplyText(codec, request.stops, self._mask(codec, request))
        return Asked(
            prompt,
            params,
            text,
            request.max_new_tokens,
            caller.scope,
            request.timeout_s,
            caller.target_ttft_s,
        )

    def _mask(self, codec: TextCodec, request: ChatRequest) -> Mask | None:
        """Return what holds the reply to the calls or the schema that were asked for, if any."""
        grammars = self.service.grammars
        if grammars is None or (request.schema is None and not request.must_call):
            return None
        if not request.tools:
            return grammars.of_schema(request.schema)
        schema = None if request.must_call else request.schema
        many = request.many_calls
        return grammars.of_grammar(
            grammar_of(request.tools, codec.tool_form, many=many, schema=schema)
        )

    async def _models(self, scope: Scope, receive: Receive, send: Send) -> None:
        engine, _, _ = self.service.ready()
        model = {
            "id": self.service.model_name,
            "object": "model",
            "created": self.service.created,
            "owned_by": "turnwise",
            "context_window": engine.context_tokens,
            "is_demonstration": self.service.config.model == "bundled",
        }
        await send_json(send, 200, {"object": "list", "data": [model]})

    async def _health(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.service.ready()
        await send_json(send, 200, {"status": "ok", "model": self.service.model_name})

    async def _stats(self, scope: Scope, receive: Receive, send: Send) -> None:
        engine, thread, _ = self.service.ready()
        snapshot = engine.stats.snapshot(engine.scheduler)
        snapshot |= {"model": self.service.model_name, "failed_steps": thread.n_failed_steps}
        await send_json(send, 200, snapshot)

    async def _metrics(self, scope: Scope, receive: Receive, send: Send) -> None:
        engine, _, _ = self.service.ready()
        text = prometheus_text(engine.stats, engine.scheduler, self.service.model_name)
        await send_body(send, 200, text.encode(), b"text/plain; version=0.0.4; charset=utf-8")

    async def _tokenize(self, scope: Scope, receive: Receive, send: Send) -> None:
        _, _, codec = self.service.ready()
        body = _json(await _body(receive))
        if isinstance(body, dict) and isinstance(body.get("text"), str):
            tokens = await asyncio.to_thread(codec.encode, body["text"])
        elif isinstance(body, dict) and "messages" in body:
            tokens = await _encode(codec, parse_chat({"messages": body["messages"]}))
        else:
            raise RequestRefused("Give text or messages.", code="invalid_value", param="text")
        await send_json(send, 200, {"tokens": len(tokens)})


def _caller(headers: Mapping[bytes, bytes]) -> Caller:
    scope = headers.get(b"x-turnwise-scope", b"").decode("latin-1")
    text = headers.get(TARGET_HEADER)
    if text is None:
        return Caller(scope, None)
    if not text.isdigit() or not 1 <= int(text) <= _LONGEST_TARGET_MS:
        name = TARGET_HEADER.decode()
        raise RequestRefused(
            f"{name} is a whole number of ms from 1 to {_LONGEST_TARGET_MS}.",
            code="invalid_value",
            param=name,
        )
    return Caller(scope, int(text) / 1000)


async def _leave_with(receive: Receive) -> None:
    """Wait until the client closes its side.

    Raises:
        _ClientLeft: it did; the task group then cancels the answer.
    """
    while (await receive())["type"] != "http.disconnect":
        pass
    raise _ClientLeft


async def _encode(codec: TextCodec, request: ChatRequest) -> list[int]:
    """Return the prompt's tokens; a long text is tokenized beside the event loop."""
    size = sum(len(str(message.get("content"))) for message in request.messages)
    if size > 4096:
        return await asyncio.to_thread(codec.encode_chat, request.messages, request.tools)
    return codec.encode_chat(request.messages, request.tools)


async def _body(receive: Receive) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _ClientLeft
        part = message.get("body", b"")
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise RequestRefused("The body is too large.", code="request_too_large")
        parts.append(part)
        if not message.get("more_body"):
            return b"".join(parts)


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError as error:
        raise RequestRefused(f"The body is no JSON: {error}.", code="invalid_json") from error
