from __future__ import annotations

from dataclasses import replace
from importlib.resources import files
from typing import get_args

import pytest

from policies.budget import Amount, Rung
from policies.catalog import ModelCatalog, ModelSpec
from policies.document import load_document
from policies.errors import DocumentErrors
from policies.policy import Policy, Rule, Tier, parse_policy
from policies.policy_document import Domain, Language, Task
from router.labels import DOMAINS, LANGUAGES, TASKS

LOCAL = ModelSpec("local-small", "local", "bundled", 2048, region="on_premises")
CATALOG = ModelCatalog(
    {
        "local-small": LOCAL,
        "gpt": ModelSpec("gpt", "openai", "gpt-5", 400_000),
        "claude-strong": ModelSpec("claude-strong", "claude", "claude-sonnet-4-5", 200_000),
        "strong": ModelSpec("strong", "practice", "practice-strong", 128_000),
    }
)
FULL = """\
routing:
  tiers: {small: [local-small], strong: [gpt, claude-strong]}
  thresholds: {strong: 0.55}
  floor: small
  ceiling: strong
  safe: strong
  target_ttft_ms: 1500
  explore: 0.0
  unpriced: block
  rules:
    - {when: {language: [ta, te]}, floor: strong}
    - {when: {pii: true}, boundary: on_premises}
  boundary: any
budget: {limit: "5000 INR", period: month, timezone: Asia/Kolkata, overshoot: "0 INR",
         ladder: [{at: 1.0, action: refuse}, {at: 0.8, ceiling: small}]}
limits: {requests_per_minute: 600, tokens_per_minute: 200000, concurrent: 50}
memory: {summary: true, recall: true, retention_days: 90}
cache:  {exact: true, semantic: {target_error: 0.01}, ttl_s: 3600}
on_ledger_down: block
"""


def policy_of(text: str, currency: str | None = None) -> Policy:
    document = load_document(text, "p.yaml")
    return parse_policy(document, CATALOG, name="p", version=3, currency=currency)


def error_of(text: str, currency: str | None = None) -> str:
    with pytest.raises(DocumentErrors) as raised:
        policy_of(text, currency)
    return str(raised.value)


def test_the_whole_document_becomes_a_policy() -> None:
    policy = policy_of(FULL)
    assert policy.label == "p@3"
    assert policy.tiers == (
        Tier("small", ("local-small",)),
        Tier("strong", ("gpt", "claude-strong")),
    )
    assert policy.rules == (
        Rule({"language": ("ta", "te")}, floor="strong"),
        Rule({"pii": (True,)}, boundary="on_premises"),
    )
    assert policy.budget is not None
    assert (policy.budget.limit_micro, policy.budget.currency) == (5_000_000_000, "INR")
    assert policy.budget.ladder == (Rung(0.8, ceiling="small"), Rung(1.0, action="refuse"))
    assert policy.cache.semantic_target_error == 0.01


def test_tiers_alone_are_a_policy() -> None:
    policy = policy_of(
        "routing: {tiers: {small: [local-small], strong: [gpt]}, thresholds: {strong: 0.5}}"
    )
    assert (policy.floor, policy.ceiling, policy.safe) == ("small", "strong", "strong")
    assert policy.budget is None


def test_the_packaged_policy_holds_against_the_embedded_catalogue() -> None:
    text = files("policies").joinpath("default.yaml").read_text(encoding="utf-8")
    policy = policy_of(text)
    assert [tier.models for tier in policy.tiers] == [("local-small",), ("strong",)]


def test_the_names_rules_may_use_are_those_the_classifier_says() -> None:
    assert get_args(Language) == LANGUAGES
    assert get_args(Task) == TASKS
    assert get_args(Domain) == DOMAINS


