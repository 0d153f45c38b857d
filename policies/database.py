"""Database: the SQL database of record, asked from coroutines through a worker thread.

Owns where blocking calls run. Knows no table.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy import Connection, Engine

T = TypeVar("T")


async def unannounced() -> None:
    """Announce a change to nobody: there is one process."""


@dataclass(frozen=True, slots=True)
class Database:
    """One engine, shared by everything that keeps rows in it."""

    engine: Engine

    async def read(self, ask: Callable[[Connection], T]) -> T:
        """Return what `ask` finds at one moment, however many queries it makes.

        Nothing that it writes is kept.
        """

        def work() -> T:
            with self.engine.connect() as connection:
                if connection.dialect.name == "postgresql":
                    connection.execution_options(isolation_level="REPEATABLE READ")
                else:  # Python's driver begins nothing before a first write
                    connection.exec_driver_sql("BEGIN")
                return ask(connection)

        return await asyncio.to_thread(work)

    async def write(self, act: Callable[[Connection], T]) -> T:
        """Return what `act` returns, all of its writes kept or, if it raises, none."""

        def work() -> T:
            with self.engine.begin() as connection:
                return act(connection)

        return await asyncio.to_thread(work)
