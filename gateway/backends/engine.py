"""The local engine as a backend: a supervised child process, asked over loopback.

Owns the child and what it last said about its load. The engine itself is `local_models/`'s, the
conversation with it the lean path's.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp

from gateway.backends.base import Call, ReplyDelta, ReplyEnd
from gateway.backends.breaker import BackendBreaker, BreakingBackend
from gateway.backends.load_probe import LoadProbe, engine_ttft_ms
from gateway.backends.openai import OpenAIBackend
from gateway.children import Child
from gateway.errors import BackendUnavailable
from gateway.health import State
from router.request import Load

HOST = "127.0.0.1"
_PROBE_S = 2.0
_START_S = 300.0  # a large model takes minutes to load


class EngineBackend:
    """One local model in a process of its own; an async context manager.

    Entering starts the process and returns at once: until it is ready, and whenever it is down,
    calls are refused with BackendUnavailable so that a fallback can serve.

    Args:
        name: the backend's name in the configuration.
        model: `bundled`, a folder, or a hub id.
        quantize: `none`, `int8` or `int4`.
        device: `cpu` or `cuda`.
        kv_cache: `full` or `int8`.
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
        device: str = "cpu",
        kv_cache: str = "full",
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
        command += ["--device", device, "--kv-cache", kv_cache]
        command += ["--host", HOST, "--port", str(port), "--parent-stdin", "--token-stdin"]
        # Loopback is open to every user of the machine; the engine answers to this token alone.
        self.token = secrets.token_urlsafe(32)
        self._headers = {"Authorization": f"Bearer {self.token}"}
        self.child = Child(
            f"the engine {name}",
            command,
            is_ready=self._is_ready,
            log_path=state_dir / f"engine-{name}.log",
            environ=environ,
            first_line=self.token,
            start_s=_START_S,
        )
        self._probe = stats_probe(self.base_url, self.token, session)
        upstream = OpenAIBackend(
            name,
            self.base_url,
            session=session,
            api_key=self.token,
            sends_scope=True,
            probe=self._probe,
        )
        self._upstream = BreakingBackend(upstream, BackendBreaker(name))
        self._is_open = False

    @property
    def base_url(self) -> str:
        """Where the engine listens, up to and including `/v1`."""
        return f"{self._root}/v1"

    async def __aenter__(self) -> Self:
        """Start the engine's process."""
        self._is_open = True
        await self._probe.__aenter__()
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
        if self._is_open:
            self._is_open = False
            await self.child.__aexit__(None, None, None)
            await self._probe.__aexit__(None, None, None)

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
        return self._upstream.load() if self.child.state == "ready" else Load(is_up=False)

    async def _is_ready(self) -> bool:
        try:
            async with asyncio.timeout(_PROBE_S):
                url = f"{self._root}/health"
                async with self._session.get(url, headers=self._headers) as response:
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


def stats_probe(base_url: str, token: str | None, session: aiohttp.ClientSession) -> LoadProbe:
    """Return the probe of an engine of ours at that `/v1` address."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    url = f"{base_url.removesuffix('/v1')}/stats"
    return LoadProbe(url, session=session, read=engine_ttft_ms, headers=headers)


def free_port() -> int:
    """Return a loopback port that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
