"""Real processes, killed with SIGKILL: what was acknowledged is there afterwards, once."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from benchmarks.memory.durability import Stack, drill_items, drill_turns
from tests.conftest import redis_executable


@pytest.fixture
async def stack() -> AsyncIterator[Stack]:
    folder = Path(tempfile.mkdtemp(prefix="tw-"))  # a socket's path must be short
    stack = Stack(folder, redis_executable())
    try:
        stack.start("redis")
        stack.start("gateway")
        await stack.wait_ready()
        yield stack
    finally:
        stack.kill("gateway")
        stack.kill("redis")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
async def test_killing_gateway_and_redis_loses_and_doubles_no_acknowledged_item(
    stack: Stack,
) -> None:
    outcome = await drill_items(stack, n_writers=64, n_items=30, n_kills=2)
    assert (outcome.n_lost, outcome.n_doubled, outcome.n_gaps) == (0, 0, 0)
    assert outcome.n_acknowledged == 64 * 30
    assert outcome.n_kills > 0


@pytest.mark.slow
async def test_turns_answered_without_redis_survive_the_gateway_being_killed(stack: Stack) -> None:
    outcome = await drill_turns(stack, n_writers=6)
    assert (outcome.n_lost, outcome.n_doubled, outcome.n_gaps) == (0, 0, 0)
    assert outcome.n_acknowledged == 18
