"""Outcomes: how good recorded turns turned out to be, as users and judges say.

Owns one figure per turn and voice, and its joining with what was decided. Keeps no text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import orjson
from sqlalchemy import Connection, Engine, select

from policies.database import Database
from policies.entry import to_us
from policies.tables import insert_into, outcomes_table, turns_table


class OutcomeSource(StrEnum):
    """Who said how good an answer was."""

    USER = "user"
    JUDGE = "judge"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one turn: `score` from 0 (useless) to 1 (just right)."""

    tenant: str
    request_id: str
    source: OutcomeSource
    score: float


@dataclass(frozen=True, slots=True)
class OutcomeOfTurn:
    """An outcome beside the turn's decision as it was recorded, and the tier that served."""

    outcome: Outcome
    tier: str
    decision: Mapping[str, Any]


class Outcomes:
    """The outcomes in the books' database; the books make the tables."""

    def __init__(self, engine: Engine) -> None:
        self._database = Database(engine)

    async def record(self, outcome: Outcome, at: datetime) -> None:
        """Keep an outcome; a later word of the same voice takes the place of its earlier one."""
        row = {
            "tenant": outcome.tenant,
            "request_id": outcome.request_id,
            "source": outcome.source.value,
            "score": outcome.score,
            "at_us": to_us(at),
        }
        place = ["tenant", "request_id", "source"]

        def write(connection: Connection) -> None:
            statement = insert_into(connection, outcomes_table).values(row)
            newest = {"score": row["score"], "at_us": row["at_us"]}
            connection.execute(statement.on_conflict_do_update(index_elements=place, set_=newest))

        await self._database.write(write)

    async def of_turns(self, tenant: str | None = None) -> list[OutcomeOfTurn]:
        """Return outcomes whose turns were answered by a model and decided on, oldest first.

        Args:
            tenant: whose; None for all.
        """
        outcomes, turns = outcomes_table.c, turns_table.c
        query = (
            select(outcomes_table, turns.tier, turns.record)
            .join(
                turns_table,
                (turns.tenant == outcomes.tenant) & (turns.request_id == outcomes.request_id),
            )
            .order_by(outcomes.at_us)
        )
        if tenant is not None:
            query = query.where(outcomes.tenant == tenant)

        def read(connection: Connection) -> list[OutcomeOfTurn]:
            found = []
            for row in connection.execute(query):
                record = orjson.loads(row.record)
                if record.get("decision") and record.get("cache", "none") == "none":
                    outcome = Outcome(
                        row.tenant, row.request_id, OutcomeSource(row.source), row.score
                    )
                    found.append(OutcomeOfTurn(outcome, row.tier, record["decision"]))
            return found

        return await self._database.read(read)
