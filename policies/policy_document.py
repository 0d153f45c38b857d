"""The shape of a policy document, YAML file and admin API alike: every key, and what it may hold.

Checks one value or section at a time; what needs several is checked by `policy_checks.py`.
"""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal
from zoneinfo import available_timezones

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from policies.budget import PeriodKind, parse_amount

# What the classifier may say of a turn; the router owns these names, a test keeps them equal.
Language = Literal["en", "hi", "hi-Latn", "ta", "te", "bn", "mr", "und"]
Task = Literal["chat", "question", "command", "support", "instruction", "math", "reasoning", "code"]
Domain = Literal[
    "general", "math", "science", "technology", "humanities", "business", "health", "law"
]


def _boundary(text: str) -> str:
    if text in ("any", "on_premises") or (text.startswith("region:") and len(text) > 7):
        return text
    raise ValueError("any, on_premises or region:NAME")


def _timezone(name: str) -> str:
    if name not in available_timezones():
        near = difflib.get_close_matches(name, available_timezones(), n=1)
        raise ValueError(f"a time zone of the IANA list{f', such as {near[0]}' if near else ''}")
    return name


def _amount(value: Any) -> Any:
    parse_amount(value if isinstance(value, str) else "")
    return value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Boundary = Annotated[str, AfterValidator(_boundary)]
Amount = Annotated[str, BeforeValidator(_amount)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1, le=1_000_000_000)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class When(_Section):
    """Facts of a turn; a list means any of its values."""

    language: Annotated[list[Language], BeforeValidator(_as_list)] | None = None
    task: Annotated[list[Task], BeforeValidator(_as_list)] | None = None
    domain: Annotated[list[Domain], BeforeValidator(_as_list)] | None = None
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
    second_stage: bool = False
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
    """Rates, and the most that one turn may cost."""

    requests_per_minute: Positive | None = None
    tokens_per_minute: Positive | None = None
    concurrent: Positive | None = None
    max_cost: Amount | None = None


class MemorySection(_Section):
    """What memory may do; `summary: true` means extractive."""

    summary: bool | Literal["extractive", "abstractive"] = True
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
