"""Watches how far each budget is spent, and tells once when a step of its ladder is reached.

A row that the dashboard and `GET /v1/budget` show, a metric and a line of the log. Looks at what
the ledger's scripts have told this process anyway, so a turn pays nothing for it.
"""

from __future__ import annotations

import logging

from gateway.telemetry import Metrics
from policies.alerts import BudgetAlerts, Step, reached
from policies.budget import BudgetState
from policies.ledger import Ledger
from policies.reservation import Place

log = logging.getLogger("turnwise.budget")
WATCH_S = 1.0
_MOST_REMEMBERED = 100_000


class BudgetWatch:
    """Looks at every budget this process has heard of.

    Args:
        ledger: knows them.
        alerts: keeps each step once, whichever process sees it first.
        metrics: counts alerts by what happens from then on.
    """

    def __init__(self, ledger: Ledger, alerts: BudgetAlerts, metrics: Metrics) -> None:
        self._ledger = ledger
        self._alerts = alerts
        self._metrics = metrics
        self._seen: set[tuple[str, int, Step]] = set()

    async def look(self) -> None:
        """Tell of the steps reached since the last look; called every `WATCH_S`."""
        for place, state, is_refusing in self._ledger.spending.known():
            if place.budget is None:
                continue
            for step in reached(place.budget, state, is_refusing=is_refusing):
                key = (place.keys.spend, place.budget.limit_micro, step)
                if key in self._seen:
                    continue
                if await self._alerts.note(place, step, state.settled_micro):
                    self._tell(place, step, state)
                if len(self._seen) >= _MOST_REMEMBERED:
                    self._seen.clear()  # the rows know, only more slowly
                self._seen.add(key)

    def _tell(self, place: Place, step: Step, state: BudgetState) -> None:
        action, _, tier = step.action.partition(":")
        self._metrics.budget_alerts.labels(action).inc()
        log.warning(
            "budget of %s: %.2f of %.2f %s are spent, the step at %g %% is reached: %s",
            place.tenant,
            state.settled_micro / 1e6,
            (state.limit_micro or 0) / 1e6,
            place.currency,
            step.at_permyriad / 100,
            f"nothing above the tier {tier} until {place.period.end.isoformat()}"
            if tier
            else f"turns are refused until {place.period.end.isoformat()}",
        )
