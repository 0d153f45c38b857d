"""Policy: what a tenant may use and spend, from a YAML or JSON document to a frozen value."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal
from zoneinfo import available_timezones

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from policies.budget import Budget, PeriodKind, Rung, parse_amount
from policies.catalog import ModelCatalog
from policies.document import Document, DocumentError, validate
from policies.errors import DocumentErrors

FACTS = ("language", "task", "domain", "difficulty", "pii", "unsafe")


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
    """Rates of a tenant; None is no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent: int | None = None


@dataclass(frozen=True, slots=True)
class MemoryRules:
    """What memory may do for the tenant; `retention_days` None keeps for ever."""

    summary: bool = True
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
    """A tenant's rules, tiers cheapest first; `version` 0 is the file's, later ones are stored."""

    name: str
    version: int
    tiers: tuple[Tier, ...]
    thresholds: Mapping[str, float]
    floor: str
    ceiling: str
    safe: str
    target_ttft_ms: int | None = None
    explore: float = 0.0
    unpriced: Literal["block", "allow"] = "block"
    rules: tuple[Rule, ...] = ()
    boundary: str = "any"
    budget: Budget | None = None
    limits: Limits = field(default_factory=Limits)
    memory: MemoryRules = field(default_factory=MemoryRules)
    cache: CacheRules = field(default_factory=CacheRules)
    on_ledger_down: Literal["block", "allow"] = "block"

    @property
    def label(self) -> str:
        """The policy as answers disclose it: name@version."""
        return f"{self.name}@{self.version}"

    def tier_of(self, model: str) -> str | None:
        """Return the first tier that holds the model, None where none does."""
        return next((tier.name for tier in self.tiers if model in tier.models), None)


def _boundary(text: str) -> str:
    if text in ("any", "on_premises") or (text.startswith("region:") and len(text) > 7):
        return text
    raise ValueError("any, on_premises or region:NAME")


def _timezone(name: str) -> str:
    if name not in available_timezones():
        near = difflib.get_close_matches(name, available_timezones(), n=1)
        raise ValueError(f"a time zone of the IANA list{f', such as {near[0]}' if near else ''}")
    return name


def _amount(text: str) -> str:
    parse_amount(text)
    return text


Boundary = Annotated[str, AfterValidator(_boundary)]
Amount = Annotated[str, AfterValidator(_amount)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1, le=1_000_000_000)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class When(_Section):
    """Facts of a turn; a list means any of its values."""

    language: str | list[str] | None = None
    task: str | list[str] | None = None
    domain: str | list[str] | None = None
    pii: bool | None = None
    unsafe: bool | None = None


class RuleSection(_Section):
    """One rule: conditions, and at least one restriction."""

    when: When
    floor: str | None = None
    ceiling: str | None = None
    boundary: Boundary | None = None


class RoutingSection(_Section):
    """How turns find their tier."""

    tiers: Annotated[dict[str, Annotated[list[str], Field(min_length=1)]], Field(min_length=1)]
    thresholds: dict[str, Share] = {}
    floor: str | None = None
    ceiling: str | None = None
    safe: str | None = None
    target_ttft_ms: Positive | None = None
    explore: Annotated[float, Field(ge=0, le=0.05)] = 0.0
    unpriced: Literal["block", "allow"] = "block"
    rules: list[RuleSection] = []
    boundary: Boundary = "any"


class RungSection(_Section):
    """One step of the budget ladder."""

    at: Annotated[float, Field(ge=0, le=1)]
    ceiling: str | None = None
    action: Literal["refuse"] | None = None


class BudgetSection(_Section):
    """What may be spent per period."""

    limit: Amount
    period: PeriodKind = "month"
    timezone: Annotated[str, AfterValidator(_timezone)] | None = None
    overshoot: Amount | None = None
    ladder: list[RungSection] = []


class LimitsSection(_Section):
    """Rates."""

    requests_per_minute: Positive | None = None
    tokens_per_minute: Positive | None = None
    concurrent: Positive | None = None


class MemorySection(_Section):
    """What memory may do."""

    summary: bool = True
    recall: bool = True
    retention_days: Annotated[int, Field(ge=1, le=36_500)] | None = None


class SemanticSection(_Section):
    """The share of wrong hits that is acceptable."""

    target_error: Annotated[float, Field(gt=0, lt=1)]


class CacheSection(_Section):
    """Which answers may be given twice."""

    exact: bool = True
    semantic: Literal[False] | SemanticSection = False
    ttl_s: Annotated[int, Field(ge=1, le=30 * 86_400)] = 3600


