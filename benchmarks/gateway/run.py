"""What one turn costs in CPU: Turnwise and the LiteLLM proxy before the same mock upstream.

    python -m benchmarks.gateway.run                  # Turnwise alone
    python -m benchmarks.gateway.run --install        # makes the proxy's environment first
    python -m benchmarks.gateway.run --shapes json,burst,slow --requests 2000

Counts user and system seconds of every process of each server's tree (Redis and other children
included), read from the kernel before and after a run of requests; the driver and the mock upstream
are not counted. Both servers see the same bodies, one after another, in rounds that alternate, and
the table gives the median round. Turnwise does what its embedded default does for every turn
(authentication, policy, rate limit, classifier, exact cache, ledger); the proxy runs one worker
with a master key and no database.

The proxy lives in a virtual environment of its own, by default in
`~/.cache/turnwise-benchmarks/litellm-proxy`, made by `--install`. Shapes: `json` is an answer of 60
tokens in one piece; `burst` a stream whose 60 tokens arrive at once; `slow` a stream of 60 tokens,
one every 20 ms, 16 at a time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import secrets
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import psutil

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path.home() / ".cache" / "turnwise-benchmarks" / "litellm-proxy"
# Later releases pin companion packages that not every index carries.
PROXY_RELEASE = "1.100.5"
KEY = "sk-benchmark-key-of-no-value"
SHAPES = {"json": (False, 0.0), "burst": (True, 0.0), "slow": (True, 20.0)}
PROMPT = (
    "Our customer in Pune writes that the parcel which was promised for Monday has not arrived, "
    "and asks whether it can be sent to the office instead. Draft a friendly answer of three "
    "sentences, offer a discount of five percent, and mention that the depot closes at six. "
    "Reference {n}."
)


@dataclass(frozen=True)
class Server:
    """A server under measurement."""

    name: str
    url: str
    key: str
    model: str
    process: psutil.Process

    def cpu_s(self) -> float:
        """Return the CPU seconds of the whole tree so far."""
        total = 0.0
        for process in (self.process, *self.process.children(recursive=True)):
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system
        return total

    def rss_mb(self) -> float:
        """Return the resident memory of the whole tree."""
        tree = (self.process, *self.process.children(recursive=True))
        return sum(process.memory_info().rss for process in tree) / 2**20


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(
    command: list[str], log: Path, cwd: Path, environ: dict[str, str]
) -> Iterator[psutil.Process]:
    """Run a server in a process group of its own; ended afterwards, children and all."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=cwd, env=environ, stdout=output, stderr=output, stdin=subprocess.DEVNULL
        )
    try:
        yield psutil.Process(process.pid)
    finally:
        tree = (
            psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        )
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for child in tree:
            if child.is_running():
                child.kill()


