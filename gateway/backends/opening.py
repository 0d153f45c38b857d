"""From settings to running backends, each behind its breaker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp

from gateway.backends.base import Backend
from gateway.backends.breaker import BackendBreaker, BreakingBackend
from gateway.backends.engine import EngineBackend, MissingBackend, stats_probe
from gateway.backends.litellm import LitellmBackend
from gateway.backends.load_probe import LoadProbe, VllmLoad
from gateway.backends.openai import OpenAIBackend, http_session
from gateway.backends.retry import Retry
from gateway.backends.simulated import SimulatedBackend
from gateway.settings import BackendSettings, Settings, is_installed, keep_litellm_offline

_ENGINE_NEEDS = ("torch", "transformers", "safetensors")


@asynccontextmanager
async def open_backends(settings: Settings, retry: Retry) -> AsyncIterator[Mapping[str, Backend]]:
    """Yield every configured backend by its name; processes and connections end with the context.

    Local engines are started, not waited for, and not asked again: they answer for themselves.
    """
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(
            http_session(connect_s=settings.timeouts.connect_s)
        )
        opened: dict[str, Backend] = {}
        for name, backend in settings.backends.items():
            opened[name] = await _open(backend, settings, session, retry, stack)
        yield opened


async def _open(
    backend: BackendSettings,
    settings: Settings,
    session: aiohttp.ClientSession,
    retry: Retry,
    stack: AsyncExitStack,
) -> Backend:
    name = backend.name
    opened: Backend
    if backend.kind == "simulated":
        return SimulatedBackend(name)
    if backend.kind == "engine" and backend.base_url is not None:
        # Started by the process that started this one.
        url, token = backend.base_url, backend.api_key
        probe = await stack.enter_async_context(stats_probe(url, token, session))
        opened = OpenAIBackend(
            name, url, session=session, api_key=token, sends_scope=True, probe=probe
        )
    elif backend.kind == "engine":
        missing = [module for module in _ENGINE_NEEDS if not is_installed(module)]
        if missing:
            reason = f"{', '.join(missing)} missing: pip install 'turnwise[local]'"
            return MissingBackend(name, f"The local engine {name} cannot run here: {reason}")
        # Its own: a process that is still starting is no reason to leave it alone for a minute.
        return await stack.enter_async_context(
            EngineBackend(
                name,
                model=backend.model,
                quantize=backend.quantize,
                device=backend.device,
                kv_cache=backend.kv_cache,
                session=session,
                state_dir=settings.state_dir,
            )
        )
    elif backend.kind == "openai":
        assert backend.base_url is not None  # the configuration's schema demands it
        opened = OpenAIBackend(
            name,
            backend.base_url,
            session=session,
            api_key=backend.api_key,
            probe=await _metrics_probe(backend.metrics_url, session, stack),
            retry=retry,
        )
    else:
        opened = LitellmBackend(
            name,
            api_key=backend.api_key,
            base_url=backend.base_url,
            keep_offline=keep_litellm_offline,
        )
        stack.push_async_callback(opened.close)
    return BreakingBackend(opened, BackendBreaker(name))


async def _metrics_probe(
    url: str | None, session: aiohttp.ClientSession, stack: AsyncExitStack
) -> LoadProbe | None:
    """Return the probe of a server that shows vLLM's metrics at the address, None without one."""
    if url is None:
        return None
    return await stack.enter_async_context(LoadProbe(url, session=session, read=VllmLoad()))
