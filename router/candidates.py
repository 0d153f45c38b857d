"""Every model of the policy with what excludes it and what the turn would cost there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from policies.catalog import is_inside
from router.bounds import Bounds
from router.reasons import SOFT_EXCLUSIONS, Exclusion
from router.request import Load, RouteRequest
from router.table import Listed, RoutingTable

_MICRO = 1_000_000


@dataclass(frozen=True, slots=True)
class Candidate:
    """One model that was weighed.

    `excluded_by` is None where it may serve. `estimated_cost_micro` is the worst case of this turn
    in millionths of the turn's currency (all input cold, all of the output allowance used), None
    where the price is unknown.
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
    request: RouteRequest, bounds: Bounds, table: RoutingTable, load: Mapping[str, Load]
) -> tuple[Candidate, ...]:
    """Return all models of the policy at their positions in the table.

    Costs compare models before the call, rounded up; what is charged is computed from real usage
    elsewhere.
    """
    input_tokens, output_tokens = request.input_tokens, request.output_tokens
    is_pinned, usd_rate = request.is_pinned, request.usd_rate
    found = []
    for listed in table.models:
        prices = listed.prices
        usd_micro = prices.usd_micro(input_tokens, output_tokens) if prices else None
        excluded = (
            _exclusion_of(listed, request, bounds, is_pinned)
            or _price_exclusion_of(usd_micro, request, listed, table)
            or _strain(load.get(listed.name), table.policy.target_ttft_ms)
        )
        cost = None if usd_micro is None else math.ceil(usd_micro * usd_rate)
        found.append(Candidate(listed.name, listed.tier, excluded, cost))
    return tuple(found)


def _exclusion_of(
    listed: Listed, request: RouteRequest, bounds: Bounds, is_pinned: bool
) -> Exclusion | None:
    spec = listed.spec
    if spec is None:
        return Exclusion.UNKNOWN_MODEL
    for boundary in bounds.boundaries:
        if not is_inside(spec, boundary):
            return Exclusion.BOUNDARY
    closed = bounds.exclusion_of(listed.tier_index)
    # A pinned model may lie below the floor: the caller chose it, and no promise of ours is broken.
    if closed is not None and not (is_pinned and listed.tier_index < bounds.low):
        return closed
    if request.needs and not is_pinned:
        for need in sorted(request.needs - spec.supports):
            return Exclusion(need)
    if request.input_tokens + min(request.output_tokens, 1) > spec.context_tokens:
        return Exclusion.CONTEXT
    return None


def _price_exclusion_of(
    usd_micro: Decimal | None, request: RouteRequest, listed: Listed, table: RoutingTable
) -> Exclusion | None:
    if listed.prices is None and table.policy.unpriced == "block":
        return Exclusion.UNPRICED
    cap_usd = request.max_cost_usd
    if cap_usd is not None and (usd_micro is None or math.ceil(usd_micro) > cap_usd * _MICRO):
        return Exclusion.MAX_COST
    return None


def _strain(load: Load | None, target_ms: int | None) -> Exclusion | None:
    if load is None:
        return None
    if not load.is_up:
        return Exclusion.DOWN
    if load.predicted_ttft_ms is not None and target_ms and load.predicted_ttft_ms > target_ms:
        return Exclusion.BUSY
    return None
