from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.backends.base import Call, ReplyEnd
from gateway.backends.engine import EngineBackend, MissingBackend
from gateway.backends.openai import http_session
from gateway.errors import BackendUnavailable
from tests.fakes import until

CALL = Call("tiny", ({"role": "user", "content": "Hi"},), {}, True, "req_1", "scope", 20, 20, 20)
# Speaks as much of the engine's protocol as the gateway uses, and tells the scope it was given.
ENGINE = """
import sys
from aiohttp import web
token = sys.stdin.readline().strip()
async def health(request):
    is_ours = request.headers["Authorization"] == f"Bearer {token}"
    return web.Response(status=200 if is_ours else 401)
async def stats(request): return web.json_response({"predicted_ttft_s": 1.5, "queue": 3})
async def chat(request):
    choice = {"index": 0, "message": {"content": request.headers["x-turnwise-scope"]},
              "finish_reason": "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "busy_s": 0.5}
    return web.json_response({"choices": [choice], "usage": usage})
app = web.Application()
app.router.add_get("/health", health)
app.router.add_get("/stats", stats)
app.router.add_post("/v1/chat/completions", chat)
port = int(sys.argv[sys.argv.index("--port") + 1])
web.run_app(app, host="127.0.0.1", port=port, print=None)
"""


@asynccontextmanager
async def engine(tmp_path: Path, program: str = ENGINE) -> AsyncIterator[EngineBackend]:
    async with (
        http_session() as session,
        EngineBackend(
            "local",
            model="bundled",
            quantize="int8",
            session=session,
            state_dir=tmp_path,
            program=(sys.executable, "-c", program),
        ) as backend,
    ):
        yield backend


async def test_an_engine_that_starts_refuses_and_then_answers(tmp_path: Path) -> None:
    async with engine(tmp_path) as backend:
        for _ in range(20):  # asking too early is never held against it
            with pytest.raises(BackendUnavailable, match="starting"):
                await anext(backend.stream(CALL))
        assert await backend.health() == "starting"
        assert not backend.load().is_up
        await backend.child.wait_ready()
        delta, end = [event async for event in backend.stream(CALL)]
        assert await backend.health() == "ready"
    assert delta.content == "scope"
    assert isinstance(end, ReplyEnd) and end.busy_s == 0.5


async def test_the_engines_own_prediction_is_its_load(tmp_path: Path) -> None:
    async with engine(tmp_path) as backend:
        await backend.child.wait_ready()
        await until(lambda: backend.load().predicted_ttft_ms is not None)
        assert backend.load().predicted_ttft_ms == 1500


async def test_an_engine_that_dies_is_down_and_comes_back(tmp_path: Path) -> None:
    async with engine(tmp_path) as backend:
        await backend.child.wait_ready()
        assert backend.child.pid is not None
        os.kill(backend.child.pid, signal.SIGKILL)
        await until(lambda: backend.child.state == "down")
        with pytest.raises(BackendUnavailable, match="down"):
            await anext(backend.stream(CALL))
        assert await backend.health() == "degraded"
        await until(lambda: backend.child.state == "ready")
        assert [event async for event in backend.stream(CALL)]


async def test_a_backend_that_cannot_be_had_says_what_is_missing() -> None:
    backend = MissingBackend("local", "torch missing")
    with pytest.raises(BackendUnavailable, match="torch missing"):
        await anext(backend.stream(CALL))
    assert await backend.health() == "degraded"
    await backend.close()
