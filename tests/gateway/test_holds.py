from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.holds import Plan, check_cap, hold_for, output_tokens_of, usual_longest
from gateway.models import ServedModel
from gateway.token_count import estimate_tokens
from gateway.turn import Turn
from memory.conversation import Message
from policies.catalog import ModelSpec, Price
from policies.errors import CostCapExceeded
from policies.expected_output import ExpectedOutput
from policies.usage import Usage, usd_of
from tests.fakes import FakeBackend

DAY = date(2026, 11, 25)
PRICE = Price(Decimal(3), Decimal("0.3"), Decimal("3.75"), Decimal(15))


def served(name: str = "m", price: Price | None = PRICE, limit: int = 1000) -> ServedModel:
    spec = ModelSpec(name, "b", name, 100_000, max_output_tokens=limit, price=price)
    return ServedModel(spec, FakeBackend(), estimate_tokens)


def turn(**params: int) -> Turn:
    return Turn("req_1", (Message("user", "hello"),), params=params)


def test_each_of_several_choices_is_held_for() -> None:
    assert output_tokens_of(served(), turn(n=3), 10, None, DAY) == 3000
    assert output_tokens_of(served(), turn(n=3, max_completion_tokens=50), 10, None, DAY) == 150


def test_the_dearest_model_of_a_plan_is_held_for() -> None:
    dear = served("dear", Price(Decimal(3), None, None, Decimal(30)))
    plan = Plan([served(), dear], 100, lambda model: 1000)
    held = hold_for(plan, ExpectedOutput(), "acme", DAY, is_learned=True)
    assert held.expected_usd == held.worst_usd == Decimal("0.0303")


def test_what_was_learned_is_expected_and_the_worst_case_stays() -> None:
    expected = ExpectedOutput()
    for _ in range(30):
        expected.observe("acme", "m", 100, None)
    plan = Plan([served()], 0, lambda model: 1000)
    held = hold_for(plan, expected, "acme", DAY, is_learned=True)
    assert (held.expected_usd, held.worst_usd) == (Decimal("0.0015"), Decimal("0.015"))
    assert hold_for(plan, expected, "acme", DAY, is_learned=False).expected_usd == held.worst_usd


@given(
    cap_micro=st.integers(0, 100_000),
    input_tokens=st.integers(0, 20_000),
    n=st.integers(1, 5),
    used=st.integers(0, 5_000),
    cached=st.integers(0, 20_000),
    written=st.integers(0, 20_000),
)
def test_a_turn_that_passes_the_check_never_costs_more_than_its_cap(
    cap_micro: int, input_tokens: int, n: int, used: int, cached: int, written: int
) -> None:
    model, cap_usd = served(limit=4000), Decimal(cap_micro) / 1_000_000
    most = output_tokens_of(model, turn(n=n), input_tokens, cap_usd, DAY)
    plan = Plan([model], input_tokens, lambda _: most)
    try:
        check_cap(plan, model, cap_usd, DAY)
    except CostCapExceeded:
        # Not even the prompt and one token a choice are affordable.
        dearest = Decimal("3.75") * input_tokens + 15 * n
        assert dearest > cap_micro
        return
    cached = min(cached, input_tokens)
    usage = Usage(input_tokens, min(used, most), cached, min(written, input_tokens - cached))
    cost = usd_of(usage, PRICE)
    assert cost is not None
    assert cost <= cap_usd


def test_what_was_spent_already_counts_towards_the_cap() -> None:
    plan = Plan([served()], 0, lambda model: 1000)  # 0.015 USD at most
    check_cap(plan, plan.models[0], Decimal("0.02"), DAY, Decimal("0.005"))
    with pytest.raises(CostCapExceeded, match=r"up to 0\.020001 USD on m, .* cost 0\.020000 USD"):
        check_cap(plan, plan.models[0], Decimal("0.02"), DAY, Decimal("0.005001"))


def test_a_model_without_a_price_for_output_has_no_bound_of_tokens() -> None:
    busy = served(price=Price(busy_second_usd=Decimal("0.0008")))
    assert output_tokens_of(busy, turn(), 10, Decimal("0.000001"), DAY) == 1000


def test_twice_the_longest_answer_seen_is_what_answers_are_kept_short_to() -> None:
    expected = ExpectedOutput()
    for tokens in (*range(1, 30), 70):
        expected.observe("acme", "m", tokens, None)
    plan = Plan([served(), served("unknown")], 0, lambda model: 1000)
    assert usual_longest(plan, turn(n=2), expected, "acme") == {"m": 280}
    assert usual_longest(plan, turn(max_completion_tokens=9), expected, "acme") == {}
    short = plan.kept_short({"m": 280})
    assert [short.output_tokens(model) for model in plan.models] == [280, 1000]
