"""What a live engine does with bad input, bad clients and bad luck: real processes, real sockets.

    python -m benchmarks.engine.drills

Every drill ends with an ordinary request that must be answered. Prints one line for each; the exit
status is 1 when any fails.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import torch

from benchmarks.engine.run import build
from local_models.config import EngineConfig
from local_models.engine import Engine
from local_models.sequence import SamplingParams
from local_models.shape import load_shape
from local_models.store import BUNDLED

ROOT = Path(__file__).parents[2]
HELLO = [{"role": "user", "content": "Tell me about your return policy."}]
LONG = {"messages": HELLO, "max_tokens": 1500, "ignore_eos": True, "stream": True}
CANCELLED_MS = 100


class Failed(Exception):
    """A drill did not go as it must."""


class Live:
    """A running engine and a session to talk to it."""

    def __init__(self, root: str, process: subprocess.Popen[bytes], http: Any) -> None:
        self.root, self.process, self.http = root, process, http

    async def ask(self, body: Any, scope: str = "") -> tuple[int, Any]:
        """Return status and body of one chat request."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        url, headers = f"{self.root}/v1/chat/completions", {"x-turnwise-scope": scope}
        async with self.http.post(url, data=data, headers=headers) as response:
            return response.status, await response.json()

    async def stats(self) -> dict[str, Any]:
        """Return what /stats says."""
        async with self.http.get(f"{self.root}/stats") as response:
            found: dict[str, Any] = await response.json()
            return found

    async def must_answer(self) -> None:
        """Fail unless an ordinary request of somebody else's is answered."""
        status, body = await self.ask({"messages": HELLO, "max_tokens": 8}, scope="other")
        if status != 200 or not body["choices"][0]["message"]["content"]:
            raise Failed(f"the next request got {status}: {body}")

    async def idle(self, within_s: float = 5.0) -> float:
        """Return how long it took until nothing ran and no page was held, in seconds."""
        started = time.perf_counter()
        while time.perf_counter() - started < within_s:
            stats = await self.stats()
            if not stats["running"] and not stats["queue"] and not stats["pages"]["used"]:
                return time.perf_counter() - started
        raise Failed(f"still busy after {within_s} s: {stats}")

    def rss_mb(self) -> float:
        """Return the resident memory of the process."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 1e6


def start(*arguments: str, limit_bytes: int | None = None) -> tuple[str, subprocess.Popen[bytes]]:
    port = random.randrange(20_000, 30_000)

    def limit() -> None:
        if limit_bytes is not None:
            resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))

    process = subprocess.Popen(
        [sys.executable, "-m", "local_models.server", "--port", str(port), *arguments],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        preexec_fn=limit,
    )
    return f"http://127.0.0.1:{port}", process


@asynccontextmanager
async def live(*arguments: str) -> Any:
    root, process = start(*arguments)
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(timeout=timeout) as http:
        try:
            for _ in range(600):
                try:
                    async with http.get(f"{root}/health") as response:
                        if response.status == 200:
                            break
                except aiohttp.ClientError:
                    await asyncio.sleep(0.1)
            yield Live(root, process, http)
        finally:
            process.kill()
            process.communicate()


def refused(status: int, code: str, **fields: Any) -> Callable[[Live], Awaitable[str]]:
    async def drill(engine: Live) -> str:
        found, body = await engine.ask({"messages": HELLO} | fields)
        if (found, body["error"]["code"]) != (status, code):
            raise Failed(f"{found}: {body}")
        return f"{status} {code}"

    return drill


async def no_json(engine: Live) -> str:
    status, body = await engine.ask(b"{")
    if (status, body["error"]["code"]) != (400, "invalid_json"):
        raise Failed(f"{status}: {body}")
    return "400 invalid_json"


def within(times_s: list[float]) -> str:
    usual, worst = 1e3 * statistics.median(times_s), 1e3 * max(times_s)
    if worst > CANCELLED_MS:
        raise Failed(f"generation went on for {worst:.0f} ms (median {usual:.0f})")
    return f"{len(times_s)} clients left; nothing ran after {worst:.0f} ms (median {usual:.0f})"


async def cancelled_at_every_step(engine: Live) -> str:
    times = []
    for n_frames in range(30):
        async with engine.http.post(f"{engine.root}/v1/chat/completions", json=LONG) as response:
            for _ in range(n_frames):
                await response.content.readuntil(b"\n\n")
            response.close()
        times.append(await engine.idle())
    return within(times)


async def cancelled_in_a_long_prompt(engine: Live) -> str:
    rng = random.Random(5)
    times = []
    for at in range(30):
        words = " ".join(rng.choice(("order", "refund", "parcel", "late")) for _ in range(1500))
        body = LONG | {"messages": [{"role": "user", "content": words}], "max_tokens": 64}
        asked = asyncio.ensure_future(engine.ask(json.dumps(body | {"stream": False}).encode()))
        # The prompt alone takes about a second: most leave inside it, the last ones after it.
        await asyncio.sleep(0.05 * (at + 1))
        asked.cancel()
        times.append(await engine.idle())
        await asyncio.gather(asked, return_exceptions=True)
    return within(times)


async def slow_reader(engine: Live) -> str:
    body = LONG | {"n": 8, "logprobs": True, "top_logprobs": 20}
    before = engine.rss_mb()
    async with engine.http.post(f"{engine.root}/v1/chat/completions", json=body) as response:
        await response.content.readuntil(b"\n\n")
        await engine.must_answer()
        await asyncio.sleep(5)
        grown = engine.rss_mb() - before
        await engine.must_answer()
        response.close()
    await engine.idle()
    if grown > 200:
        raise Failed(f"{grown:.0f} MB for one slow reader")
    return f"others answered; {grown:.0f} MB more for eight choices with 20 logprobs, unread"


async def full_queue(engine: Live) -> str:
    body = LONG | {"stream": False, "max_tokens": 200}

    async def one() -> tuple[int, str | None]:
        url = f"{engine.root}/v1/chat/completions"
        async with engine.http.post(url, json=body) as response:
            await response.read()
            return response.status, response.headers.get("retry-after")

    found = await asyncio.gather(*[one() for _ in range(40)])
    n_refused = sum(status == 429 for status, _ in found)
    if not n_refused or any(status == 429 and not wait for status, wait in found):
        raise Failed(str(found))
    if any(status not in (200, 429) for status, _ in found):
        raise Failed(str(found))
    return f"{40 - n_refused} answered, {n_refused} told 429 with retry-after"


async def read_to_end(engine: Live) -> str:
    try:
        async with engine.http.post(f"{engine.root}/v1/chat/completions", json=LONG) as response:
            body = await response.read()
    except aiohttp.ClientError:
        return "cut"
    return "done" if b"[DONE]" in body else "error frame" if b'"error"' in body else "cut"


async def ended_by(number: signal.Signals, engine: Live) -> str:
    readers = [asyncio.ensure_future(read_to_end(engine)) for _ in range(8)]
    await asyncio.sleep(0.3)
    started = time.perf_counter()
    engine.process.send_signal(number)
    found = await asyncio.wait_for(asyncio.gather(*readers), 20)
    await asyncio.to_thread(engine.process.wait, 10)
    took = time.perf_counter() - started
    wanted = {"error frame"} if number is signal.SIGTERM else {"cut"}
    if set(found) - wanted:
        raise Failed(f"streams ended as {found}")
    return f"8 streams: {found[0]}; the process gone after {took:.2f} s"


def refused_start(*arguments: str, limit_bytes: int | None = None) -> str:
    _, process = start(*arguments, limit_bytes=limit_bytes)
    _, errors = process.communicate(timeout=120)
    lines = [line for line in errors.decode().splitlines() if line.strip()]
    if process.returncode != 1 or not lines or "Traceback" in errors.decode():
        raise Failed(f"exit {process.returncode}: {lines[-3:]}")
    return f"exit 1: {lines[-1][:90]}"


def pages_after_random_operations(n: int) -> str:
    class Noise:
        """Stands where the model does: random logits at once, so that the rest is what runs."""

        shape = load_shape(BUNDLED)

        def allocate(self, n_pages: int, page_tokens: int, kv_cache: Any) -> None: ...

        def forward(self, tokens: Any, spans: Any, wanted: Any) -> torch.Tensor:
            return torch.rand(len(wanted), self.shape.vocabulary)

    rng = random.Random(3)
    engine = Engine(EngineConfig(max_running=16, max_queued=64), Noise())
    alive: list[Any] = []
    page_mb = resource.getpagesize() / 1e6
    rss: list[float] = []
    for at in range(n):
        choice = rng.random()
        if choice < 0.2 and engine.scheduler.n_waiting < 60:
            prompt = [rng.randrange(3, 40) for _ in range(rng.randrange(1, 200))]
            params = SamplingParams(temperature=0, ignore_eos=True)
            scope = rng.choice("abcdef")
            alive.append(
                engine.add(prompt, params, max_new_tokens=rng.randrange(1, 30), scope=scope)
            )
        elif choice < 0.3 and alive:
            engine.cancel(alive.pop(rng.randrange(len(alive))))
        elif choice < 0.33 and engine.scheduler.running:
            engine.scheduler.preempt(rng.choice(engine.scheduler.running))
        else:
            engine.step()
        alive = [s for s in alive if s.finish is None]
        if at in (n // 10, n // 2):
            rss.append(int(Path("/proc/self/statm").read_text().split()[1]) * page_mb)
    while engine.has_work:
        engine.step()
    rss.append(int(Path("/proc/self/statm").read_text().split()[1]) * page_mb)
    lost = engine.pool.n_pages - engine.pool.n_free - engine.pool.n_idle
    if lost or rss[-1] - rss[0] > 20:
        raise Failed(f"{lost} pages lost, RSS {rss} MB")
    return f"{n:,} operations: 0 pages lost, RSS {rss[0]:.0f} -> {rss[1]:.0f} -> {rss[2]:.0f} MB"


ON_ONE_ENGINE: dict[str, Callable[[Live], Awaitable[str]]] = {
    "no JSON": no_json,
    "empty prompt": refused(400, "invalid_value", messages=[]),
    "oversize prompt": refused(
        400, "context_length_exceeded", messages=[{"role": "user", "content": "word " * 9000}]
    ),
    "zero max tokens": refused(400, "invalid_value", max_tokens=0),
    "unknown model": refused(404, "model_not_found", model="gpt-9"),
    "tool that is not there": refused(400, "invalid_value", tools=[], tool_choice="required"),
    "cancelled at every step": cancelled_at_every_step,
    "slow reader": slow_reader,
    "full queue": full_queue,
}


async def on_live_engines(report: Callable[[str, Any], None]) -> None:
    async with live("--max-running", "8", "--max-queued", "8") as engine:
        for name, drill in ON_ONE_ENGINE.items():
            try:
                said = await drill(engine)
                await engine.must_answer()
            except (Failed, aiohttp.ClientError, TimeoutError, KeyError) as error:
                said = error
            report(name, said)
    with tempfile.TemporaryDirectory() as folder:
        build(60, Path(folder))
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(BUNDLED / file, folder)
        async with live("--model", folder) as engine:
            try:
                report("left inside a long prompt, 60 M", await cancelled_in_a_long_prompt(engine))
            except (Failed, aiohttp.ClientError, TimeoutError) as error:
                report("left inside a long prompt, 60 M", error)
    for name, number in (("SIGTERM under load", signal.SIGTERM), ("kill -9", signal.SIGKILL)):
        async with live() as engine:
            try:
                report(name, await ended_by(number, engine))
            except (Failed, TimeoutError, subprocess.TimeoutExpired) as error:
                report(name, error)


def at_the_start(report: Callable[[str, Any], None]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        shutil.copytree(BUNDLED, folder)
        weights = folder / "model.safetensors"
        whole = weights.read_bytes()
        for what, data in (("cut", whole[: len(whole) // 2]), ("garbled", b"\x10" + whole[9:])):
            weights.write_bytes(data)
            attempt(report, f"safetensors {what}", lambda: refused_start("--model", str(folder)))
        # A file with a hole: a terabyte by its size, nothing on the disk.
        os.truncate(weights, 1 << 40)
        attempt(report, "no memory for weights", lambda: refused_start("--model", str(folder)))
        weights.rename(folder / "model.gguf")
        (folder / "config.json").unlink()
        attempt(report, "GGUF", lambda: refused_start("--model", str(folder)))
    tight = ("--kv-memory-mb", "1")
    attempt(report, "too little KV memory", lambda: refused_start(*tight))
    attempt(report, "no GPU", lambda: refused_start("--device", "cuda"))
    attempt(report, "unknown folder", lambda: refused_start("--model", "/nowhere/at/all"))


def attempt(report: Callable[[str, Any], None], name: str, drill: Callable[[], str]) -> None:
    try:
        report(name, drill())
    except (Failed, subprocess.TimeoutExpired) as error:
        report(name, error)


def main() -> int:
    """Run every drill; return 1 when one failed."""
    failed = []

    def report(name: str, said: Any) -> None:
        is_good = isinstance(said, str)
        failed.extend([] if is_good else [name])
        print(f"| {name} | {'ok' if is_good else 'FAILED'} | {said!s} |", flush=True)

    attempt(report, "pages", lambda: pages_after_random_operations(100_000))
    at_the_start(report)
    asyncio.run(on_live_engines(report))
    print(f"load average {os.getloadavg()[0]:.1f}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
