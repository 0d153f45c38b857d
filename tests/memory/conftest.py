from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime

import pytest
from redis.asyncio import Redis

from memory import ConversationStore, Memory, Message


@pytest.fixture
def new_id() -> Callable[[], str]:
    numbers = itertools.count(1)
    return lambda: f"{next(numbers):032x}"


@pytest.fixture
def store(redis: Redis, new_id: Callable[[], str]) -> ConversationStore:
    return ConversationStore(redis, lambda: datetime(2026, 5, 1, tzinfo=UTC), new_id)


@pytest.fixture
async def memory(store: ConversationStore) -> AsyncIterator[Memory]:
    memory = Memory(store)
    yield memory
    await memory.close()


def user(text: str) -> Message:
    return Message("user", text)


def assistant(text: str) -> Message:
    return Message("assistant", text)
