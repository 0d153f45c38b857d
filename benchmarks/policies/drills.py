"""Timed drills on real processes: a policy change, and a gateway killed with money in hand.

    python -m benchmarks.policies.drills [live] [killed] [--puts 50]

*live*: four workers, up to eighty turns a second all the while. A policy is put with `wait=live`,
again and again; printed is how long that took. Afterwards no worker may serve the one before, and
no turn may have gone by half of two: each policy has a ceiling and a rate of its own.

*killed*: a gateway is killed with SIGKILL in the middle of a stream and started again. Printed is
how long its hold outlived it, and what the ledger says of the turn.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

KEY, ADMIN_KEY = "drill-key-0123456789", "drill-admin-key-0123456789"
CONFIGURATION = """
server: {{workers: {workers}}}
backends:
  near: {{kind: openai, base_url: "{upstream}"}}
models:
  small: {{backend: near, name: s, context_tokens: 4096,
           price: {{input_usd_per_mtok: "1", output_usd_per_mtok: "2"}}}}
  strong: {{backend: near, name: t, context_tokens: 4096,
            price: {{input_usd_per_mtok: "10", output_usd_per_mtok: "20"}}}}
tenants: {{demo: {{policy: own, keys: [{key}]}}}}
"""
POLICY = """
routing: {{tiers: {{small: [small], strong: [strong]}}, thresholds: {{strong: 0.5}},
          ceiling: {ceiling}}}
limits: {{requests_per_minute: {rate}}}
budget: {{limit: "100 USD"}}
cache: {{exact: false}}
"""
PATH = "/admin/tenants/demo/policy"


def policy(number: int) -> str:
    """Return the policy of a version: odd ones have the low ceiling and the lower rate."""
    is_odd = number % 2 == 1
    return POLICY.format(
        ceiling="small" if is_odd else "strong", rate=900_001 if is_odd else 900_002
    )


async def _answer(request: web.Request) -> web.StreamResponse:
    """Answer as an OpenAI server; a stream says one word and then nothing for ten minutes."""
    body = await request.json()
    base = {"id": "c", "object": "chat.completion", "created": 1, "model": body["model"]}
    if not body.get("stream"):
        message = {"role": "assistant", "content": "Hello"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}
        return web.json_response({**base, "choices": [choice], "usage": usage})
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    await response.write(
        b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"t","choices":'
        b'[{"index":0,"delta":{"role":"assistant","content":"Hello"},"finish_reason":null}]}\n\n'
    )
    await asyncio.sleep(600)
    return response


@asynccontextmanager
async def upstream() -> AsyncIterator[str]:
    """Run the upstream and yield its base URL."""
    app = web.Application()
    app.router.add_post("/v1/chat/completions", _answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


class Gateway:
    """A gateway as one starts it, in a folder of its own, and a client of it."""

    def __init__(self, folder: Path, base_url: str, workers: int) -> None:
        (folder / "policies").mkdir()
        (folder / "policies" / "own.yaml").write_text(policy(0), encoding="utf-8")
        text = CONFIGURATION.format(workers=workers, upstream=base_url, key=KEY)
        self._file = folder / "turnwise.yaml"
        self._file.write_text(text, encoding="utf-8")
        self._log = folder / "gateway.log"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it with what it starts, in a group of processes that can be killed at once."""
        command = [sys.executable, "-m", "gateway", "serve", "--port", str(self._port)]
        command += ["--config", str(self._file)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "TURNWISE_ADMIN_KEY": ADMIN_KEY},
            )

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to every process of it."""
        if self._process is not None:
            os.killpg(self._process.pid, number)
            self._process.wait()
            self._process = None

    async def wait_ready(self, client: aiohttp.ClientSession) -> None:
        """Return when it answers."""
        async with asyncio.timeout(90):
            while True:
                try:
                    async with client.get(f"{self.url}/readyz") as answer:
                        if answer.status == 200:
                            return
                except (aiohttp.ClientError, OSError):
                    pass
                await asyncio.sleep(0.1)


@asynccontextmanager
async def gateway(workers: int) -> AsyncIterator[Gateway]:
    """Run a gateway over the slow upstream."""
    async with upstream() as base_url:
        with tempfile.TemporaryDirectory(prefix="tw-") as folder:
            running = Gateway(Path(folder), base_url, workers)
            running.start()
            try:
                yield running
            finally:
                running.kill(signal.SIGTERM)


def client() -> aiohttp.ClientSession:
    """Return a client that takes a new connection each time, so that every worker is met."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(force_close=True),
        headers={"authorization": f"Bearer {KEY}"},
    )


