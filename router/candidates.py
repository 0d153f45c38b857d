"""Every model of the policy with what excludes it and what the turn would cost there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Any

from policies.catalog import ModelCatalog, ModelSpec
from policies.policy import Policy
from router.bounds import Bounds, is_inside
from router.reasons import SOFT_EXCLUSIONS, Exclusion
from router.request import AUTO, BEST, FAST, Load, RouteRequest

_MICRO = 1_000_000
# From below for small models on a processor: an estimate that errs on the dear side.
PREFILL_TOKENS_PER_S = 500
DECODE_TOKENS_PER_S = 20


@dataclass(frozen=True, slots=True)
class Candidate:
    """One model that was weighed.

    `excluded_by` is None where it may serve. `estimated_cost_micro` is the worst case of this turn
    in millionths of a US dollar (all input cold, all of the output allowance used), None where the
    price is unknown.
    """

    model: str
    tier: str
    excluded_by: Exclusion | None = None
    estimated_cost_micro: int | None = None

    @property
    def is_open(self) -> bool:
        """Whether it may serve, though perhaps not at its best: busy or down right now."""
        return self.excluded_by is None or self.excluded_by in SOFT_EXCLUSIONS

    def to_wire(self) -> dict[str, Any]:
        """Return the candidate as `POST /v1/route` shows it."""
        return {
            "model": self.model,
            "tier": self.tier,
            "excluded_by": self.excluded_by.value if self.excluded_by else None,
            "estimated_cost_micro": self.estimated_cost_micro,
        }


def candidates_of(
    request: RouteRequest,
    bounds: Bounds,
    policy: Policy,
    catalog: ModelCatalog,
    load: Mapping[str, Load],
) -> tuple[Candidate, ...]:
    """Return all models of the policy, cheapest tier first, by preference inside a tier."""
    found = []
    for index, tier in enumerate(policy.tiers):
        for name in tier.models:
            spec = catalog.get(name)
            if spec is None:
                found.append(Candidate(name, tier.name, Exclusion.UNKNOWN_MODEL))
                continue
            cost = estimated_cost_micro(spec, request.input_tokens, request.output_tokens)
            excluded = _exclusion_of(spec, request, bounds, index, policy, cost)
            found.append(
                Candidate(name, tier.name, excluded or _strain(load.get(name), policy), cost)
            )
    return tuple(found)


def _exclusion_of(
    spec: ModelSpec,
    request: RouteRequest,
    bounds: Bounds,
    tier_index: int,
    policy: Policy,
    cost_micro: int | None,
) -> Exclusion | None:
    is_pinned = request.requested not in (AUTO, FAST, BEST)
    if not all(is_inside(spec, boundary) for boundary in bounds.boundaries):
        return Exclusion.BOUNDARY
    closed = bounds.exclusion_of(tier_index)
    # A pinned model may lie below the floor: the caller chose it, and no promise of ours is broken.
    if closed is not None and not (is_pinned and tier_index < bounds.low):
        return closed
    if not is_pinned:
        for need in sorted(request.needs - spec.supports):
            return Exclusion(need)
    if request.input_tokens + min(request.output_tokens, 1) > spec.context_tokens:
        return Exclusion.CONTEXT
    if spec.price is None and policy.unpriced == "block":
        return Exclusion.UNPRICED
    if request.max_cost_usd is not None and (
        cost_micro is None or cost_micro > request.max_cost_usd * _MICRO
    ):
        return Exclusion.MAX_COST
    return None


def _strain(load: Load | None, policy: Policy) -> Exclusion | None:
    if load is None:
        return None
    if not load.is_up:
        return Exclusion.DOWN
    target_ms = policy.target_ttft_ms
    if load.predicted_ttft_ms is not None and target_ms and load.predicted_ttft_ms > target_ms:
        return Exclusion.BUSY
    return None


def estimated_cost_micro(
    spec: ModelSpec, input_tokens: int, output_tokens: int, warm_tokens: int = 0
) -> int | None:
    """Return the cost of a turn in millionths of a US dollar, rounded up, None when unknown.

    It compares models before the call; what is charged is computed from real usage elsewhere.
    A model billed by its busy time is taken at the speed of a small model on a processor.
    """
    price = spec.price
    if price is None:
        return None
    warm_tokens = min(warm_tokens, input_tokens)
    if price.input_usd_per_mtok is not None and price.output_usd_per_mtok is not None:
        warm_price = price.cached_input_usd_per_mtok
        # USD per million tokens times tokens is millionths of a dollar.
        usd_micro = (
            price.input_usd_per_mtok * (input_tokens - warm_tokens)
            + (price.input_usd_per_mtok if warm_price is None else warm_price) * warm_tokens
            + price.output_usd_per_mtok * output_tokens
        )
    elif price.busy_second_usd is not None:
        busy_s = Decimal(input_tokens - warm_tokens) / PREFILL_TOKENS_PER_S
        busy_s += Decimal(output_tokens) / DECODE_TOKENS_PER_S
        usd_micro = price.busy_second_usd * busy_s * _MICRO
    else:
        return None
    return int(usd_micro.to_integral_value(ROUND_CEILING))
