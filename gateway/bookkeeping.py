"""Bookkeeper: takes ended entries from the ledger's streams to the books, and says when it cannot.

Turns do not wait for it: what is not booked stays in Redis, counted and shown by `/readyz` until it
is. Knows no amounts.
"""

from __future__ import annotations

from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from gateway.health import State
from gateway.telemetry import Degradations
from gateway.tenants import TenantStore
from policies.books import Books
from policies.ledger import Ledger

BOOK_S = 1.0
SWEEP_S = 30.0
_UNBOOKED = (RedisError, SQLAlchemyError, OSError)


class Bookkeeper:
    """Books for every tenant; one per process, several processes may do so at once."""

    def __init__(
        self, ledger: Ledger, books: Books, tenants: TenantStore, degradations: Degradations
    ) -> None:
        self._ledger = ledger
        self._books = books
        self._tenants = tenants
        self._degradations = degradations
        self._is_failing = False

    async def book(self) -> None:
        """Book what this process has ended since the last time; called every `BOOK_S`.

        A full disk, or a database that is away, is counted and logged once; it is tried again.
        """
        touched, self._ledger.touched = self._ledger.touched, set()
        try:
            for tenant in list(touched):
                await self._books.catch_up(tenant)
                touched.discard(tenant)
                self._is_failing = False
                self._degradations.worked("books")
        except _UNBOOKED as error:
            self._is_failing = True
            self._degradations.failed("books", error, "booking")
        finally:
            self._ledger.touched |= touched

    async def sweep(self) -> None:
        """Close what dead processes left open, then book for everybody; every `SWEEP_S`.

        Holds go back first: that needs no database.
        """
        await self._ledger.sweep()
        await self._books.keep_days_in(await self._tenants.timezones())
        for tenant in await self._ledger.tenants():
            await self._books.catch_up(tenant)

    async def state(self) -> State:
        """Return `degraded` while entries cannot be booked."""
        return "degraded" if self._is_failing else "ready"