async def ask(http: aiohttp.ClientSession, url: str) -> tuple[int, str]:
    """Return the version a turn went by, and what was of another one ('' for nothing)."""
    body = {"model": "auto:best", "messages": [{"role": "user", "content": "hello"}]}
    async with http.post(f"{url}/v1/chat/completions", json=body) as answer:
        await answer.read()
        headers = answer.headers
        version = int(headers["x-turnwise-policy"].partition("@")[2])
        is_odd = version % 2 == 1
        tier, rate = ("small", "900001") if is_odd else ("strong", "900002")
        # On a machine that is too busy a turn goes without its limits, and says so.
        found = headers["x-turnwise-tier"], headers.get("x-ratelimit-limit-requests", rate)
        return version, "" if found == (tier, rate) else f"version {version} but {found}"


async def drill_live(n_puts: int) -> bool:
    """Print how long a change takes to be live on four workers; return whether all was whole."""
    waits_ms: list[float] = []
    halves: list[str] = []
    n_stale = n_turns = n_behind = 0
    async with gateway(4) as running, client() as http:
        await running.wait_ready(http)
        is_done = asyncio.Event()

        async def go_on() -> int:
            n = 0
            while not is_done.is_set():
                _, half = await ask(http, running.url)
                halves.extend([half] if half else [])
                n += 1
                await asyncio.sleep(0.05)
            return n

        asking = [asyncio.ensure_future(go_on()) for _ in range(4)]
        auth = {"authorization": f"Bearer {ADMIN_KEY}"}
        replicas: set[str] = set()
        for number in range(1, n_puts + 1):
            started_s = time.perf_counter()
            async with http.put(
                f"{running.url}{PATH}?wait=live", data=policy(number), headers=auth
            ) as answer:
                said: dict[str, Any] = await answer.json()
            waits_ms.append((time.perf_counter() - started_s) * 1000)
            replicas |= set(said["live_on"])
            n_behind += len(said["behind"])
            after = await asyncio.gather(*(ask(http, running.url) for _ in range(16)))
            n_stale += sum(version != said["version"] for version, _ in after)
            halves += [half for _, half in after if half]
        is_done.set()
        n_turns = sum(await asyncio.gather(*asking)) + 16 * n_puts
    rising = sorted(waits_ms)
    print(
        f"live: {n_puts} changes on {len(replicas)} workers with turns all the while: median "
        f"{statistics.median(rising):.0f} ms, 95 % within {rising[int(0.95 * (n_puts - 1))]:.0f} "
        f"ms, at most {rising[-1]:.0f} ms; {n_behind} replicas behind, {n_stale} of {16 * n_puts} "
        f"turns afterwards by an older version, {len(halves)} of {n_turns} turns by two versions"
    )
    return not halves and not n_stale and not n_behind


async def drill_killed() -> bool:
    """Print how long a hold outlives its gateway; return whether the ledger is complete."""
    async with gateway(1) as running, client() as http:
        await running.wait_ready(http)

        async def budget() -> dict[str, Any]:
            async with http.get(f"{running.url}/v1/budget") as answer:
                return dict(await answer.json())

        body = {
            "model": "strong",
            "stream": True,
            "messages": [{"role": "user", "content": "hello"}],
        }
        async with http.post(f"{running.url}/v1/chat/completions", json=body) as answer:
            request_id = answer.headers["x-request-id"]
            await answer.content.readuntil(b"Hello")
            held_micro = (await budget())["reserved_micro"]
            running.kill()
        killed_s = time.perf_counter()
        running.start()
        await running.wait_ready(http)
        at_start = (await budget())["reserved_micro"]
        state = await budget()
        while state["reserved_micro"]:
            await asyncio.sleep(0.5)
            state = await budget()
        outlived_s = time.perf_counter() - killed_s
        async with http.get(f"{running.url}/v1/turns/{request_id}") as answer:
            turn = await answer.json()
        print(
            f"killed: {held_micro / 1e6:.4f} USD were held, {at_start / 1e6:.4f} after the new "
            f"start, none {outlived_s:.0f} s after the kill; the turn is {turn['status']}, "
            f"{len(turn['attempts'])} attempt of {turn['cost_micro']} micro-USD, "
            f"{state['settled_micro']} settled"
        )
        return bool(
            held_micro
            and outlived_s < 120
            and turn["status"] == "failed"
            and turn["cost_micro"] == state["settled_micro"]
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("drills", nargs="*", default=["live", "killed"])
    parser.add_argument("--puts", type=int, default=50)
    asked = parser.parse_args()
    is_well = True
    if "live" in asked.drills:
        is_well &= asyncio.run(drill_live(asked.puts))
    if "killed" in asked.drills:
        is_well &= asyncio.run(drill_killed())
    sys.exit(not is_well)


if __name__ == "__main__":
    main()
