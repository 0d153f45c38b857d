"""The local engine as a backend: a supervised child process, asked over loopback.

Owns the child and what it last said about its load. The engine itself is `local_models/`'s, the
conversation with it the lean path's.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

from gateway.backends.base import Call, ReplyDelta, ReplyEnd
from gateway.backends.breaker import BackendBreaker, BreakingBackend
from gateway.backends.openai import OpenAIBackend
from gateway.children import Child
from gateway.errors import BackendUnavailable
from gateway.health import State
from router.request import Load

log = logging.getLogger("turnwise.engine")
HOST = "127.0.0.1"
_PROBE_S = 2.0
_START_S = 300.0  # a large model takes minutes to load
_STATS_EVERY_S = 0.5


class EngineBackend:
    """One local model in a process of its own; an async context manager.

    Entering starts the process and returns at once: until it is ready, and whenever it is down,
    calls are refused with BackendUnavailable so that a fallback can serve.

    Args:
        name: the backend's name in the configuration.
        model: `bundled`, a folder, or a hub id.
        quantize: `none`, `int8` or `int4`.
        session: the shared HTTP session.
        state_dir: where the engine's log goes.
        environ: the engine's environment; None inherits.
        program: what is run before the engine's own arguments.
    """

    def __init__(
        self,
        name: str,
        *,
        model: str,
        quantize: str,
        session: aiohttp.ClientSession,
        state_dir: Path,
        environ: Mapping[str, str] | None = None,
        program: Sequence[str] = (sys.executable, "-m", "local_models.server"),
    ) -> None:
        self.name = name
        self._session = session
        port = free_port()
        self._root = f"http://{HOST}:{port}"
        command = [*program, "--model", model, "--quantize", quantize]
        command += ["--host", HOST, "--port", str(port), "--parent-stdin"]
        self.child = Child(
            f"the engine {name}",
            command,
            is_ready=self._is_ready,
            log_path=state_dir / f"engine-{name}.log",
            environ=environ,
            start_s=_START_S,
        )
        upstream = OpenAIBackend(name, f"{self._root}/v1", session=session, sends_scope=True)
        self._upstream = BreakingBackend(upstream, BackendBreaker(name))
        self._stats: Mapping[str, Any] = {}
        self._asked_s = float("-inf")
        self._asking: asyncio.TaskGroup | None = None

    @property
    def base_url(self) -> str:
        """Where the engine listens, up to and including `/v1`."""
        return f"{self._root}/v1"

    async def __aenter__(self) -> Self:
        """Start the engine's process."""
        self._asking = await asyncio.TaskGroup().__aenter__()
        await self.child.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop it."""
        await self.close()

    async def close(self) -> None:
        """Stop the engine; safe to call twice."""
        asking, self._asking = self._asking, None
        if asking is not None:
            await self.child.__aexit__(None, None, None)
            await asking.__aexit__(None, None, None)

    async def stream(self, call: Call) -> AsyncGenerator[ReplyDelta | ReplyEnd, None]:
        """Yield the reply's deltas and then one ReplyEnd; see `Backend`."""
        if self.child.state != "ready":
            doing = "starting" if self.child.state == "starting" else "down"
            raise BackendUnavailable(self.name, f"The local engine {self.name} is {doing}.")
        async with aclosing(self._upstream.stream(call)) as events:
            async for event in events:
                yield event

    async def health(self) -> State:
        """Return the state readiness should count; a dead engine degrades, it has fallbacks."""
        state = self.child.state
        if state == "ready":
            return await self._upstream.health()
        return "degraded" if state == "down" else state

    def load(self) -> Load:
        """Return what the engine last said, at most a moment old while it is being asked."""
        if self.child.state != "ready" or self._upstream.breaker.is_open:
            return Load(is_up=False)
        now_s = asyncio.get_running_loop().time()
        if self._asking is not None and now_s - self._asked_s > _STATS_EVERY_S:
            self._asked_s = now_s
            self._asking.create_task(self._ask_stats())
        wait_s = self._stats.get("predicted_wait_s")
        return Load(predicted_ttft_ms=wait_s * 1000 if isinstance(wait_s, int | float) else None)

    async def _ask_stats(self) -> None:
        try:
            async with asyncio.timeout(_PROBE_S):
                async with self._session.get(f"{self._root}/stats") as response:
                    stats = await response.json()
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            self._stats = {}  # unknown again: an old number would mislead
        else:
            self._stats = stats if isinstance(stats, dict) else {}

    async def _is_ready(self) -> bool:
        try:
            async with asyncio.timeout(_PROBE_S):
                async with self._session.get(f"{self._root}/health") as response:
                    return response.status == 200
        except (aiohttp.ClientError, OSError, TimeoutError):
            return False


class MissingBackend:
    """Stands where a backend cannot be had on this machine; every call says what is missing."""

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self.reason = reason

    async def stream(self, call: Call) -> AsyncGenerator[ReplyDelta | ReplyEnd, None]:
        """Refuse; see `Backend`."""
        raise BackendUnavailable(self.name, self.reason)
        yield  # makes this the generator that the protocol asks for

    async def health(self) -> State:
        """Return degraded: turns go elsewhere."""
        return "degraded"

    def load(self) -> Load:
        """Return a load that routing avoids."""
        return Load(is_up=False)

    async def close(self) -> None:
        """Do nothing."""


def free_port() -> int:
    """Return a loopback port that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