def is_up(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def wait_for(url: str, log: Path, process: psutil.Process, key: str, limit_s: float = 180) -> None:
    deadline_s = time.monotonic() + limit_s
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"})
    while True:
        try:
            with urllib.request.urlopen(request, timeout=5) as response:
                if response.status == 200:
                    return
        except OSError:
            pass
        if not is_up(process) or time.monotonic() > deadline_s:
            sys.exit(f"{url} does not answer; the end of {log}:\n{log.read_text()[-3000:]}")
        time.sleep(0.2)


@contextmanager
def turnwise(folder: Path, upstreams: dict[str, int]) -> Iterator[Server]:
    """Run the embedded default with its models pointed at the mock upstreams."""
    port = free_port()
    backends = {
        name: {"kind": "openai", "base_url": f"http://127.0.0.1:{upstream}/v1"}
        for name, upstream in upstreams.items()
    }
    price = {"input_usd_per_mtok": "1.25", "output_usd_per_mtok": "10"}
    models = {
        name: {"backend": name, "name": "mock", "context_tokens": 128000, "price": price}
        for name in upstreams
    }
    names = list(models)
    config = {
        "server": {"port": port},
        "backends": backends,
        "models": models,
        "tenants": {"demo": {"policy": "bench", "currency": "INR", "keys": [KEY]}},
    }
    policy = {
        "routing": {
            "tiers": {"small": names[:1], "strong": names[1:]},
            "thresholds": {"strong": 0.55},
            "floor": "small",
            "ceiling": "strong",
            "safe": "strong",
            "boundary": "any",
        },
        "limits": {"requests_per_minute": 10_000_000},
        "cache": {"exact": True, "semantic": False, "ttl_s": 3600},
        "on_ledger_down": "block",
    }
    (folder / "policies").mkdir(parents=True)
    (folder / "turnwise.yaml").write_text(json.dumps(config))
    (folder / "policies" / "bench.yaml").write_text(json.dumps(policy))
    log = folder / "turnwise.log"
    command = [sys.executable, "-m", "gateway", "serve", "--config", str(folder / "turnwise.yaml")]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    with running(command, log, folder, environ) as process:
        url = f"http://127.0.0.1:{port}"
        wait_for(f"{url}/readyz", log, process, KEY)
        yield Server("turnwise", url, KEY, "auto", process)


@contextmanager
def litellm_proxy(folder: Path, upstreams: dict[str, int], python: Path) -> Iterator[Server]:
    """Run the proxy: one worker, a master key, no database."""
    port = free_port()
    folder.mkdir(parents=True)
    upstream = next(iter(upstreams.values()))
    parameters = {
        "model": "openai/mock",
        "api_base": f"http://127.0.0.1:{upstream}/v1",
        "api_key": "none",
    }
    config = {
        "model_list": [{"model_name": "auto", "litellm_params": parameters}],
        "general_settings": {"master_key": KEY},
        "litellm_settings": {"set_verbose": False},
    }
    path = folder / "litellm.yaml"
    path.write_text(json.dumps(config))
    log = folder / "litellm.log"
    command = [str(python.parent / "litellm"), "--config", str(path), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--num_workers", "1", "--telemetry", "False"]
    environ = os.environ | {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
        "LITELLM_MODE": "PRODUCTION",
    }
    with running(command, log, folder, environ) as process:
        url = f"http://127.0.0.1:{port}"
        wait_for(f"{url}/health/liveliness", log, process, KEY)
        yield Server("litellm proxy", url, KEY, "auto", process)


async def drive(server: Server, n_requests: int, n_at_once: int, is_stream: bool) -> None:
    """Send so many chat requests, so many at once, and check that each was answered whole."""
    numbers = iter(range(n_requests))
    run_id = secrets.token_hex(4)
    headers = {"Authorization": f"Bearer {server.key}"}
    url = f"{server.url}/v1/chat/completions"
    timeout = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:

        async def work() -> None:
            for number in numbers:
                text = PROMPT.format(n=f"{run_id}-{number}")
                body: dict[str, object] = {
                    "model": server.model,
                    "messages": [{"role": "user", "content": text}],
                    "max_tokens": 200,
                }
                if is_stream:
                    body["stream"] = True
                    body["stream_options"] = {"include_usage": True}
                async with session.post(url, json=body) as response:
                    answer = await response.read()
                is_whole = b"[DONE]" in answer if is_stream else b'"usage"' in answer
                if response.status != 200 or not is_whole:
                    raise SystemExit(f"{server.name}: {response.status} {answer[:500]!r}")

        async with asyncio.TaskGroup() as group:
            for _ in range(n_at_once):
                group.create_task(work())


def measure(server: Server, n_requests: int, shape: str) -> tuple[float, float]:
    """Return milliseconds of CPU for one request, and requests per second of the run."""
    is_stream, delay_ms = SHAPES[shape]
    before_s, began_s = server.cpu_s(), time.monotonic()
    asyncio.run(drive(server, n_requests, 16 if delay_ms else 8, is_stream))
    elapsed_s = time.monotonic() - began_s
    time.sleep(1.0)  # work put off until after the answer belongs to it
    return (server.cpu_s() - before_s) / n_requests * 1000, n_requests / elapsed_s


def install(python: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(python.parent.parent)], check=True)
    command = [str(python), "-m", "pip", "install", "-q", f"litellm[proxy]=={PROXY_RELEASE}"]
    subprocess.run(command, check=True)


def shapes_of(text: str) -> list[str]:
    shapes = text.split(",")
    unknown = sorted(set(shapes) - set(SHAPES))
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not among {', '.join(SHAPES)}")
    return shapes


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=1500, help="a round, for Turnwise")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shapes", type=shapes_of, default=list(SHAPES))
    parser.add_argument("--install", action="store_true", help="make the proxy's environment")
    parser.add_argument("--proxy-dir", type=Path, default=CACHE)
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    options = parser.parse_args()
    python = options.proxy_dir / "bin" / "python"
    if options.install and not (options.proxy_dir / "bin" / "litellm").exists():
        install(python)
    has_proxy = (options.proxy_dir / "bin" / "litellm").exists()

    folder = Path(tempfile.mkdtemp(prefix="tw-bench-"))
    rows: dict[str, dict[str, list[float]]] = {}
    try:
        for shape in options.shapes:
            rows[shape] = run_shape(folder / shape, shape, options, python if has_proxy else None)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report(rows, options.json, has_proxy)


