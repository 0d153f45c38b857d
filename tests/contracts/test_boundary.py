"""No way of a turn leaves the data boundary, and no way in takes a policy that shuts everything."""

from __future__ import annotations

import itertools
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from gateway.database import open_database, upgrade
from policies.budget import Budget, Rung
from policies.catalog import ModelCatalog, ModelSpec, Price
from policies.errors import DocumentErrors
from policies.policy import Policy, Rule, Tier
from policies.store import PolicyStore
from router.decision import decide
from router.errors import ContextTooLong, NoTierAllowed
from router.labels import Labels, Prediction
from router.request import Load, RouteRequest
from router.table import RoutingTable

FREE = Price(0, 0, 0, 0)  # type: ignore[arg-type]
CATALOG = ModelCatalog(
    {
        name: ModelSpec(name, "b", name, 8_000, price=FREE, region=region)
        for name, region in {
            "here": "on_premises",
            "here-too": "on_premises",
            "india": "in",
            "europe": "eu",
            "anywhere": None,
        }.items()
    }
)
TIERS = (
    Tier("small", ("anywhere", "here")),
    Tier("middle", ("europe", "india", "here-too")),
    Tier("strong", ("anywhere", "india")),
)
RULES = (
    Rule({"pii": (True,)}, boundary="on_premises"),
    Rule({"language": ("hi",)}, boundary="region:in", floor="middle"),
    Rule({"domain": ("health",)}, ceiling="middle"),
)
REQUESTED = ("auto", "auto:fast", "auto:best", *CATALOG)
LOADS: tuple[dict[str, Load], ...] = (
    {},
    {name: Load(is_up=False) for name in CATALOG},
    {"here": Load(is_up=False)},
)


def is_inside(model: str, boundary: str) -> bool:
    """Say it again in other words than the code: a region that is told, and is the one asked."""
    region = CATALOG[model].region
    return boundary == "any" or (region is not None and boundary in (region, f"region:{region}"))


def binding(policy: Policy, facts: Labels) -> set[str]:
    """Return every boundary that must hold for a turn: an unknown fact counts as true."""
    found = {policy.boundary}
    for rule in policy.rules:
        known = [getattr(facts, name) for name in rule.when]
        wanted = list(rule.when.values())
        could_hold = all(k is None or k in w for k, w in zip(known, wanted, strict=True))
        if could_hold and rule.boundary:
            found.add(rule.boundary)
        if could_hold and None not in known:
            break  # the first match wins
    return found


def every_turn() -> Iterator[tuple[RouteRequest, Prediction | None, Labels, float | None, Any]]:
    facts = [
        Labels(pii=pii, language=language, domain=domain)
        for pii in (True, False, None)
        for language in ("hi", "en", None)
        for domain in ("health", None)
    ]
    for requested, labels, score, used, load, min_tier, current in itertools.product(
        REQUESTED, facts, (None, 0.1, 0.9), (None, 0.85), LOADS, (None, "strong"), (None, "europe")
    ):
        request = RouteRequest(
            messages=(),
            requested=requested,
            input_tokens=10,
            output_tokens=10,
            min_tier=min_tier,
            current_model=current,
        )
        prediction = None if score is None else Prediction(score=score, labels=labels)
        yield request, prediction, labels, used, load


@pytest.mark.parametrize("boundary", ["any", "on_premises", "region:in"])
@pytest.mark.parametrize("rules", [(), RULES, RULES[::-1]])
def test_neither_a_model_nor_a_fallback_of_any_turn_lies_outside(
    boundary: str, rules: tuple[Rule, ...]
) -> None:
    policy = Policy(
        "p",
        1,
        TIERS,
        {"middle": 0.4, "strong": 0.7},
        "small",
        "strong",
        "middle",
        boundary=boundary,
        rules=rules,
        budget=Budget(1_000_000, "USD", ladder=(Rung(0.8, "middle"),)),
        explore=0.05,
    )
    table = RoutingTable.of(policy, CATALOG)
    n_served = 0
    for request, prediction, labels, used, load in every_turn():
        try:
            decision = decide(
                request,
                prediction,
                table,
                used_share=used,
                load=load,
                labels=labels,
                draw=0.01,
            )
        except (NoTierAllowed, ContextTooLong):
            continue
        n_served += 1
        for must, model in itertools.product(
            binding(policy, labels), (decision.model, *decision.fallbacks)
        ):
            assert is_inside(model, must), (request, labels, must, model)
    assert n_served > 100


