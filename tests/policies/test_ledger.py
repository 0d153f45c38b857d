from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisDown

from policies.budget import Budget, Rung
from policies.entry import ORPHANED, EntryClosing, EntryOpening
from policies.errors import BudgetExceeded, LedgerUnavailable
from policies.ledger import LEASE_S, Ledger, ledger_keys

Opening = Callable[..., EntryOpening]
Closing = Callable[..., EntryClosing]
BUDGET = Budget(10_000_000, "INR")


@pytest.fixture
def ledger(redis: Redis, clock: Any) -> Ledger:
    return Ledger(redis, clock)


async def records_of(redis: Redis, tenant: str = "acme") -> list[dict[str, Any]]:
    found: Any = await redis.xrange(ledger_keys(tenant).stream)
    return [orjson.loads(fields[b"e"]) for _, fields in found]


async def test_a_hold_is_reserved_and_settling_gives_the_rest_back(
    ledger: Ledger, opening: Opening, closing: Closing
) -> None:
    held = await ledger.reserve(opening(), BUDGET, 4_000_000)
    assert (held.state.settled_micro, held.state.reserved_micro) == (0, 4_000_000)
    state = await ledger.settle(held, closing(1_000_000), {})
    assert (state.settled_micro, state.reserved_micro) == (1_000_000, 0)
    assert state == await ledger.state("acme", BUDGET, "INR")


async def test_a_hold_that_does_not_fit_is_refused_and_opens_nothing(
    ledger: Ledger, redis: Redis, opening: Opening
) -> None:
    with pytest.raises(BudgetExceeded) as refused:
        await ledger.reserve(opening(), BUDGET, 10_000_001)
    assert refused.value.limit_micro == 10_000_000
    assert refused.value.currency == "INR"
    assert refused.value.resets_at.isoformat() == "2026-12-01T00:00:00+00:00"
    assert await redis.hlen(ledger_keys("acme").open) == 0


async def test_a_spent_budget_refuses_even_a_turn_that_costs_nothing(
    ledger: Ledger, opening: Opening, closing: Closing
) -> None:
    held = await ledger.reserve(opening(1), BUDGET, 10_000_000)
    await ledger.settle(held, closing(10_000_000), {})
    with pytest.raises(BudgetExceeded, match=r"of 10\.00 INR is spent"):
        await ledger.reserve(opening(2), BUDGET, 0)


async def test_a_refusing_rung_refuses_before_the_limit(ledger: Ledger, opening: Opening) -> None:
    budget = Budget(10_000_000, "INR", ladder=(Rung(0.5, action="refuse"),))
    await ledger.reserve(opening(1), budget, 5_000_000)
    with pytest.raises(BudgetExceeded):
        await ledger.reserve(opening(2), budget, 1)


async def test_of_200_concurrent_turns_exactly_those_that_fit_are_admitted(
    redis_server: Any, redis: Redis, clock: Any, opening: Opening
) -> None:
    wide = Redis(unix_socket_path=str(redis_server), max_connections=200)
    async with wide:
        workers = [Ledger(wide, clock) for _ in range(4)]
        outcomes = await asyncio.gather(
            *(workers[n % 4].reserve(opening(n), BUDGET, 1_000_000) for n in range(200)),
            return_exceptions=True,
        )
    held = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    refused = [outcome for outcome in outcomes if isinstance(outcome, BudgetExceeded)]
    assert (len(held), len(refused)) == (10, 190)


async def test_a_tenant_without_a_budget_still_gets_its_entries(
    ledger: Ledger, redis: Redis, opening: Opening, closing: Closing
) -> None:
    held = await ledger.reserve(opening(), None, 0)
    assert held.state.limit_micro is None
    assert await ledger.pending("acme", "req_1") is not None
    await ledger.settle(held, closing(7), {"request_id": "req_1"})
    assert await ledger.pending("acme", "req_1") is None
    (record,) = await records_of(redis)
    assert record["entry"]["status"] == "complete"
    assert record["turn"] == {"request_id": "req_1"}


async def test_settling_twice_counts_once(
    ledger: Ledger, opening: Opening, closing: Closing
) -> None:
    held = await ledger.reserve(opening(), BUDGET, 4_000_000)
    await ledger.settle(held, closing(1_000_000), {})
    state = await ledger.settle(held, closing(3_000_000), {})
    assert (state.settled_micro, state.reserved_micro) == (1_000_000, 0)


