"""Which tiers the policy leaves open for a turn: boundary, then ceiling, then floor.

Owns how rules apply to facts, and that an unknown fact triggers a rule that restricts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from policies.catalog import ModelCatalog, is_inside
from policies.policy import Policy, Rule, Tier
from router.labels import Labels
from router.reasons import Exclusion
from router.request import RouteRequest


@dataclass(frozen=True, slots=True)
class Bounds:
    """The open range of tiers, both ends included, and what set each end.

    `boundaries` all bind at once: the policy's own and those of its rules, `any` left out.
    """

    low: int
    high: int
    low_by: Exclusion
    high_by: Exclusion
    boundaries: tuple[str, ...]

    def exclusion_of(self, tier_index: int) -> Exclusion | None:
        """Return what closes a tier, None where it is open."""
        if tier_index > self.high:
            return self.high_by
        if tier_index < self.low:
            return self.low_by
        return None


def bounds_of_policy(policy: Policy, catalog: ModelCatalog) -> Bounds:
    """Return what a policy leaves open before rules, budget and caller narrow it."""
    return _bounds_of(policy, catalog, (), None, None)


def bounds_of(
    request: RouteRequest,
    labels: Labels,
    policy: Policy,
    catalog: ModelCatalog,
    *,
    used_share: float | None,
    usual: Bounds,
) -> Bounds:
    """Return the tiers that policy, rules, budget ladder and caller leave open.

    `usual` is what `bounds_of_policy` gives, `used_share` how much of the budget is gone.
    The lowest ceiling and the highest floor win; where they cross, the ceiling does. A floor above
    every tier with a model inside the boundary gives way to the highest that has one.
    """
    applying = _applying(policy.rules, labels) if policy.rules else ()
    ladder = _ladder_ceiling(policy, used_share)
    if not applying and ladder is None and request.min_tier is None:
        return usual
    return _bounds_of(policy, catalog, applying, ladder, request.min_tier)


def _bounds_of(
    policy: Policy,
    catalog: ModelCatalog,
    applying: Sequence[Rule],
    ladder: str | None,
    min_tier: str | None,
) -> Bounds:
    index = {tier.name: position for position, tier in enumerate(policy.tiers)}
    floors = [(index[policy.floor], Exclusion.FLOOR)]
    ceilings = [(index[policy.ceiling], Exclusion.CEILING)]
    boundaries = [policy.boundary]
    for rule in applying:
        if rule.floor is not None:
            floors.append((index[rule.floor], Exclusion.RULE))
        if rule.ceiling is not None:
            ceilings.append((index[rule.ceiling], Exclusion.RULE))
        if rule.boundary is not None:
            boundaries.append(rule.boundary)
    if ladder is not None:
        ceilings.append((index[ladder], Exclusion.BUDGET))
    if min_tier in index:
        floors.append((index[min_tier], Exclusion.MIN_TIER))
    high, high_by = min(ceilings, key=lambda end: end[0])
    low, low_by = max(floors, key=lambda end: end[0])
    low = min(low, high)
    inside = [
        position
        for position, tier in enumerate(policy.tiers)
        if position <= high and _has_model_inside(tier, boundaries, catalog)
    ]
    if inside and inside[-1] < low:
        low = inside[-1]
    binding = dict.fromkeys(boundary for boundary in boundaries if boundary != "any")
    return Bounds(low, high, low_by, high_by, tuple(binding))


def _has_model_inside(tier: Tier, boundaries: list[str], catalog: ModelCatalog) -> bool:
    specs = (catalog.get(name) for name in tier.models)
    return any(spec and all(is_inside(spec, b) for b in boundaries) for spec in specs)


def _applying(rules: tuple[Rule, ...], facts: Labels) -> list[Rule]:
    """Return the rules that apply: the first whose facts hold, and those that might hold.

    A rule that only might hold (a fact it asks for is unknown) applies beside the first match, or
    a guess would hide a rule that certainly holds. Every rule restricts: floors are only raised,
    ceilings only lowered, boundaries only added.
    """
    applying: list[Rule] = []
    for rule in rules:
        verdicts = [
            _holds(getattr(facts, name, None), wanted) for name, wanted in rule.when.items()
        ]
        if all(verdicts):
            applying.append(rule)
            break
        if all(verdict is not False for verdict in verdicts):
            applying.append(rule)
    return applying


def _holds(fact: Any, wanted: Any) -> bool | None:
    if fact is None:
        return None
    if isinstance(wanted, (list, tuple, frozenset, set)):
        return fact in wanted
    return bool(fact == wanted)


def _ladder_ceiling(policy: Policy, used_share: float | None) -> str | None:
    """Return the ceiling of the highest rung that spending has reached, None below the first."""
    if policy.budget is None or used_share is None:
        return None
    reached = [
        rung for rung in policy.budget.ladder if rung.ceiling is not None and used_share >= rung.at
    ]
    return reached[-1].ceiling if reached else None