def test_a_helper_is_bound_by_every_rule_at_once() -> None:
    policy = Policy("p", 1, TIERS, {"middle": 0.4, "strong": 0.7}, "small", "strong", "strong")
    for rules, allowed in (
        ((), set(CATALOG)),
        (RULES[:1], {"here", "here-too"}),
        (RULES[1:], {"india"}),
    ):
        table = RoutingTable.of(replace(policy, rules=rules).for_helpers(), CATALOG)
        request = RouteRequest(messages=(), requested="auto:fast", input_tokens=9, output_tokens=9)
        no_facts_hold = Labels(pii=False, language="en", domain="general")
        for labels in (no_facts_hold, Labels()):
            decision = decide(request, Prediction(score=0.1, labels=labels), table)
            assert {decision.model, *decision.fallbacks} <= allowed
    with pytest.raises(NoTierAllowed):
        decide(request, None, RoutingTable.of(replace(policy, rules=RULES).for_helpers(), CATALOG))


GOOD = """routing:
  tiers: {small: [anywhere], middle: [europe], strong: [india, here]}
  thresholds: {middle: 0.4, strong: 0.7}
"""
SHUT = {
    "the tiers": ("  boundary: region:us\n", 4, "routing.boundary"),
    "the ceiling": (
        "  boundary: on_premises\n  ceiling: middle\n  safe: small\n",
        4,
        "routing.bou",
    ),
    "the ladder": (
        '  boundary: on_premises\nbudget:\n  limit: "5 USD"\n  ladder:\n'
        "    - {at: 0.8, ceiling: middle}\n",
        8,
        "budget.ladder[0].ceiling",
    ),
    "the summariser": (
        "  rules:\n    - {when: {pii: true}, boundary: on_premises}\n"
        "    - {when: {language: hi}, boundary: 'region:in'}\n"
        "memory: {summary: abstractive}\n",
        7,
        "memory.summary",
    ),
}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PolicyStore]:
    engine: Engine = open_database(f"sqlite:///{tmp_path}/ledger.db")
    upgrade(engine)
    (tmp_path / "mine.yaml").write_text(GOOD)
    yield PolicyStore(engine, CATALOG, folders=(tmp_path,), clock=lambda: datetime.now(UTC))
    engine.dispose()


async def as_a_file(store: PolicyStore, folder: Path, text: str) -> None:
    (folder / "mine.yaml").write_text(text)
    await store.prepare(["mine"])


async def over_the_admin_api(store: PolicyStore, folder: Path, text: str) -> None:
    await store.put("acme", text, name="mine")


async def as_an_override(store: PolicyStore, folder: Path, text: str) -> None:
    until = datetime.now(UTC) + timedelta(hours=1)
    await store.put("acme", text, name="mine", until=until)


async def for_a_replay(store: PolicyStore, folder: Path, text: str) -> None:
    store.check(text, "proposed")


WAYS_IN = (as_a_file, over_the_admin_api, as_an_override, for_a_replay)
Way = Callable[[PolicyStore, Path, str], Awaitable[None]]


@pytest.mark.parametrize("way", WAYS_IN)
@pytest.mark.parametrize("what", SHUT)
async def test_a_policy_that_shuts_everything_out_is_refused_on_every_way_in_with_its_line(
    store: PolicyStore, tmp_path: Path, way: Way, what: str
) -> None:
    more, line, field = SHUT[what]
    with pytest.raises(DocumentErrors) as caught:
        await way(store, tmp_path, GOOD + more)
    (error,) = caught.value.errors
    assert error.line == line
    assert error.field.startswith(field)
    assert re.search(rf":{line}: {re.escape(field)}", str(error))


@pytest.mark.parametrize("what", SHUT)
async def test_a_file_that_shuts_everything_out_leaves_the_last_good_one(
    store: PolicyStore, tmp_path: Path, what: str
) -> None:
    await store.prepare(["mine"])
    (tmp_path / "mine.yaml").write_text(GOOD + SHUT[what][0])
    await store.refresh()
    assert store.policy_of("acme", "mine").label == "mine@0"


@pytest.mark.parametrize("way", WAYS_IN)
async def test_a_rule_that_leaves_nobody_is_a_way_to_refuse_turns(
    store: PolicyStore, tmp_path: Path, way: Way
) -> None:
    await way(store, tmp_path, GOOD + "  rules: [{when: {pii: true}, boundary: 'region:us'}]\n")