async def test_each_attempt_gets_its_own_entry_under_one_hold(
    ledger: Ledger, redis: Redis, opening: Opening, closing: Closing
) -> None:
    held = await ledger.reserve(opening(n=1), BUDGET, 4_000_000)
    await ledger.next_attempt(held, closing(100, "failed"), opening(n=2, model="claude"))
    assert (held.state.settled_micro, held.state.reserved_micro) == (100, 4_000_000)
    state = await ledger.settle(held, closing(200), {})
    assert (state.settled_micro, state.reserved_micro) == (300, 0)
    entries = [record["entry"] for record in await records_of(redis)]
    assert [(entry["id"], entry["model"], entry["status"]) for entry in entries] == [
        ("req_1:1", "gpt", "failed"),
        ("req_1:2", "claude", "complete"),
    ]


async def test_a_turn_of_one_attempt_costs_two_round_trips(
    ledger: Ledger, redis: Redis, opening: Opening, closing: Closing
) -> None:
    await ledger.settle(await ledger.reserve(opening(1), BUDGET, 100), closing(1), {})
    asked: list[str] = []
    execute = redis.execute_command

    async def counted(*args: Any, **options: Any) -> Any:
        asked.append(args[0])
        return await execute(*args, **options)

    redis.execute_command = counted  # type: ignore[method-assign]
    await ledger.state("acme", BUDGET, "INR", max_age_s=1.0)
    await ledger.settle(await ledger.reserve(opening(2), BUDGET, 100), closing(1), {})
    assert asked == ["EVALSHA", "EVALSHA"]


async def test_an_expired_lease_gives_the_hold_back_and_closes_the_entry_as_failed(
    ledger: Ledger, redis: Redis, clock: Any, opening: Opening
) -> None:
    estimate = {"usd_micro": 1, "micro": 85, "rate": "85", "rate_date": "2026-04-01"}
    dying = opening(input_tokens=40, estimate=estimate, estimate_charge_micro=85)
    await ledger.reserve(dying, BUDGET, 4_000_000)  # its owner is gone
    clock.advance(LEASE_S - 1)
    assert await ledger.sweep() == 0
    clock.advance(2)
    assert await ledger.sweep() == 1
    assert await ledger.sweep() == 0
    state = await ledger.state("acme", BUDGET, "INR")
    assert (state.settled_micro, state.reserved_micro) == (85, 0)
    (record,) = await records_of(redis)
    entry = record["entry"]
    assert (entry["status"], entry["error"], entry["cost"]) == ("failed", ORPHANED, estimate)
    assert entry["usage"] == {"input_tokens": 40, "output_tokens": 0, "is_estimated": True}
    assert record["turn"]["status"] == "failed"


async def test_the_true_end_of_a_swept_entry_replaces_its_estimate(
    ledger: Ledger, redis: Redis, clock: Any, opening: Opening, closing: Closing
) -> None:
    held = await ledger.reserve(opening(estimate_charge_micro=85), BUDGET, 4_000_000)
    clock.advance(LEASE_S + 1)
    await ledger.sweep()
    state = await ledger.settle(held, closing(500), {})
    assert (state.settled_micro, state.reserved_micro) == (500, 0)
    assert [record["entry"]["is_orphan"] for record in await records_of(redis)] == [True, False]


async def test_a_renewed_lease_keeps_a_long_stream_open(
    ledger: Ledger, clock: Any, opening: Opening
) -> None:
    held = await ledger.reserve(opening(), BUDGET, 100)
    for _ in range(5):
        clock.advance(LEASE_S / 2)
        await ledger.renew()
    assert await ledger.sweep() == 0
    assert held.state.reserved_micro == 100


async def test_a_reservation_that_was_let_go_is_not_renewed(
    ledger: Ledger, clock: Any, opening: Opening
) -> None:
    await ledger.reserve(opening(), BUDGET, 100)
    clock.advance(LEASE_S / 2)
    await ledger.renew()
    clock.advance(LEASE_S / 2 + 1)
    assert await ledger.sweep() == 1