def run_shape(
    folder: Path, shape: str, options: argparse.Namespace, python: Path | None
) -> dict[str, list[float]]:
    """Measure one shape on every server and return its rounds by server, milliseconds a request."""
    _, delay_ms = SHAPES[shape]
    with ExitStack() as stack:
        port = free_port()
        script = Path(__file__).with_name("mock_upstream.py")
        command = [sys.executable, str(script), "--port", str(port), "--delay-ms", str(delay_ms)]
        folder.mkdir(parents=True)
        mock = running(command, folder / "mock.log", folder, dict(os.environ))
        process = stack.enter_context(mock)
        wait_for_port(port, process)
        upstreams = {"cheap": port, "strong": port}
        starters: list[Callable[[], Server]] = [
            lambda: stack.enter_context(turnwise(folder / "turnwise", upstreams))
        ]
        if python is not None:
            proxy = litellm_proxy(folder / "litellm", upstreams, python)
            starters.append(lambda: stack.enter_context(proxy))
        servers = [start() for start in starters]
        rounds: dict[str, list[float]] = {server.name: [] for server in servers}
        for server in servers:
            measure(server, 100, shape)  # warm: connections, caches, lazily imported parts
        for _ in range(options.rounds):
            for server in servers:
                n_requests = (
                    options.requests if server.name == "turnwise" else options.requests // 5
                )
                if delay_ms:
                    n_requests = min(n_requests, 160)
                cost_ms, rate = measure(server, n_requests, shape)
                rounds[server.name].append(cost_ms)
                say(f"  {shape:6} {server.name:14} {cost_ms:8.3f} ms CPU   {rate:7.0f} requests/s")
        for server in servers:
            say(f"  {shape:6} {server.name:14} {server.rss_mb():8.0f} MB resident")
    return rounds


def wait_for_port(port: int, process: psutil.Process) -> None:
    deadline_s = time.monotonic() + 10
    while time.monotonic() < deadline_s and is_up(process):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    sys.exit("the mock upstream does not start")


def report(rows: dict[str, dict[str, list[float]]], as_json: bool, has_proxy: bool) -> None:
    if as_json:
        print(json.dumps({"cpu_ms_per_request": rows, "machine": machine()}, indent=2))
        return
    print(f"\nCPU per request, median of rounds, {machine()}")
    print(f"{'shape':8}{'turnwise':>12}{'litellm proxy':>16}{'ratio':>9}")
    for shape, rounds in rows.items():
        ours = statistics.median(rounds["turnwise"])
        line = f"{shape:8}{ours:>9.3f} ms"
        if "litellm proxy" in rounds:
            theirs = statistics.median(rounds["litellm proxy"])
            line += f"{theirs:>13.3f} ms{theirs / ours:>8.1f}x"
        print(line)
    if not has_proxy:
        print("The LiteLLM proxy is not installed: run with --install to compare.")


def machine() -> str:
    return f"{os.cpu_count()} cores, Python {platform.python_version()}, {platform.machine()}"


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
