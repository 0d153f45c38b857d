"""Alerts: which steps of a budget were reached, each told once however many processes see it.

Owns the rows that say so. Sends nothing to anybody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    select,
)

from policies.budget import Budget, BudgetState
from policies.database import Database
from policies.entry import to_us
from policies.reservation import Place
from policies.tables import insert_into

metadata = MetaData()
alerts_table = Table(
    "budget_alerts",
    metadata,
    Column("tenant", String(64), primary_key=True),
    # The counter's key names period and currency; a limit that was changed has its own steps.
    Column("spend_key", String(256), primary_key=True),
    Column("limit_micro", BigInteger, primary_key=True, autoincrement=False),
    Column("at_permyriad", Integer, primary_key=True, autoincrement=False),
    Column("action", String(80), nullable=False),
    Column("settled_micro", BigInteger, nullable=False),
    Column("at_us", BigInteger, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a budget: from `at_permyriad` ten-thousandths of the limit on, this happens.

    `action` is `refuse` or `ceiling:TIER`.
    """

    at_permyriad: int
    action: str


@dataclass(frozen=True, slots=True)
class Alert:
    """A step that was reached: when that was seen, and what was spent by then."""

    step: Step
    settled_micro: int
    at_us: int


def steps_of(budget: Budget) -> tuple[Step, ...]:
    """Return the steps of a budget, lowest first; the last one is where turns are refused."""
    rungs = [
        Step(_permyriad(rung.at), f"ceiling:{rung.ceiling}")
        for rung in budget.ladder
        if rung.ceiling
    ]
    refusing = [rung.at for rung in budget.ladder if rung.action == "refuse"]
    last = Step(_permyriad(min([*refusing, 1.0])), "refuse")
    return (*(step for step in rungs if step.at_permyriad < last.at_permyriad), last)


def reached(budget: Budget, state: BudgetState, *, is_refusing: bool) -> Iterator[Step]:
    """Yield the steps that what is settled has reached; holds come and go and reach none.

    Holds keep spending below the limit, so the last step is reached as well by refusing a turn.
    """
    for step in steps_of(budget):
        is_spent = state.settled_micro * 10_000 >= budget.limit_micro * step.at_permyriad
        if is_spent or (is_refusing and step.action == "refuse"):
            yield step


class BudgetAlerts:
    """The alerts of every tenant.

    Args:
        engine: the SQL database.
        clock: aware UTC now.
    """

    def __init__(self, engine: Engine, clock: Callable[[], datetime]) -> None:
        self._database = Database(engine)
        self._clock = clock

    async def note(self, place: Place, step: Step, settled_micro: int) -> bool:
        """Keep that a step was reached; return whether nobody had done so before."""
        row = {
            "tenant": place.tenant,
            "spend_key": place.keys.spend,
            "limit_micro": place.budget.limit_micro if place.budget else 0,
            "at_permyriad": step.at_permyriad,
            "action": step.action,
            "settled_micro": settled_micro,
            "at_us": to_us(self._clock()),
        }

        def write(connection: Connection) -> bool:
            statement = insert_into(connection, alerts_table).values(row)
            # PostgreSQL's driver counts no rows of an INSERT; what it returns can be counted.
            told = statement.on_conflict_do_nothing().returning(alerts_table.c.at_us)
            return connection.execute(told).first() is not None

        return await self._database.write(write)

    async def of(self, place: Place) -> list[Alert]:
        """Return the alerts of a tenant's running period and limit, lowest step first."""
        table = alerts_table.c
        query = (
            select(table.at_permyriad, table.action, table.settled_micro, table.at_us)
            .where(
                table.tenant == place.tenant,
                table.spend_key == place.keys.spend,
                table.limit_micro == (place.budget.limit_micro if place.budget else 0),
            )
            .order_by(table.at_permyriad)
        )

        def read(connection: Connection) -> list[Alert]:
            rows = connection.execute(query)
            return [Alert(Step(at, action), settled, at_us) for at, action, settled, at_us in rows]

        return await self._database.read(read)


def _permyriad(share: float) -> int:
    # Shares have at most four digits after the point; money is never multiplied by a float.
    return round(share * 10_000)