async def test_a_closing_that_redis_did_not_take_is_kept_and_sent_later_in_order(
    ledger: Ledger, redis: Redis, opening: Opening, closing: Closing
) -> None:
    held = await ledger.reserve(opening(n=1), BUDGET, 1_000)
    execute = redis.execute_command

    async def down(*args: Any, **options: Any) -> Any:
        raise RedisDown("away")

    redis.execute_command = down  # type: ignore[method-assign]
    with pytest.raises(LedgerUnavailable):
        await ledger.next_attempt(held, closing(1, "failed"), opening(n=2, model="claude"))
    with pytest.raises(LedgerUnavailable):
        await ledger.settle(held, closing(20), {})
    assert await ledger.send_unsent() == 1
    redis.execute_command = execute  # type: ignore[method-assign]
    assert await ledger.send_unsent() == 0
    state = await ledger.state("acme", BUDGET, "INR")
    assert (state.settled_micro, state.reserved_micro) == (21, 0)
    entries = [record["entry"] for record in await records_of(redis)]
    assert [(entry["n"], entry["model"]) for entry in entries] == [(1, "gpt"), (2, "claude")]


async def test_two_senders_of_one_closing_count_it_once(
    ledger: Ledger, redis: Redis, opening: Opening, closing: Closing
) -> None:
    held = await ledger.reserve(opening(n=1), BUDGET, 1_000)
    await asyncio.gather(
        ledger.next_attempt(held, closing(1, "failed"), opening(n=2)),
        ledger.settle(held, closing(20), {}),
        ledger.send_unsent(),
        ledger.send_unsent(),
    )
    state = await ledger.state("acme", BUDGET, "INR")
    assert (state.settled_micro, state.reserved_micro) == (21, 0)
    assert await redis.hlen(ledger_keys("acme").open) == 0
    assert [record["entry"]["n"] for record in await records_of(redis)] == [1, 2]


async def test_a_budget_in_a_third_currency_holds_nothing_and_says_why(
    ledger: Ledger, opening: Opening
) -> None:
    with pytest.raises(LedgerUnavailable, match="The budget is in EUR, but acme counts in INR"):
        await ledger.reserve(opening(), Budget(1_000, "EUR"), 1)


async def test_a_reply_that_was_lost_does_not_count_twice(
    ledger: Ledger, redis: Redis, opening: Opening, closing: Closing
) -> None:
    held = await ledger.reserve(opening(), BUDGET, 1_000)
    execute = redis.execute_command

    async def deaf(*args: Any, **options: Any) -> Any:
        await execute(*args, **options)
        raise TimeoutError

    redis.execute_command = deaf  # type: ignore[method-assign]
    with pytest.raises(LedgerUnavailable):
        await ledger.settle(held, closing(20), {})
    redis.execute_command = execute  # type: ignore[method-assign]
    state = await ledger.settle(held, closing(20), {})
    assert (state.settled_micro, state.reserved_micro) == (20, 0)


async def test_money_held_before_a_period_ends_is_charged_to_that_period(
    ledger: Ledger, clock: Any, opening: Opening, closing: Closing
) -> None:
    budget = Budget(1_000, "INR", period="day", timezone="Asia/Kolkata")
    held = await ledger.reserve(opening(), budget, 1_000)
    clock.advance(86_400)
    assert (await ledger.settle(held, closing(900), {})).settled_micro == 900
    assert (await ledger.state("acme", budget, "INR")).settled_micro == 0


async def test_a_redis_that_is_away_refuses_reservations(
    ledger: Ledger, redis: Redis, opening: Opening
) -> None:
    async def down(*args: Any, **options: Any) -> Any:
        raise TimeoutError

    redis.execute_command = down  # type: ignore[method-assign]
    with pytest.raises(LedgerUnavailable):
        await ledger.reserve(opening(), BUDGET, 1)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    limit=st.integers(0, 60),
    steps=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20), st.booleans()), max_size=30),
)
def test_settled_and_reserved_never_pass_the_limit_at_a_reserve(
    redis_server: Any,
    clock: Any,
    opening: Opening,
    closing: Closing,
    limit: int,
    steps: list[tuple[int, int, bool]],
) -> None:
    async def run() -> None:
        redis = Redis(unix_socket_path=str(redis_server))
        await redis.flushall()
        ledger, budget = Ledger(redis, clock), Budget(limit, "INR")
        open_ones: list[Any] = []
        try:
            for number, (hold, charge, is_closed_now) in enumerate(steps):
                try:
                    held = await ledger.reserve(opening(number), budget, hold)
                except BudgetExceeded:
                    pass
                else:
                    state = held.state
                    assert state.settled_micro + state.reserved_micro <= limit
                    open_ones.append((held, min(charge, hold)))
                if is_closed_now and open_ones:
                    held, spent = open_ones.pop(0)
                    await ledger.settle(held, closing(spent), {})
            for held, spent in open_ones:
                await ledger.settle(held, closing(spent), {})
            final = await ledger.state("acme", budget, "INR")
            charged = sum(r["entry"]["charge_micro"] for r in await records_of(redis))
            assert (final.reserved_micro, final.settled_micro) == (0, charged)
        finally:
            await redis.aclose()

    asyncio.run(run())