@pytest.mark.parametrize(
    ("old", "new", "line", "field", "rest"),
    [
        ("gpt,", "gtp,", 2, "routing.tiers.strong[0]", "did you mean 'gpt'?"),
        ("ceiling: strong", "ceiling: strnog", 5, "routing.ceiling", "did you mean 'strong'?"),
        ("{strong: 0.55}", "{strong: 1.5}", 3, "routing.thresholds.strong", "less than or equal"),
        ("{strong: 0.55}", "{}", 3, "routing.thresholds", "strong has none"),
        ("unpriced: block", "unpriced: blok", 9, "routing.unpriced", "did you mean 'block'?"),
        ("explore: 0.0", "explor: 0.0", 8, "routing.explor", "did you mean 'explore'?"),
        ("[ta, te]", "[tm, te]", 11, "routing.rules[0].when.language[0]", "did you mean"),
        ("pii: true", "pi: true", 12, "routing.rules[1].when.pi", "did you mean 'pii'?"),
        ("boundary: on_premises", "boundary: mars", 12, "routing.rules[1].boundary", "region:"),
        ("  boundary: any", "  boundary: region:mars", 13, "routing.boundary", "at least one"),
        ("5000 INR", "-5 INR", 14, "budget.limit", "such as 5000 INR"),
        ('"5000 INR"', "5000", 14, "budget.limit", "such as 5000 INR"),
        ("5000 INR", "99999999999 INR", 14, "budget.limit", "at most"),
        ("Asia/Kolkata", "Asia/Kolkatta", 14, "budget.timezone", "Asia/Kolkata"),
        ("0 INR", "0 USD", 14, "budget.overshoot", "currency of the limit"),
        ("period: month", "period: moth", 14, "budget.period", "did you mean 'month'?"),
        ("ceiling: small}]", "ceiling: smal}]", 15, "budget.ladder[1].ceiling", "'small'?"),
        ("concurrent: 50", "concurrent: 0", 16, "limits.concurrent", "greater than or equal"),
        ("[gpt, claude-strong]", "[gpt, gpt]", 2, "routing.tiers.strong[1]", "stands once"),
    ],
)
def test_a_wrong_value_names_its_line_and_what_is_allowed(
    old: str, new: str, line: int, field: str, rest: str
) -> None:
    text = error_of(FULL.replace(old, new, 1))
    assert text.startswith(f"p.yaml:{line}: {field}: ")
    assert rest in text


@pytest.mark.parametrize("key", ["floor", "safe"])
def test_a_floor_or_safe_tier_above_the_ceiling_is_refused(key: str) -> None:
    text = FULL.replace("ceiling: strong", "ceiling: small", 1)
    text = text.replace("safe: strong", "safe: small").replace(f"{key}: small", f"{key}: strong", 1)
    assert f"routing.{key}: 'strong' is not allowed; it is at or below" in error_of(text)


def test_a_budget_is_in_dollars_or_in_the_tenants_currency() -> None:
    assert policy_of(FULL, "INR").budget is not None
    assert policy_of(FULL.replace("INR", "USD"), "INR").budget is not None
    assert (
        "budget.limit: '5000 INR' is not allowed; it is in USD or in the tenant's own "
        "currency, EUR" in error_of(FULL, "EUR")
    )


def test_a_rule_without_a_condition_is_refused() -> None:
    text = FULL.replace("{language: [ta, te]}", "{}")
    assert "a rule has a condition" in error_of(text)


def test_a_policy_is_frozen_and_versions_are_values() -> None:
    policy = policy_of(FULL)
    assert replace(policy, version=4).label == "p@4"
    assert policy == policy_of(FULL)


def test_what_one_turn_may_cost_is_in_dollars_or_in_the_tenants_currency() -> None:
    text = FULL.replace("limits: {", 'limits: {max_cost: "2 INR", ')
    assert policy_of(text, "INR").limits.max_cost == Amount(2_000_000, "INR")
    euros = FULL.replace("INR", "EUR").replace("limits: {", 'limits: {max_cost: "2 INR", ')
    assert "limits.max_cost: '2 INR' is not allowed; it is in USD or" in error_of(euros, "EUR")
