"""LoadProbe: asks a server how busy it is, beside the turns, and keeps its last word.

Owns the asking and the two languages it is answered in: our engine's /stats and the Prometheus
page of vLLM, which other servers also speak. What a load means for a turn is the router's business.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp
import orjson

from router.request import Load

_EVERY_S = 0.5
_TIMEOUT_S = 2.0
_STALE_S = 5.0
_LEAST_WINDOW_S = 5.0
# `vllm:name{labels} value`; a server of several models or engines has a line for each.
_SAMPLE = re.compile(rb"^(?:vllm|sglang):(\w+)(?:\{[^}]*\})? ([0-9.eE+-]+)$", re.MULTILINE)

Read = Callable[[bytes, float], float | None]


class LoadProbe:
    """An async context manager; `load` never waits.

    Args:
        url: what is fetched, at most twice a second and only while somebody wants to know.
        session: the shared HTTP session.
        read: the body and the monotonic time it came -> predicted time to first token in ms.
        headers: sent along.
    """

    def __init__(
        self,
        url: str,
        *,
        session: aiohttp.ClientSession,
        read: Read,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._url = url
        self._session = session
        self._read = read
        self._headers = headers
        self._predicted_ms: float | None = None
        self._heard_s = self._asked_s = float("-inf")
        self._asking: asyncio.TaskGroup | None = None

    async def __aenter__(self) -> Self:
        """Get ready to ask."""
        self._asking = await asyncio.TaskGroup().__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for the question in flight, which is bounded, and ask no more."""
        asking, self._asking = self._asking, None
        if asking is not None:
            await asking.__aexit__(None, None, None)

    def load(self) -> Load:
        """Return what the server last said; unknown when that is too long ago."""
        now_s = asyncio.get_running_loop().time()
        if self._asking is not None and now_s - self._asked_s > _EVERY_S:
            self._asked_s = now_s
            self._asking.create_task(self._ask())
        is_fresh = now_s - self._heard_s <= _STALE_S
        return Load(predicted_ttft_ms=self._predicted_ms if is_fresh else None)

    async def _ask(self) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                async with self._session.get(self._url, headers=self._headers) as response:
                    body = await response.read()
            now_s = asyncio.get_running_loop().time()
            self._predicted_ms = self._read(body, now_s) if response.status == 200 else None
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            self._predicted_ms = None  # unknown again: an old number would mislead
        self._heard_s = asyncio.get_running_loop().time()


def engine_ttft_ms(body: bytes, now_s: float) -> float | None:
    """Return what our engine's /stats predicts for a request that comes now."""
    stats: Any = orjson.loads(body)
    wait_s = stats.get("predicted_ttft_s") if isinstance(stats, dict) else None
    return wait_s * 1000 if isinstance(wait_s, int | float) else None


@dataclass(frozen=True, slots=True)
class _Page:
    """One reading of vLLM's metrics; the three sums only ever grow."""

    at_s: float
    n_waiting: float
    n_ended: float
    ttft_sum_s: float
    n_ttft: float


class VllmLoad:
    """Predicted time to first token from successive /metrics pages of one vLLM server.

    It is the mean of the first tokens since some seconds ago, or, where that is longer, the time in
    which the requests that wait now will have ended at the present rate. Unknown while nothing
    happens. Source: vLLM documentation, "Production metrics"; Little 1961 for the second term.
    """

    def __init__(self) -> None:
        self._pages: list[_Page] = []

    def __call__(self, body: bytes, now_s: float) -> float | None:
        """Return the prediction in ms.

        Raises:
            ValueError: the page is not of vLLM's kind.
        """
        page = _page_of(body, now_s)
        if self._pages and page.n_ended < self._pages[-1].n_ended:
            self._pages.clear()  # the server was started anew
        self._pages.append(page)
        while len(self._pages) > 2 and now_s - self._pages[1].at_s >= _LEAST_WINDOW_S:
            self._pages.pop(0)
        first = self._pages[0]
        n_first = page.n_ttft - first.n_ttft
        seen_s = (page.ttft_sum_s - first.ttft_sum_s) / n_first if n_first > 0 else None
        n_ended = page.n_ended - first.n_ended
        if not page.n_waiting or n_ended <= 0:
            return None if seen_s is None else seen_s * 1000
        queued_s = page.n_waiting * (now_s - first.at_s) / n_ended
        return max(seen_s or 0.0, queued_s) * 1000


def _page_of(body: bytes, now_s: float) -> _Page:
    sums: dict[bytes, float] = {}
    for name, value in _SAMPLE.findall(body):
        sums[name] = sums.get(name, 0.0) + float(value)
    if b"num_requests_waiting" not in sums:
        raise ValueError("no vLLM metrics")
    return _Page(
        now_s,
        sums[b"num_requests_waiting"],
        sums.get(b"request_success_total", 0.0),
        sums.get(b"time_to_first_token_seconds_sum", 0.0),
        sums.get(b"time_to_first_token_seconds_count", 0.0),
    )