async def test_what_open_turns_can_cost_at_worst_passes_the_limit_by_the_overshoot_at_most(
    redis: Redis, clock: Any, opening: Opening, closing: Closing
) -> None:
    budget = Budget(10_000_000, "INR", overshoot_micro=4_000_000)
    ledger = Ledger(redis, clock)
    held = []
    for number in range(40):
        with contextlib.suppress(BudgetExceeded):
            held.append(
                await ledger.reserve(opening(number), budget, 500_000, worst_micro=2_000_000)
            )
    assert len(held) == 7  # seven worst cases make 14 million, twenty expected ones 10 million
    for reservation in held:
        await ledger.settle(reservation, closing(2_000_000), {})
    state = await ledger.state("acme", budget, "INR")
    assert (state.settled_micro, state.reserved_micro) == (14_000_000, 0)
    keys = ledger.spending.place("acme", budget, "INR").keys
    assert int(await redis.hget(keys.spend, "exposed")) == 0


async def test_expected_costs_never_pass_the_limit_itself(
    redis: Redis, clock: Any, opening: Opening
) -> None:
    budget = Budget(10_000_000, "INR", overshoot_micro=90_000_000)
    ledger = Ledger(redis, clock)
    for number in range(5):
        await ledger.reserve(opening(number), budget, 2_000_000, worst_micro=9_000_000)
    with pytest.raises(BudgetExceeded):
        await ledger.reserve(opening(9), budget, 1, worst_micro=1)


async def test_a_hold_is_raised_by_what_is_missing_and_given_back_whole(
    ledger: Ledger, opening: Opening, closing: Closing
) -> None:
    held = await ledger.reserve(opening(n=1), BUDGET, 4_000_000)
    await ledger.extend(held, 6_000_000, 6_000_000)
    assert held.state.reserved_micro == 6_000_000
    await ledger.extend(held, 5_000_000, 5_000_000)  # it is more already
    await ledger.next_attempt(held, closing(2_000_000, "failed"), opening(n=2))
    assert (held.state.settled_micro, held.state.reserved_micro) == (2_000_000, 6_000_000)
    state = await ledger.settle(held, closing(4_000_000), {})
    assert (state.settled_micro, state.reserved_micro) == (6_000_000, 0)


async def test_a_hold_that_cannot_be_raised_stays_as_it_was(
    ledger: Ledger, redis: Redis, opening: Opening, closing: Closing
) -> None:
    held = await ledger.reserve(opening(1), BUDGET, 4_000_000)
    await ledger.reserve(opening(2), BUDGET, 5_000_000)
    with pytest.raises(BudgetExceeded):
        await ledger.extend(held, 5_000_001, 5_000_001)
    state = await ledger.state("acme", BUDGET, "INR")
    assert (state.settled_micro, state.reserved_micro) == (0, 9_000_000)
    await ledger.settle(held, closing(4_000_000), {})
    state = await ledger.state("acme", BUDGET, "INR")
    assert (state.settled_micro, state.reserved_micro) == (4_000_000, 5_000_000)


async def test_worst_cases_that_are_raised_stay_within_the_overshoot(
    ledger: Ledger, redis: Redis, opening: Opening, closing: Closing
) -> None:
    budget = Budget(10_000_000, "INR", overshoot_micro=2_000_000)
    held = await ledger.reserve(opening(), budget, 1_000_000, worst_micro=9_000_000)
    await ledger.extend(held, 2_000_000, 12_000_000)
    with pytest.raises(BudgetExceeded):
        await ledger.extend(held, 2_000_000, 12_000_001)
    await ledger.settle(held, closing(1), {})
    spend = held.place.keys.spend
    assert [int(n or 0) for n in await redis.hmget(spend, ["reserved", "exposed"])] == [0, 0]


async def test_the_hold_of_an_entry_that_was_swept_cannot_be_raised(
    ledger: Ledger, clock: Any, opening: Opening
) -> None:
    held = await ledger.reserve(opening(), BUDGET, 1_000)
    clock.advance(LEASE_S + 1)
    await ledger.sweep()
    with pytest.raises(LedgerUnavailable, match="is not open any more"):
        await ledger.extend(held, 2_000, 2_000)
