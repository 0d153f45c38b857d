"""Policy: what a tenant may use and spend, from a YAML or JSON document to a frozen value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from policies.budget import Amount, Budget, Rung, parse_amount
from policies.catalog import ModelCatalog
from policies.document import Document, validate
from policies.errors import DocumentErrors
from policies.policy_checks import boundary_errors, money_errors, routing_errors
from policies.policy_document import BudgetSection, LimitsSection, PolicyDocument, RuleSection


@dataclass(frozen=True, slots=True)
class Tier:
    """An ordered step: its models by preference, the rest being fallbacks."""

    name: str
    models: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """A restriction that holds when every fact in `when` has one of the given values."""

    when: Mapping[str, tuple[Any, ...]]
    floor: str | None = None
    ceiling: str | None = None
    boundary: str | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """Rates of a tenant, and the most that one turn may cost; None is no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent: int | None = None
    max_cost: Amount | None = None


@dataclass(frozen=True, slots=True)
class MemoryRules:
    """What memory may do for the tenant; `retention_days` None keeps for ever.

    `is_abstractive` lets a model write the summaries, charged to the tenant; else they quote.
    """

    summary: bool = True
    is_abstractive: bool = False
    recall: bool = True
    retention_days: int | None = None


@dataclass(frozen=True, slots=True)
class CacheRules:
    """Which answers may be given twice; `semantic_target_error` None turns that cache off."""

    exact: bool = True
    semantic_target_error: float | None = None
    ttl_s: int = 3600


@dataclass(frozen=True, slots=True)
class Policy:
    """A tenant's rules, tiers cheapest first; `version` 0 is the file's, later ones are stored.

    `revision` counts the texts that the file has had.
    """

    name: str
    version: int
    tiers: tuple[Tier, ...]
    thresholds: Mapping[str, float]
    floor: str
    ceiling: str
    safe: str
    target_ttft_ms: int | None = None
    explore: float = 0.0
    second_stage: bool = False
    unpriced: Literal["block", "allow"] = "block"
    rules: tuple[Rule, ...] = ()
    boundary: str = "any"
    budget: Budget | None = None
    limits: Limits = field(default_factory=Limits)
    memory: MemoryRules = field(default_factory=MemoryRules)
    cache: CacheRules = field(default_factory=CacheRules)
    on_ledger_down: Literal["block", "allow"] = "block"
    revision: int = 0

    @property
    def label(self) -> str:
        """The policy as answers disclose it: name@version, name@0.revision of a changed file."""
        revision = f".{self.revision}" if self.revision else ""
        return f"{self.name}@{self.version}{revision}"

    def for_helpers(self) -> Policy:
        """Return the policy for a call that reads many turns at once, such as a summary.

        Which facts held for them is not known any more, so the boundary of every rule binds.
        """
        rules = (Rule({"held_for_some_turn": (True,)}, boundary=b) for b in self._rule_boundaries())
        return replace(self, rules=tuple(rules))

    def _rule_boundaries(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(rule.boundary for rule in self.rules if rule.boundary))

    def tier_of(self, model: str) -> str | None:
        """Return the first tier that holds the model, None where none does."""
        return next((tier.name for tier in self.tiers if model in tier.models), None)


def parse_policy(
    document: Document,
    catalog: ModelCatalog,
    *,
    name: str,
    version: int = 0,
    currency: str | None = None,
) -> Policy:
    """Return the policy of a document, checked against the catalogue.

    Args:
        document: YAML or JSON, parsed.
        catalog: the models that tiers may name.
        name: the policy's, for labels.
        version: 0 for a file, else the number of the stored version.
        currency: of the tenant it is for; its budget must be in that or in USD. None leaves that
            open, for a file that serves several tenants.

    Raises:
        DocumentErrors: a value is wrong, or a name is no tier of the policy or no model.
    """
    parsed = validate(PolicyDocument, document)
    errors = [
        *routing_errors(parsed.routing, document, catalog),
        *boundary_errors(parsed, document, catalog),
        *money_errors(parsed, document, currency),
    ]
    if errors:
        raise DocumentErrors(errors)
    routing = parsed.routing
    names = list(routing.tiers)
    semantic = parsed.cache.semantic
    return Policy(
        name=name,
        version=version,
        tiers=tuple(Tier(tier, tuple(models)) for tier, models in routing.tiers.items()),
        thresholds=dict(routing.thresholds),
        floor=routing.floor or names[0],
        ceiling=routing.ceiling or names[-1],
        safe=routing.safe or routing.ceiling or names[-1],
        target_ttft_ms=routing.target_ttft_ms,
        explore=routing.explore,
        second_stage=routing.second_stage,
        unpriced=routing.unpriced,
        rules=tuple(_rule(rule) for rule in routing.rules),
        boundary=routing.boundary,
        budget=_budget(parsed.budget) if parsed.budget else None,
        limits=_limits(parsed.limits),
        memory=MemoryRules(
            summary=parsed.memory.summary is not False,
            is_abstractive=parsed.memory.summary == "abstractive",
            recall=parsed.memory.recall,
            retention_days=parsed.memory.retention_days,
        ),
        cache=CacheRules(
            exact=parsed.cache.exact,
            semantic_target_error=semantic.target_error if semantic else None,
            ttl_s=parsed.cache.ttl_s,
        ),
        on_ledger_down=parsed.on_ledger_down,
    )


def _rule(section: RuleSection) -> Rule:
    when = {
        fact: tuple(value) if isinstance(value, list) else (value,)
        for fact, value in section.when.model_dump(exclude_none=True).items()
    }
    return Rule(when, section.floor, section.ceiling, section.boundary)


def _limits(section: LimitsSection) -> Limits:
    return Limits(
        section.requests_per_minute,
        section.tokens_per_minute,
        section.concurrent,
        Amount(*parse_amount(section.max_cost)) if section.max_cost else None,
    )


def _budget(section: BudgetSection) -> Budget:
    limit_micro, currency = parse_amount(section.limit)
    overshoot_micro = parse_amount(section.overshoot)[0] if section.overshoot else 0
    return Budget(
        limit_micro=limit_micro,
        currency=currency,
        period=section.period,
        timezone=section.timezone or "UTC",
        has_own_timezone=section.timezone is not None,
        overshoot_micro=overshoot_micro,
        ladder=tuple(
            Rung(rung.at, rung.ceiling, rung.action)
            for rung in sorted(section.ladder, key=lambda rung: rung.at)
        ),
    )
