from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from typing import Any

import pytest
from aiohttp import web

from gateway.backends.base import Call
from gateway.backends.litellm import LitellmBackend
from gateway.errors import (
    BackendError,
    BackendOverloaded,
    BackendRejected,
    BackendTimeout,
    BackendUnavailable,
)
from gateway.settings import is_installed, keep_litellm_offline
from tests.fakes import FakeUpstream, fake_upstream

# litellm's own use of pydantic, outside our reach.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:litellm.*"),
    pytest.mark.filterwarnings("ignore:Item .* is using the `ReadOnly`:UserWarning"),
]
CALL = Call(
    model="openai/fake",
    messages=({"role": "user", "content": "Hi"},),
    params={},
    is_stream=False,
    request_id="req_1",
    scope="s",
    first_token_s=20.0,
    idle_s=20.0,
    total_s=20.0,
)


async def failure_of(backend: LitellmBackend, call: Call = CALL) -> BackendError:
    with pytest.raises(BackendError) as caught:
        async for _ in backend.stream(call):
            pass
    return caught.value


def missing(name: str) -> str:
    raise PackageNotFoundError(name)


async def test_a_missing_litellm_says_how_to_install_it() -> None:
    backend = LitellmBackend("claude", keep_offline=lambda: None, installed_version=missing)
    failure = await failure_of(backend)
    assert type(failure) is BackendUnavailable
    assert "pip install 'turnwise[providers]'" in str(failure)


@pytest.mark.parametrize("version", ["1.82.7", "1.82.8"])
async def test_compromised_releases_are_never_imported(version: str) -> None:
    asked: list[str] = []
    backend = LitellmBackend(
        "claude",
        keep_offline=lambda: asked.append("import"),
        installed_version=lambda name: version,
    )
    assert "compromised" in str(await failure_of(backend))
    assert asked == []


def test_the_gateway_starts_without_importing_litellm() -> None:
    program = "import sys, gateway.app; sys.exit(bool({'litellm', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    if not is_installed("litellm"):
        pytest.skip("litellm is not installed: pip install 'turnwise[providers]'")
    async with fake_upstream() as upstream:
        yield upstream


@pytest.fixture
async def backend(upstream: FakeUpstream) -> AsyncIterator[LitellmBackend]:
    backend = LitellmBackend(
        "up", api_key="none", base_url=upstream.base_url, keep_offline=keep_litellm_offline
    )
    yield backend
    await backend.close()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, BackendRejected),
        (401, BackendUnavailable),
        (404, BackendUnavailable),
        (429, BackendOverloaded),
        (500, BackendUnavailable),
    ],
)
async def test_provider_errors_become_ours(
    backend: LitellmBackend, upstream: FakeUpstream, status: int, kind: type[Exception]
) -> None:
    def answer(body: Any) -> web.Response:
        return web.json_response({"error": {"message": "no"}}, status=status)

    upstream.answer = answer
    assert type(await failure_of(backend)) is kind
    assert len(upstream.bodies) == 1


async def test_a_provider_that_stays_silent_is_a_timeout(
    backend: LitellmBackend, upstream: FakeUpstream
) -> None:
    # A first call imports litellm, which takes seconds of its own.
    async for _ in backend.stream(CALL):
        pass

    async def never(body: Any) -> None:
        await asyncio.sleep(60)

    upstream.answer = never
    assert isinstance(await failure_of(backend, replace(CALL, total_s=0.2)), BackendTimeout)
