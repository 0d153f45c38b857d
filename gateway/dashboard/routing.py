"""Routing: which tiers served and why, and what another threshold would have done.

The what-if makes recorded decisions again, whole, with the policy's rules, floors, budget and load
as they were: the same replay as `turnwise policy replay`, over fewer turns, so that a slider may
ask for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace

from gateway.dashboard.view import View
from gateway.services import Services
from policies.policy import Policy
from policies.reports import TierShare
from router.replay import Replay, replay
from router.table import RoutingTable

MOST_REPLAYED = 1_000


@dataclass(frozen=True, slots=True)
class Routing:
    """Where the span's turns went; `scores` counts tenths, lowest first."""

    policy: Policy
    tiers: tuple[TierShare, ...]
    reasons: Mapping[str, int]
    scores: tuple[tuple[float, int], ...]


@dataclass(frozen=True, slots=True)
class WhatIf:
    """The newest turns decided again with another threshold of the dearest tier.

    `current` is the threshold in force; costs of `made` are in the tenant's currency.
    """

    threshold: float
    current: float
    strong: str
    made: Replay


async def routing_of(wired: Services, view: View) -> Routing:
    """Return the figures of the page."""
    tenant, span = view.tenant.id, view.span
    counted = await wired.reports.counts_of(tenant, span, "score", "reason")
    scores = counted["score"]
    return Routing(
        policy=wired.policies.policy_of(tenant, view.tenant.policy),
        tiers=await wired.reports.tier_mix(tenant, span, currency=view.currency),
        reasons=counted["reason"],
        scores=tuple((tenth / 10, scores.get(f"{tenth / 10:.1f}", 0)) for tenth in range(10)),
    )


async def what_if_of(wired: Services, view: View, threshold: float) -> WhatIf | None:
    """Return what a threshold would have made of the span's newest turns.

    Returns:
        None for a policy without a threshold.
    """
    policy = wired.policies.policy_of(view.tenant.id, view.tenant.policy)
    if not policy.thresholds:
        return None
    strong, current = max(policy.thresholds.items(), key=lambda item: item[1])
    # Thresholds rise with the tiers: those below follow where the highest one goes under them.
    moved = {tier: min(at, threshold) for tier, at in policy.thresholds.items()}
    proposed = replace(policy, thresholds={**moved, strong: threshold})
    made = await replay_of(wired, view, proposed)
    return WhatIf(threshold=threshold, current=current, strong=strong, made=made)


async def replay_of(wired: Services, view: View, proposed: Policy) -> Replay:
    """Return what a policy would have made of the span's newest turns in today's currency."""
    newest = await wired.reports.recorded(view.tenant.id, view.span, limit=MOST_REPLAYED)
    records = [record for record in newest if record["currency"] == view.tenant.currency]
    table = RoutingTable.of(proposed, wired.settings.catalog)
    return await asyncio.to_thread(replay, records, table)
