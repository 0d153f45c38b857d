"""Local now, local queued, or elsewhere: a gateway whose engine is loaded over HTTP.

    python -m benchmarks.engine.overflow

A real gateway with the bundled engine as small tier and a simulated strong tier, and a policy whose
first token must come within 400 ms. Easy turns are asked one by one before, while and after other
callers keep the engine busy; the tier that served each is counted.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import yaml

ROOT = Path(__file__).parents[2]
KEY = "tw-overflow-benchmark-key-of-enough-length"
CONFIG = """
backends:
  local: {kind: engine, model: bundled}
  practice: {kind: simulated}
models:
  local-small:
    {backend: local, name: bundled, context_tokens: 2048, price: {busy_second_usd: "0.001"}}
  strong:
    backend: practice
    name: simulated
    context_tokens: 100000
    price: {input_usd_per_mtok: "1", output_usd_per_mtok: "1"}
tenants: {demo: {policy: overflow, keys: [env:OVERFLOW_KEY]}}
"""
POLICY = """
routing:
  tiers: {small: [local-small], strong: [strong]}
  thresholds: {strong: 0.99}
  target_ttft_ms: 400
cache: {exact: false}
"""
EASY = {"model": "auto", "messages": [{"role": "user", "content": "Hi there!"}], "max_tokens": 4}
LONG = {
    "model": "local-small",
    "messages": [{"role": "user", "content": "Tell me about delivery. " * 100}],
    "max_tokens": 1200,
}
N_BUSY = 64


class Asker:
    """Talks to one gateway."""

    def __init__(self, root: str, http: aiohttp.ClientSession) -> None:
        self._url, self._http = f"{root}/v1/chat/completions", http

    async def ask(self, body: dict[str, Any]) -> tuple[str, str]:
        """Return the tier that answered and why it was chosen."""
        headers = {"Authorization": f"Bearer {KEY}"}
        async with self._http.post(self._url, json=body, headers=headers) as response:
            await response.read()
            tier = response.headers.get("x-turnwise-tier", str(response.status))
            return tier, response.headers.get("x-turnwise-reason", "")

    async def forever(self, body: dict[str, Any]) -> None:
        """Ask again and again, until cancelled."""
        while True:
            await self.ask(body)

    async def easy(self, n: int) -> Counter[tuple[str, str]]:
        """Return how many of n easy turns each tier answered, and why."""
        found: Counter[tuple[str, str]] = Counter()
        for _ in range(n):
            found[await self.ask(EASY)] += 1
            await asyncio.sleep(0.15)
        return found


async def until_local(asker: Asker, within_s: float) -> None:
    async with asyncio.timeout(within_s):
        while True:
            try:
                if (await asker.ask(EASY))[0] == "small":
                    return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.5)


async def measure(root: str) -> bool:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=300)) as http:
        asker = Asker(root, http)
        await until_local(asker, 90)
        before = await asker.easy(10)
        async with asyncio.TaskGroup() as group:
            flood = [group.create_task(asker.forever(LONG)) for _ in range(N_BUSY)]
            await asyncio.sleep(3)
            during = await asker.easy(10)
            for each in flood:
                each.cancel()
        await asyncio.sleep(1)
        await until_local(asker, 60)
        after = await asker.easy(10)
    for name, found in (
        ("before", before),
        (f"while {N_BUSY} callers keep it busy", during),
        ("after", after),
    ):
        told = ", ".join(f"{tier} ({why}) {n}" for (tier, why), n in found.items())
        print(f"| {name} | {told} |")
    moved = sum(n for (tier, _), n in during.items() if tier == "strong")
    stayed = sum(n for (tier, _), n in (before + after).items() if tier == "small")
    return moved >= 8 and stayed >= 18


def main() -> int:
    """Run it; return 1 when turns did not move, or did not come back."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        config = yaml.safe_load(CONFIG) | {"server": {"port": port}}
        (folder / "turnwise.yaml").write_text(yaml.safe_dump(config))
        (folder / "policies").mkdir()
        (folder / "policies" / "overflow.yaml").write_text(POLICY)
        command = [
            sys.executable,
            "-m",
            "gateway",
            "serve",
            "--config",
            str(folder / "turnwise.yaml"),
        ]
        environ = os.environ | {"OVERFLOW_KEY": KEY, "PYTHONPATH": str(ROOT)}
        with (folder / "log").open("wb") as log:
            gateway = subprocess.Popen(command, cwd=folder, env=environ, stdout=log, stderr=log)
            try:
                good = asyncio.run(measure(f"http://127.0.0.1:{port}"))
            finally:
                gateway.send_signal(signal.SIGTERM)
                gateway.wait(30)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
