"""How fast the gateway is ready, and how much memory it then holds.

Run: python -m benchmarks.start.run [--repeats 3]

Two configurations: without the local engine, and the embedded default. For each, a first start in
an empty folder and later ones in the same: seconds from the command to the first 200 of /readyz,
and resident memory of the gateway's own process and of its children (Linux only: from /proc).
Ends with 1 where a gateway without a local engine, torch not being installed, holds more than
MOST_MB. The figure of a base install is made in an environment that has no extras.
"""

from __future__ import annotations

import argparse
import http.client
import importlib.util
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HAS_TORCH = importlib.util.find_spec("torch") is not None
WITHOUT_ENGINE = """
backends: {practice: {kind: simulated}}
models:
  local-small: {backend: practice, name: small, context_tokens: 8000,
                price: {input_usd_per_mtok: "0.1", output_usd_per_mtok: "0.4"}}
  strong: {backend: practice, name: strong, context_tokens: 128000,
           price: {input_usd_per_mtok: "1.25", output_usd_per_mtok: "10"}}
tenants: {demo: {currency: INR, timezone: Asia/Kolkata}}
"""
LIMIT_S = 120
MOST_MB = 150


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    print(f"{'configuration':<16} {'start':<6} {'ready, s':>9} {'gateway, MB':>12} {'children':>9}")
    worst_mb = 0.0
    for name, text in (("without engine", WITHOUT_ENGINE), ("default", None)):
        with tempfile.TemporaryDirectory(prefix="turnwise-start-") as folder:
            first = measure(Path(folder), text)
            later = [measure(Path(folder), text) for _ in range(arguments.repeats)]
        for start, runs in (("first", [first]), ("later", later)):
            ready_s = statistics.median(run[0] for run in runs)
            own_mb, children_mb = max(run[1] for run in runs), max(run[2] for run in runs)
            print(f"{name:<16} {start:<6} {ready_s:>9.2f} {own_mb:>12.1f} {children_mb:>9.1f}")
            if text is not None or not HAS_TORCH:
                worst_mb = max(worst_mb, own_mb)
    print(f"without a local engine at most {worst_mb:.1f} MB, {MOST_MB} are allowed")
    raise SystemExit(worst_mb > MOST_MB)


def measure(folder: Path, configuration: str | None) -> tuple[float, float, float]:
    """Return seconds to ready, MB of the gateway, MB of its children."""
    port = free_port()
    command = [sys.executable, "-m", "gateway", "serve", "--port", str(port)]
    if configuration is not None:
        path = folder / "turnwise.yaml"
        path.write_text(configuration)
        command += ["--config", str(path)]
    started_s = time.perf_counter()
    with (folder / "log").open("w+") as log:
        process = subprocess.Popen(
            command, cwd=folder, env={"PYTHONPATH": str(ROOT)}, stdout=log, stderr=log
        )
        try:
            ready_s = wait_ready(process, port, started_s, log)
            children_mb = sum(resident_mb(pid) for pid in descendants(process.pid))
            return ready_s, resident_mb(process.pid), children_mb
        finally:
            process.terminate()
            process.wait(20)


def wait_ready(process: subprocess.Popen[bytes], port: int, started_s: float, log: object) -> float:
    while time.perf_counter() - started_s < LIMIT_S:
        if process.poll() is not None:
            log.seek(0)  # type: ignore[attr-defined]
            raise SystemExit(f"the gateway stopped: {log.read()[-2000:]}")  # type: ignore[attr-defined]
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        try:
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return time.perf_counter() - started_s
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.02)
    raise SystemExit(f"not ready after {LIMIT_S} s")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def descendants(pid: int) -> list[int]:
    children = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        children += [int(child) for child in (task / "children").read_text().split()]
    return [*children, *(below for child in children for below in descendants(child))]


def resident_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


if __name__ == "__main__":
    main()
