"""Gateways as processes of their own, ended politely and killed: what stays, and who goes along."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import psutil
import pytest
from aiohttp import web

from gateway.idempotency import LEASE_S
from tests.fakes import until

KEY = "process-key-0123456789"
AUTH = {"authorization": f"Bearer {KEY}"}
CONFIGURATION = """
redis: {{url: "{redis}"}}
backends: {{near: {{kind: openai, base_url: "{upstream}/v1", region: on_premises}}}}
models:
  local-small: {{backend: near, name: near-1, context_tokens: 2048,
                price: {{input_usd_per_mtok: "1", output_usd_per_mtok: "2"}}}}
  strong: {{backend: near, name: near-2, context_tokens: 2048,
           price: {{input_usd_per_mtok: "1", output_usd_per_mtok: "2"}}}}
tenants: {{demo: {{keys: [{key}]}}}}
"""
ANSWER = {
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1},
}
CHUNK = b'data: {"choices": [{"index": 0, "delta": {"content": "on "}}]}\n\n'


@dataclass
class Upstream:
    """A server of OpenAI's kind: it streams without end, and answers whole when it may."""

    url: str = ""
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)
    n_calls: int = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.n_calls += 1
        if not (await request.json()).get("stream"):
            await self.may_answer.wait()
            return web.json_response(ANSWER)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(CHUNK)
                await asyncio.sleep(0.05)
        return response


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    upstream = Upstream()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", upstream.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    upstream.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield upstream
    await runner.cleanup()


class Served:
    """A `turnwise serve` in a folder."""

    def __init__(self, folder: Path, configuration: str) -> None:
        self.folder = folder
        (folder / "turnwise.yaml").write_text(configuration, encoding="utf-8")
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, workers: int = 1) -> subprocess.Popen[bytes]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "gateway", "serve", "--port", str(port)]
        command += ["--config", str(self.folder / "turnwise.yaml"), "--workers", str(workers)]
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        self._started.append(process)
        return process

    async def is_ready(self) -> bool:
        try:
            async with (
                aiohttp.ClientSession() as client,
                client.get(f"{self.url}/readyz") as answer,
            ):
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    def close(self) -> None:
        for process in self._started:
            with contextlib.suppress(psutil.NoSuchProcess):
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
            process.kill()
            process.wait()


@pytest.fixture
def folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="tw-"))  # a socket's path must be short
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def embedded(folder: Path, upstream: Upstream) -> Iterator[Served]:
    served = Served(folder, CONFIGURATION.format(redis="embedded", upstream=upstream.url, key=KEY))
    yield served
    served.close()


@pytest.fixture
def on_redis(folder: Path, upstream: Upstream, redis_server: Path, redis) -> Iterator[Served]:
    url = f"unix://{redis_server}"
    served = Served(folder, CONFIGURATION.format(redis=url, upstream=upstream.url, key=KEY))
    yield served
    served.close()


def chat(client: aiohttp.ClientSession, served: Served, **body):
    return client.post(
        f"{served.url}/v1/chat/completions",
        json={"model": "auto", "messages": [{"role": "user", "content": "hello"}], **body},
        headers={**AUTH, "idempotency-key": "k", "x-turnwise-conversation-id": "talk"},
    )


@pytest.mark.slow
async def test_a_turn_whose_gateway_was_killed_is_asked_again_when_its_lease_is_over(
    on_redis: Served, upstream: Upstream, redis
) -> None:
    process = on_redis.start()
    await until(on_redis.is_ready, 60)
    async with aiohttp.ClientSession() as client:
        asked = asyncio.ensure_future(chat(client, on_redis))
        await until(lambda: upstream.n_calls == 1)
        process.kill()
        with pytest.raises(aiohttp.ClientError):
            await asked
        upstream.may_answer.set()
        on_redis.start()
        await until(on_redis.is_ready, 60)
        async with chat(client, on_redis) as answer:
            assert answer.status == 409
        [key] = [key async for key in redis.scan_iter("*:idem:*")]
        assert 0 < await redis.pttl(key) <= LEASE_S * 1000
        await redis.pexpire(key, 1)  # as those seconds do

        async def is_over() -> bool:
            return not await redis.exists(key)

        await until(is_over)
        async with chat(client, on_redis) as answer:
            assert answer.status == 200
        url = f"{on_redis.url}/v1/conversations/talk/items?order=asc"
        async with client.get(url, headers=AUTH) as answer:
            items = (await answer.json())["data"]
    assert [item["content"] for item in items] == ["hello", "Hi"]
    assert upstream.n_calls == 2


@pytest.mark.slow
async def test_workers_and_children_end_soon_after_their_parent_was_killed(
    embedded: Served,
) -> None:
    parent = embedded.start(workers=2)
    await until(embedded.is_ready, 60)
    family = psutil.Process(parent.pid).children(recursive=True)
    assert any("redis" in each.name() for each in family)
    async with aiohttp.ClientSession() as client, chat(client, embedded, stream=True) as answer:
        await answer.content.readany()
        parent.kill()
        parent.wait()
        await until(lambda: not any(each.is_running() for each in family), 8)


@pytest.mark.slow
async def test_a_gateway_that_is_asked_to_end_stops_its_redis_and_books_what_was_settled(
    embedded: Served, upstream: Upstream
) -> None:
    upstream.may_answer.set()
    process = embedded.start()
    await until(embedded.is_ready, 60)
    async with aiohttp.ClientSession() as client, chat(client, embedded) as answer:
        assert answer.status == 200
    process.send_signal(signal.SIGTERM)
    await until(lambda: process.poll() is not None)
    assert process.returncode == 0
    state = embedded.folder / ".turnwise"
    assert "bye bye" in (state / "redis.log").read_text()
    with contextlib.closing(sqlite3.connect(state / "ledger.db")) as ledger:
        assert ledger.execute("SELECT count(*) FROM entries").fetchone() == (1,)
