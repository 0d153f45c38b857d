"""The whole gateway in this process, over real HTTP, with scripted backends and a real Redis."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import aiohttp
import pytest
import uvicorn

from gateway.app import build_app, open_services
from gateway.backends.base import ReplyDelta, ReplyEnd
from gateway.services import Services
from gateway.settings import RedisSettings, Settings, load_settings
from policies.usage import Usage

ADMIN_KEY = "an-admin-key-for-tests"
CONFIGURATION = """
backends:
  near: {kind: simulated, region: on_premises}
  far: {kind: simulated}
models:
  local-small: {backend: near, name: near-1, context_tokens: 2048,
                price: {input_usd_per_mtok: "1", output_usd_per_mtok: "2"}}
  strong: {backend: far, name: far-1, context_tokens: 100000,
           price: {input_usd_per_mtok: "10", output_usd_per_mtok: "20"}}
tenants:
  demo: {policy: default, currency: INR, timezone: Asia/Kolkata, keys: [demo-key-0123456789]}
  other: {policy: default, currency: USD, timezone: UTC, keys: [other-key-0123456789]}
fx: {USD_INR: [{from: 2020-01-01, rate: "80"}]}
"""


class ScriptedBackend:
    """Yields the events of its script; exceptions are raised, numbers are waits in seconds."""

    def __init__(self, *script):
        self.script = list(script) or text_reply("Hello there")
        self.calls = []
        self.n_aborted = 0

    async def stream(self, call):
        self.calls.append(call)
        is_done = False
        try:
            for step in self.script:
                if isinstance(step, BaseException):
                    raise step
                if isinstance(step, int | float):
                    await asyncio.sleep(step)
                else:
                    is_done = isinstance(step, ReplyEnd)
                    yield step
        finally:
            self.n_aborted += not is_done

    async def close(self):
        pass


def text_reply(*pieces, usage=None):
    """Return the script of an answer in pieces, one choice, stopped by itself."""
    deltas = [ReplyDelta(content=piece) for piece in pieces]
    end = ReplyEnd(usage or Usage(input_tokens=10, output_tokens=len(pieces)))
    return [*deltas, ReplyDelta(finish_reason="stop"), end]


@dataclass
class Gateway:
    """A running gateway and a client for it."""

    url: str
    services: Services
    client: aiohttp.ClientSession
    near: ScriptedBackend
    far: ScriptedBackend
    key: str = "demo-key-0123456789"
    headers: dict = field(default_factory=dict)

    def auth(self, key=None, **headers):
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return {"authorization": f"Bearer {key or self.key}", **names}

    async def chat(self, text="hello", *, key=None, headers=None, **body):
        """Return status, headers and JSON of one chat request that is not streamed."""
        body.setdefault("messages", [{"role": "user", "content": text}])
        body.setdefault("model", "auto:fast")
        return await self.post("/v1/chat/completions", body, key=key, headers=headers)

    async def post(self, path, body, *, key=None, headers=None, method="POST"):
        async with self.client.request(
            method, self.url + path, json=body, headers={**self.auth(key), **(headers or {})}
        ) as response:
            return response.status, response.headers, await response.json()

    async def get(self, path, *, key=None):
        async with self.client.get(self.url + path, headers=self.auth(key)) as response:
            return response.status, response.headers, await response.json()

    async def admin(self, method, path, body=None, headers=None):
        auth = {"authorization": f"Bearer {ADMIN_KEY}", **(headers or {})}
        async with self.client.request(
            method, self.url + path, json=body, headers=auth
        ) as response:
            return response.status, response.headers, await response.json()

    async def stream(self, text="hello", *, headers=None, **body):
        """Return status, headers and the raw text of one streamed chat request."""
        body = {
            "messages": [{"role": "user", "content": text}],
            "model": "auto:fast",
            "stream": True,
            **body,
        }
        async with self.client.post(
            self.url + "/v1/chat/completions", json=body, headers={**self.auth(), **(headers or {})}
        ) as response:
            return response.status, response.headers, await response.text()

    async def turn(self, request_id):
        return (await self.get(f"/v1/turns/{request_id}"))[2]


@pytest.fixture
def settings(tmp_path: Path, redis_server: Path) -> Settings:
    file = tmp_path / "turnwise.yaml"
    file.write_text(CONFIGURATION, encoding="utf-8")
    loaded = load_settings(file, {"TURNWISE_ADMIN_KEY": ADMIN_KEY})
    return replace(loaded, redis=RedisSettings(url=f"unix://{redis_server}"))


@contextlib.asynccontextmanager
async def running(settings: Settings, near=None, far=None) -> AsyncIterator[Gateway]:
    near, far = near or ScriptedBackend(), far or ScriptedBackend()
    async with open_services(settings, backends={"near": near, "far": far}) as services:
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        config = uvicorn.Config(build_app(services), lifespan="off", log_config=None)
        server = uvicorn.Server(config)
        server.capture_signals = contextlib.nullcontext
        serving = asyncio.ensure_future(server.serve([listening]))
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        try:
            async with aiohttp.ClientSession() as client:
                yield Gateway(url, services, client, near, far)
        finally:
            server.should_exit = True
            await serving
            listening.close()


@pytest.fixture
async def gateway(settings: Settings, redis) -> AsyncIterator[Gateway]:
    async with running(settings) as started:
        yield started
