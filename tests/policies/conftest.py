from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from redis.asyncio import Redis
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError

from gateway.database import open_database
from policies.books import Books
from policies.entry import EntryClosing, EntryOpening
from tests import postgres
from tests.tables import make_tables


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    if postgres.executable("initdb") is None:
        pytest.skip(postgres.MISSING)
    with postgres.running() as url:
        yield url


def empty_postgres(url: str) -> Engine:
    engine = open_database(url)
    with_deadline_s = time.monotonic() + 20
    while True:
        try:
            with engine.begin() as connection:
                connection.execute(text("DROP SCHEMA public CASCADE"))
                connection.execute(text("CREATE SCHEMA public"))
            return engine
        except OperationalError:  # it is starting
            if time.monotonic() > with_deadline_s:
                raise
            time.sleep(0.05)


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """A database without rows, once of each kind that the books can be kept in."""
    if request.param == "sqlite":
        engine = open_database(f"sqlite:///{tmp_path}/ledger.db")
    else:
        engine = empty_postgres(request.getfixturevalue("postgres_url"))
    make_tables(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def books(engine: Engine, redis: Redis) -> Books:
    return Books(engine, redis)


Opening = Callable[..., EntryOpening]
Closing = Callable[..., EntryClosing]


@pytest.fixture
def opening(clock: Clock) -> Opening:
    def make(number: int = 1, n: int = 1, **fields: object) -> EntryOpening:
        base: dict[str, object] = {
            "id": f"req_{number:x}:{n}",
            "request_id": f"req_{number:x}",
            "tenant": "acme",
            "n": n,
            "model": "gpt",
            "backend": "openai",
            "tier": "strong",
            "opened_at": clock(),
            "currency": "INR",
            "policy": "default@0",
        }
        return EntryOpening(**{**base, **fields})  # type: ignore[arg-type]

    return make


@pytest.fixture
def closing(clock: Clock) -> Closing:
    def make(micro: int = 0, status: str = "complete", **fields: object) -> EntryClosing:
        base: dict[str, object] = {
            "status": status,
            "closed_at": clock(),
            "charge_micro": micro,
            "usage": {"input_tokens": 10, "output_tokens": 5, "cached_input_tokens": 4},
            "cost": {
                "usd_micro": micro // 85,
                "micro": micro,
                "rate": "85.0",
                "rate_date": "2026-04-01",
            },
        }
        return EntryClosing(**{**base, **fields})  # type: ignore[arg-type]

    return make
