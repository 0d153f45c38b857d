"""decide(): boundary over ceiling over floor; who is excluded, and by what code."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.conversation import Message
from policies.budget import Budget, Rung
from policies.catalog import ModelCatalog, ModelSpec, Price
from policies.policy import Policy, Rule, Tier
from router.decision import Exclusion, Labels, Reason, RoutingDecision, decide, decided_again
from router.errors import ContextTooLong, ModelNotFound, NoTierAllowed
from router.labels import Prediction
from router.request import Load, RouteRequest
from router.table import RoutingTable

ALL = frozenset({"tools", "json", "images"})


def price(usd: str) -> Price:
    return Price(input_usd_per_mtok=Decimal(usd), output_usd_per_mtok=Decimal(usd))


CATALOG = ModelCatalog(
    {
        "tiny": ModelSpec(
            "tiny",
            "local",
            "bundled",
            2048,
            price=Price(busy_second_usd=Decimal("0.0008")),
            region="on_premises",
        ),
        "tiny-far": ModelSpec("tiny-far", "far", "t", 8192, price=price("0.1"), region="in"),
        "mid": ModelSpec("mid", "far", "m", 32_000, price=price("1"), supports=ALL, region="in"),
        "big": ModelSpec("big", "far", "b", 200_000, price=price("10"), supports=ALL),
        "big-2": ModelSpec("big-2", "far", "b2", 200_000, price=price("20"), supports=ALL),
    }
)
POLICY = Policy(
    name="test",
    version=3,
    tiers=(
        Tier("small", ("tiny", "tiny-far")),
        Tier("middle", ("mid",)),
        Tier("strong", ("big", "big-2")),
    ),
    thresholds={"middle": 0.4, "strong": 0.7},
    floor="small",
    ceiling="strong",
    safe="strong",
)
TIERS = ["small", "middle", "strong"]


def scored(score: float, **labels: object) -> Prediction:
    known = {"language": "en", "task": "chat", "domain": "general", "pii": False, "unsafe": False}
    return Prediction(score, Labels(**{**known, **labels}))  # type: ignore[arg-type]


def asked(requested: str = "auto", **facts: object) -> RouteRequest:
    facts.setdefault("messages", [Message("user", "hello")])
    facts.setdefault("input_tokens", 100)
    facts.setdefault("output_tokens", 100)
    return RouteRequest(requested=requested, **facts)  # type: ignore[arg-type]


def route(
    score: float | None = 0.1, request: RouteRequest | None = None, **more: object
) -> RoutingDecision:
    prediction = more.pop("prediction", None if score is None else scored(score))
    policy = more.pop("policy", POLICY)
    table = RoutingTable.of(policy, more.pop("catalog", CATALOG))  # type: ignore[arg-type]
    return decide(request or asked(), prediction, table, **more)  # type: ignore[arg-type]


def excluded(decision: RoutingDecision) -> dict[str, Exclusion | None]:
    return {candidate.model: candidate.excluded_by for candidate in decision.candidates}


@pytest.mark.parametrize(
    ("score", "tier"),
    [(0.0, "small"), (0.39, "small"), (0.4, "middle"), (0.7, "strong"), (1.0, "strong")],
)
def test_the_highest_threshold_at_or_below_the_score_wins(score, tier):
    decision = route(score)
    assert (decision.tier, decision.reason) == (tier, Reason.SCORE)


def test_a_decision_names_every_candidate_and_its_fallbacks():
    decision = route(0.5)
    assert [candidate.model for candidate in decision.candidates] == list(CATALOG)
    assert decision.fallbacks == ("big", "big-2", "tiny", "tiny-far")
    assert decision.policy == "test@3"


def test_the_same_inputs_give_the_same_decision():
    assert route(0.5) == route(0.5)


def test_auto_fast_is_the_floor_and_auto_best_the_ceiling():
    policy = replace(POLICY, floor="middle", ceiling="middle")
    for requested, reason in (("auto:fast", Reason.FAST), ("auto:best", Reason.BEST)):
        assert route(0.9, asked(requested)).tier == ("small" if "fast" in requested else "strong")
        decision = route(0.9, asked(requested), policy=policy)
        assert (decision.tier, decision.reason) == ("middle", reason)


def test_a_pinned_model_serves_with_those_after_it_in_its_tier_as_fallbacks():
    decision = route(0.0, asked("big"))
    assert (decision.model, decision.fallbacks) == ("big", ("big-2",))
    assert decision.reason is Reason.PINNED
    assert route(0.0, asked("big-2")).fallbacks == ()


@pytest.mark.parametrize("name", ["gpt-unknown", "", "AUTO", "auto:cheap", "x" * 10_000])
def test_a_name_outside_the_policy_is_not_found(name):
    with pytest.raises(ModelNotFound):
        route(0.0, asked(name))


def test_boundary_and_ceiling_bind_a_pinned_model():
    with pytest.raises(NoTierAllowed, match="boundary"):
        route(0.0, asked("big"), policy=replace(POLICY, boundary="on_premises"))
    with pytest.raises(NoTierAllowed, match="ceiling"):
        route(0.0, asked("big"), policy=replace(POLICY, ceiling="middle"))


def test_a_boundary_excludes_models_of_unknown_region():
    decision = route(0.9, policy=replace(POLICY, boundary="region:in"))
    assert decision.model == "mid"
    assert decision.reason is Reason.BOUNDARY
    assert excluded(decision)["big"] is Exclusion.BOUNDARY
    assert set(decision.fallbacks) == {"tiny-far"}


def test_a_boundary_lowers_the_floor_below_itself():
    decision = route(0.9, policy=replace(POLICY, boundary="on_premises", floor="strong"))
    assert decision.model == "tiny"
    assert decision.fallbacks == ()


def test_no_model_inside_boundary_and_ceiling_is_refused():
    with pytest.raises(NoTierAllowed) as caught:
        route(0.0, policy=replace(POLICY, boundary="region:eu"))
    assert set(caught.value.excluded.values()) == {"boundary"}


def test_a_ceiling_wins_over_floor_and_minimum_tier():
    rule = Rule(when={"language": ("en",)}, floor="strong")
    policy = replace(POLICY, ceiling="middle", rules=(rule,))
    decision = route(0.0, asked(min_tier="strong"), policy=policy)
    assert decision.tier == "middle"


def test_the_budget_ladder_lowers_the_ceiling():
    budget = Budget(1_000_000, "INR", ladder=(Rung(0.5, "middle"), Rung(0.8, "small")))
    policy = replace(POLICY, budget=budget)
    assert route(0.9, policy=policy, used_share=(0.1)).tier == "strong"
    assert route(0.9, policy=policy, used_share=(0.5)).tier == "middle"
    decision = route(0.9, asked("auto:best"), policy=policy, used_share=(0.8))
    assert (decision.tier, excluded(decision)["big"]) == ("small", Exclusion.BUDGET)
    assert route(0.9, policy=policy, used_share=(0.9)).reason is Reason.BUDGET


def test_a_minimum_tier_raises_the_floor():
    decision = route(0.0, asked(min_tier="strong"))
    assert (decision.tier, decision.reason) == ("strong", Reason.MIN_TIER)


def test_the_first_rule_that_holds_wins():
    rules = (
        Rule(when={"language": ("ta", "te")}, floor="strong"),
        Rule(when={"language": ("ta",)}, floor="middle", boundary="region:in"),
    )
    decision = route(policy=replace(POLICY, rules=rules), prediction=scored(0.0, language="ta"))
    assert (decision.tier, decision.reason) == ("strong", Reason.RULE)
    assert route(0.0, policy=replace(POLICY, rules=rules)).tier == "small"


def test_an_unknown_fact_triggers_a_restricting_rule_and_hides_no_other():
    rules = (
        Rule(when={"language": ("ta",)}, floor="middle"),
        Rule(when={"pii": (True,)}, boundary="region:in"),
    )
    policy = replace(POLICY, rules=rules)
    decision = route(policy=policy, prediction=scored(0.0, language=None, pii=True))
    assert (decision.tier, decision.model) == ("middle", "mid")
    assert excluded(decision)["big"] is Exclusion.BOUNDARY
    unknown = route(None, policy=policy)
    assert excluded(unknown)["big"] is Exclusion.BOUNDARY


@pytest.mark.parametrize("need", ["tools", "json", "images"])
def test_a_need_excludes_models_that_cannot(need):
    decision = route(0.0, asked(needs=frozenset({need})))
    assert decision.model == "mid"
    assert decision.reason is Reason.CAPABILITY
    assert excluded(decision)["tiny"] is Exclusion(need)


def test_a_window_that_is_too_small_excludes_a_model():
    decision = route(0.0, asked(input_tokens=5000))
    assert (decision.model, decision.tier) == ("tiny-far", "small")
    decision = route(0.0, asked(input_tokens=50_000))
    assert (decision.model, decision.reason) == ("big", Reason.CONTEXT)


def test_a_turn_that_fits_no_window_is_too_long():
    with pytest.raises(ContextTooLong) as caught:
        route(0.0, asked(input_tokens=300_000))
    assert caught.value.largest_tokens == 200_000


def test_an_unpriced_model_is_blocked_unless_the_policy_allows_it():
    catalog = ModelCatalog({**CATALOG, "big": replace(CATALOG["big"], price=None)})
    assert route(0.9, catalog=catalog).model == "big-2"
    assert route(0.9, catalog=catalog, policy=replace(POLICY, unpriced="allow")).model == "big"


def test_a_cost_cap_excludes_what_may_cost_more():
    request = asked(max_cost_usd=Decimal("0.0015"), input_tokens=500, output_tokens=500)
    decision = route(0.9, request)
    assert (decision.tier, decision.reason) == ("middle", Reason.MAX_COST)
    assert excluded(decision)["big"] is Exclusion.MAX_COST


def test_without_a_prediction_the_safe_tier_serves():
    decision = route(None, policy=replace(POLICY, safe="middle"))
    assert (decision.tier, decision.reason) == ("middle", Reason.CLASSIFIER_UNAVAILABLE)
    assert (decision.score, decision.stage) == (None, 0)


def test_a_tool_loop_keeps_its_model():
    messages = [Message("user", "add"), Message("assistant", None), Message("tool", "3")]
    request = asked(messages=messages, current_model="big-2")
    decision = route(0.0, request)
    assert (decision.model, decision.reason) == ("big-2", Reason.TOOL_LOOP)
    bound = replace(POLICY, boundary="region:in")
    assert route(0.0, request, policy=bound).model != "big-2"


def test_a_busy_model_gives_way_to_the_next_and_stays_a_fallback():
    policy = replace(POLICY, target_ttft_ms=1000)
    load = {"tiny": Load(predicted_ttft_ms=5000.0), "tiny-far": Load(is_up=False)}
    decision = route(0.0, policy=policy, load=load)
    assert (decision.model, decision.reason) == ("mid", Reason.LOAD)
    assert decision.fallbacks[-2:] == ("tiny", "tiny-far")


def test_when_all_are_down_the_wanted_tier_is_still_tried():
    decision = route(0.0, load={name: Load(is_up=False) for name in CATALOG})
    assert decision.tier == "small"


def test_a_warm_cache_is_left_only_for_a_saving():
    cached = replace(price("10"), cached_input_usd_per_mtok=Decimal("0.1"))
    catalog = ModelCatalog({**CATALOG, "big": replace(CATALOG["big"], price=cached)})
    warm = asked(current_model="big", warm_tokens=19_000, input_tokens=20_000, output_tokens=100)
    kept = route(0.5, warm, catalog=catalog)
    assert (kept.model, kept.reason) == ("big", Reason.WARM_CACHE)
    cold = replace(warm, warm_tokens=100)
    assert route(0.5, cold, catalog=catalog).model == "mid"


def test_a_stronger_tier_is_taken_however_warm_the_cache_is():
    request = asked(current_model="mid", warm_tokens=90)
    assert route(0.9, request).model == "big"


def test_exploration_draws_the_neighbour_tier_and_records_the_propensity():
    policy = replace(POLICY, explore=0.05)
    tried = route(0.45, policy=policy, draw=0.01)
    assert (tried.tier, tried.reason, tried.propensity) == ("small", Reason.EXPLORE, 0.05)
    usual = route(0.45, policy=policy, draw=0.5)
    assert (usual.tier, usual.propensity) == ("middle", 0.95)
    assert route(0.1, policy=policy, draw=0.01).propensity == 1.0


def test_the_wire_shape_is_the_contracts():
    wire = route(0.5).to_wire()
    assert set(wire) >= {
        *("tier", "model", "fallbacks", "reason", "score", "labels", "candidates", "policy"),
        *("classifier", "stage", "needs_context"),
    }
    assert set(wire["labels"]) == {"language", "task", "domain", "difficulty", "pii", "unsafe"}
    assert set(wire["candidates"][0]) == {"model", "tier", "excluded_by", "estimated_cost_micro"}


@given(
    score=st.none() | st.floats(0, 1),
    needs=st.sets(st.sampled_from(["tools", "json", "images"])),
    tokens=st.integers(0, 150_000),
    ceiling=st.sampled_from(TIERS),
    used=st.floats(0, 2),
)
def test_a_higher_floor_never_lowers_a_tier(score, needs, tokens, ceiling, used):
    budget = Budget(1_000_000, "INR", ladder=(Rung(0.8, "middle"),))
    tiers = []
    for floor in TIERS:
        policy = replace(POLICY, floor=floor, ceiling=ceiling, budget=budget)
        request = asked(needs=frozenset(needs), input_tokens=tokens)
        try:
            decision = route(score, request, policy=policy, used_share=(used))
        except (NoTierAllowed, ContextTooLong):
            continue
        tiers.append(TIERS.index(decision.tier))
        assert tiers[-1] <= TIERS.index(ceiling)
    assert all(low <= high for low, high in pairwise(tiers))


def test_a_decision_is_made_again_from_its_record():
    rules = (Rule(when={"pii": (True,)}, boundary="region:in"),)
    budget = Budget(1_000_000, "INR", ladder=(Rung(0.5, "middle"),))
    policy = replace(POLICY, rules=rules, budget=budget, explore=0.05, target_ttft_ms=900)
    table = RoutingTable.of(policy, CATALOG)
    draw = random.Random(3)
    for _ in range(300):
        request = asked(
            draw.choice(["auto", "auto", "auto:fast", "auto:best", "mid"]),
            messages=[Message(draw.choice(["user", "tool"]), "hello")],
            needs=frozenset(draw.sample(["tools", "json"], draw.randint(0, 1))),
            input_tokens=draw.randint(1, 3000),
            min_tier=draw.choice([None, None, "middle"]),
            max_cost_usd=draw.choice([None, Decimal("0.02")]),
            current_model=draw.choice([None, "mid", "tiny"]),
            warm_tokens=draw.choice([0, 900]),
            currency="INR",
            usd_rate=Decimal("85.25"),
        )
        prediction = replace(
            scored(draw.random(), pii=draw.random() < 0.2, difficulty=draw.random()),
            uncertainty=draw.random(),
            needs_context=draw.choice([0.0, 1.0]),
            is_carried=draw.random() < 0.2,
        )
        load = {"tiny": Load(draw.choice([None, 10.0, 5000.0]), draw.random() < 0.8)}
        try:
            decision = decide(
                request,
                draw.choice([prediction, prediction, None]),
                table,
                used_share=draw.choice([None, 0.1, 0.6]),
                load=load,
                classifier="c+1",
                draw=draw.random(),
            )
        except NoTierAllowed:
            continue
        recorded = json.loads(json.dumps(decision.to_wire()))
        assert decided_again(recorded, table).to_wire() == decision.to_wire()


def test_a_score_just_below_a_threshold_is_recorded_as_it_was_decided():
    decision = route(0.39999999)
    assert (decision.tier, decision.score) == ("middle", 0.4)
    assert route(0.399999).tier == "small"


def test_costs_of_candidates_are_in_the_turns_currency():
    decision = route(0.0, asked(currency="INR", usd_rate=Decimal(85)))
    costs = {c.model: c.estimated_cost_micro for c in decision.candidates}
    # 100 tokens in and 100 out at 1 dollar a million are 200 millionths of a dollar.
    assert costs["mid"] == 200 * 85
    assert decision.to_wire()["currency"] == "INR"
    assert {c.model: c.estimated_cost_micro for c in route(0.0).candidates}["mid"] == 200


def test_a_cost_cap_is_in_dollars_whatever_the_currency():
    cap = asked(max_cost_usd=Decimal("0.0003"), currency="INR", usd_rate=Decimal(85))
    assert route(0.5, cap).model == "mid"


def test_exploration_leaves_tool_loops_and_warm_caches_alone():
    policy = replace(POLICY, explore=0.05)
    loop = asked(messages=[Message("tool", "3")], current_model="mid")
    warm = asked(current_model="mid", warm_tokens=50)
    for request in (loop, warm):
        decision = route(0.45, request, policy=policy, draw=0.01)
        assert (decision.model, decision.propensity) == ("mid", 1.0)


def test_exploration_tries_no_tier_whose_models_are_away():
    policy = replace(POLICY, explore=0.05)
    load = {name: Load(is_up=False) for name in ("tiny", "tiny-far")}
    decision = route(0.45, policy=policy, draw=0.01, load=load)
    assert (decision.tier, decision.propensity) == ("middle", 1.0)


def test_a_seeded_draw_explores_its_share_inside_the_band_only():
    policy = replace(POLICY, explore=0.05)
    table, draw = RoutingTable.of(policy, CATALOG), random.Random(11)
    inside = [decide(asked(), scored(0.45), table, draw=draw.random()) for _ in range(4000)]
    share = sum(decision.reason is Reason.EXPLORE for decision in inside) / len(inside)
    assert 0.035 < share < 0.065
    outside = [decide(asked(), scored(0.05), table, draw=draw.random()) for _ in range(400)]
    assert {decision.propensity for decision in outside} == {1.0}
