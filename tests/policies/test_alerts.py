from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis
from sqlalchemy import Engine

from gateway.budget_watch import BudgetWatch
from gateway.telemetry import Metrics
from policies.alerts import BudgetAlerts, Step, reached, steps_of
from policies.budget import Budget, BudgetState, Rung
from policies.entry import EntryClosing, EntryOpening
from policies.errors import BudgetExceeded
from policies.ledger import Ledger

Opening = Callable[..., EntryOpening]
Closing = Callable[..., EntryClosing]
BUDGET = Budget(10_000_000, "INR", ladder=(Rung(0.8, ceiling="small"), Rung(1.0, action="refuse")))
LOW, LAST = Step(8_000, "ceiling:small"), Step(10_000, "refuse")


@pytest.fixture
def alerts(engine: Engine, clock: Any) -> BudgetAlerts:
    return BudgetAlerts(engine, clock)


def told(metrics: Metrics) -> float:
    return sum(
        metrics.registry.get_sample_value("turnwise_budget_alerts_total", {"action": action}) or 0
        for action in ("ceiling", "refuse")
    )


async def spend(ledger: Ledger, opening: EntryOpening, closing: EntryClosing) -> None:
    held = await ledger.reserve(opening, BUDGET, closing.charge_micro)
    await ledger.settle(held, closing, {})


def test_a_budget_without_a_ladder_has_one_step_at_its_limit() -> None:
    assert steps_of(Budget(1, "INR")) == (LAST,)


def test_steps_above_the_refusing_one_are_never_reached_and_are_none() -> None:
    ladder = (Rung(0.5, ceiling="small"), Rung(0.7, action="refuse"), Rung(0.9, ceiling="none"))
    assert steps_of(Budget(1, "INR", ladder=ladder)) == (
        Step(5_000, "ceiling:small"),
        Step(7_000, "refuse"),
    )


@given(settled=st.integers(0, 12_000_000), held=st.integers(0, 12_000_000))
def test_what_is_held_reaches_no_step(settled: int, held: int) -> None:
    state = BudgetState(10_000_000, settled, held, "INR", "month", None)
    found = list(reached(BUDGET, state, is_refusing=False))
    assert (LOW in found, LAST in found) == (settled >= 8_000_000, settled >= 10_000_000)


async def test_a_step_is_told_once_by_all_workers_together(
    redis: Redis, clock: Any, alerts: BudgetAlerts, opening: Opening, closing: Closing
) -> None:
    workers = []
    for _ in range(4):
        ledger, metrics = Ledger(redis, clock), Metrics()
        workers.append((ledger, metrics, BudgetWatch(ledger, alerts, metrics)))
    await spend(workers[0][0], opening(0), closing(8_000_000))
    for number, (ledger, _, _) in enumerate(workers, 1):
        await spend(ledger, opening(number), closing(1))
    for _ in range(3):
        await asyncio.gather(*(watch.look() for _, _, watch in workers))
    assert sum(told(metrics) for _, metrics, _ in workers) == 1
    place = workers[0][0].spending.place("acme", BUDGET, "INR")
    (alert,) = await alerts.of(place)
    assert alert.step == LOW
    assert alert.settled_micro >= 8_000_000


async def test_a_new_period_and_a_new_limit_have_steps_of_their_own(
    redis: Redis, clock: Any, alerts: BudgetAlerts, opening: Opening, closing: Closing
) -> None:
    ledger, metrics = Ledger(redis, clock), Metrics()
    watch = BudgetWatch(ledger, alerts, metrics)
    await spend(ledger, opening(1), closing(9_000_000))
    await watch.look()
    clock.advance(31 * 86_400)
    await spend(ledger, opening(2), closing(9_000_000))
    await watch.look()
    higher = Budget(11_000_000, "INR", ladder=BUDGET.ladder)
    await ledger.state("acme", higher, "INR")
    await watch.look()
    assert told(metrics) == 3
    assert len(await alerts.of(ledger.spending.place("acme", higher, "INR"))) == 1


async def test_the_first_turn_that_is_refused_reaches_the_last_step(
    redis: Redis, clock: Any, alerts: BudgetAlerts, opening: Opening, closing: Closing
) -> None:
    ledger, metrics = Ledger(redis, clock), Metrics()
    watch = BudgetWatch(ledger, alerts, metrics)
    await spend(ledger, opening(1), closing(7_000_000))
    await watch.look()
    for number in (2, 3):
        with pytest.raises(BudgetExceeded):
            await ledger.reserve(opening(number), BUDGET, 4_000_000)
        ledger.spending.note_refusal(ledger.spending.place("acme", BUDGET, "INR"))
        await watch.look()
    assert told(metrics) == 1
    assert [
        alert.step for alert in await alerts.of(ledger.spending.place("acme", BUDGET, "INR"))
    ] == [LAST]


async def test_the_log_says_what_happens_from_then_on(
    redis: Redis,
    clock: Any,
    alerts: BudgetAlerts,
    opening: Opening,
    closing: Closing,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ledger = Ledger(redis, clock)
    watch = BudgetWatch(ledger, alerts, Metrics())
    await spend(ledger, opening(1), closing(10_000_000))
    await watch.look()
    lines = [record.getMessage() for record in caplog.records if record.name == "turnwise.budget"]
    assert lines == [
        "budget of acme: 10.00 of 10.00 INR are spent, the step at 80 % is reached: nothing above "
        "the tier small until 2026-12-01T00:00:00+00:00",
        "budget of acme: 10.00 of 10.00 INR are spent, the step at 100 % is reached: turns are "
        "refused until 2026-12-01T00:00:00+00:00",
    ]