class PolicyDocument(_Section):
    """The whole policy document, YAML file and admin API alike."""

    routing: RoutingSection
    budget: BudgetSection | None = None
    limits: LimitsSection = LimitsSection()
    memory: MemorySection = MemorySection()
    cache: CacheSection = CacheSection()
    on_ledger_down: Literal["block", "allow"] = "block"


def parse_policy(
    document: Document, catalog: ModelCatalog, *, name: str, version: int = 0
) -> Policy:
    """Return the policy of a document, checked against the catalogue.

    Raises:
        DocumentErrors: a value is wrong, or a name is no tier of the policy or no model.
    """
    parsed = validate(PolicyDocument, document)
    errors = [*_tier_errors(parsed.routing, document, catalog), *_money_errors(parsed, document)]
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
        unpriced=routing.unpriced,
        rules=tuple(_rule(rule) for rule in routing.rules),
        boundary=routing.boundary,
        budget=_budget(parsed.budget) if parsed.budget else None,
        limits=Limits(**parsed.limits.model_dump()),
        memory=MemoryRules(**parsed.memory.model_dump()),
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


def _budget(section: BudgetSection) -> Budget:
    limit_micro, currency = parse_amount(section.limit)
    overshoot_micro = parse_amount(section.overshoot)[0] if section.overshoot else 0
    return Budget(
        limit_micro=limit_micro,
        currency=currency,
        period=section.period,
        timezone=section.timezone or "UTC",
        overshoot_micro=overshoot_micro,
        ladder=tuple(
            Rung(rung.at, rung.ceiling, rung.action)
            for rung in sorted(section.ladder, key=lambda rung: rung.at)
        ),
    )


def _tier_errors(
    routing: RoutingSection, document: Document, catalog: ModelCatalog
) -> list[DocumentError]:
    errors = []
    tiers = list(routing.tiers)

    def check(path: tuple[str | int, ...], value: str | None, known: Sequence[str]) -> None:
        if value is not None and value not in known:
            near = difflib.get_close_matches(value, known, n=1, cutoff=0.5)
            allowed = "known names are " + ", ".join(known)
            errors.append(
                document.error(("routing", *path), value, allowed, near[0] if near else None)
            )

    models = list(catalog)
    for tier, names in routing.tiers.items():
        for index, name in enumerate(names):
            check(("tiers", tier, index), name, models)
    for key in ("floor", "ceiling", "safe"):
        check((key,), getattr(routing, key), tiers)
    for index, rule in enumerate(routing.rules):
        check(("rules", index, "floor"), rule.floor, tiers)
        check(("rules", index, "ceiling"), rule.ceiling, tiers)
        if rule.floor is rule.ceiling is rule.boundary is None:
            allowed = "a rule has a floor, a ceiling or a boundary"
            errors.append(document.error(("routing", "rules", index), "nothing", allowed))
    for tier in routing.thresholds:
        check(("thresholds", tier), tier, tiers[1:])
    missing = [tier for tier in tiers[1:] if tier not in routing.thresholds]
    rising = [routing.thresholds[tier] for tier in tiers[1:] if tier in routing.thresholds]
    if missing:
        allowed = f"each tier after the first has a threshold ({missing[0]} has none)"
        errors.append(document.error(("routing", "thresholds"), routing.thresholds, allowed))
    elif any(low >= high for low, high in zip(rising, rising[1:], strict=False)):
        allowed = "thresholds rise from tier to tier"
        errors.append(document.error(("routing", "thresholds"), routing.thresholds, allowed))
    floor, ceiling = routing.floor or tiers[0], routing.ceiling or tiers[-1]
    if floor in tiers and ceiling in tiers and tiers.index(floor) > tiers.index(ceiling):
        allowed = f"the floor is at or below the ceiling ({ceiling})"
        errors.append(document.error(("routing", "floor"), floor, allowed))
    return errors


def _money_errors(parsed: PolicyDocument, document: Document) -> list[DocumentError]:
    budget = parsed.budget
    if budget is None:
        return []
    errors = []
    currency = parse_amount(budget.limit)[1]
    if budget.overshoot and parse_amount(budget.overshoot)[1] != currency:
        allowed = f"the overshoot is in the currency of the limit ({currency})"
        errors.append(document.error(("budget", "overshoot"), budget.overshoot, allowed))
    for index, rung in enumerate(budget.ladder):
        path: tuple[str | int, ...] = ("budget", "ladder", index)
        if (rung.ceiling is None) == (rung.action is None):
            errors.append(document.error(path, "this rung", "a rung has a ceiling or an action"))
        elif rung.ceiling is not None and rung.ceiling not in parsed.routing.tiers:
            allowed = "known names are " + ", ".join(parsed.routing.tiers)
            errors.append(document.error((*path, "ceiling"), rung.ceiling, allowed))
    return errors
