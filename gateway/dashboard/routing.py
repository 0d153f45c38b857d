"""Routing: which tiers served and why, and what another threshold would have done.

The what-if counts recorded scores of the newest turns that the score decided. It moves no rule,
floor or budget: `turnwise policy replay` makes whole decisions again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, select

from gateway.dashboard.overview import lines
from gateway.dashboard.view import View
from gateway.services import Services
from policies.entry import to_us
from policies.policy import Policy
from policies.reports import TierShare
from policies.tables import turns_table

MOST_SCORES = 5_000
_BY_SCORE = ("score", "carried_over")


@dataclass(frozen=True, slots=True)
class Routing:
    """Where the span's turns went; `scores` counts tenths, lowest first."""

    policy: Policy
    tiers: tuple[TierShare, ...]
    reasons: Mapping[str, int]
    scores: tuple[tuple[float, int], ...]


@dataclass(frozen=True, slots=True)
class WhatIf:
    """The newest scores under another threshold of the dearest tier.

    Costs are the mean cost of a turn of each tier in the span, times the turns; None where one of
    the tiers served nothing, so that its mean is unknown.
    """

    threshold: float
    current: float
    cheap: str
    strong: str
    n_turns: int
    n_strong_now: int
    n_strong_then: int
    n_moved: int
    cost_now_micro: int | None
    cost_then_micro: int | None


async def routing_of(wired: Services, view: View) -> Routing:
    """Return the figures of the page."""
    tenant, span = view.tenant.id, view.span
    counted = await wired.reports.counts(tenant, span, "score")
    return Routing(
        policy=wired.policies.policy_of(tenant, view.tenant.policy),
        tiers=await wired.reports.tier_mix(tenant, span, currency=view.currency),
        reasons=await wired.reports.counts(tenant, span, "reason"),
        scores=tuple((tenth / 10, counted.get(f"{tenth / 10:.1f}", 0)) for tenth in range(10)),
    )


async def what_if_of(wired: Services, view: View, threshold: float) -> WhatIf | None:
    """Return what a threshold would have done, None for a policy without one."""
    policy = wired.policies.policy_of(view.tenant.id, view.tenant.policy)
    if not policy.thresholds:
        return None
    strong, current = max(policy.thresholds.items(), key=lambda item: item[1])
    names = [tier.name for tier in policy.tiers]
    cheap = names[max(0, names.index(strong) - 1)]
    table = turns_table.c
    query = (
        select(table.score)
        .where(table.tenant == view.tenant.id, table.score.is_not(None))
        .where(table.started_us >= to_us(view.span.start), table.reason.in_(_BY_SCORE))
        .order_by(table.started_us.desc())
        .limit(MOST_SCORES)
    )

    def read(connection: Connection) -> list[float]:
        return list(connection.execute(query).scalars())

    scores = await wired.books.database.read(read)
    now, then = (sum(score >= at for score in scores) for at in (current, threshold))
    low, high = sorted((current, threshold))
    by_tier = {line.value: line for line in await lines(wired, view, view.span, "tier")}
    means = [
        by_tier[name].cost_micro / by_tier[name].requests
        if name in by_tier and by_tier[name].requests
        else None
        for name in (cheap, strong)
    ]

    def cost(n_strong: int) -> int | None:
        if means[0] is None or means[1] is None:
            return None
        return round(means[0] * (len(scores) - n_strong) + means[1] * n_strong)

    return WhatIf(
        threshold=threshold,
        current=current,
        cheap=cheap,
        strong=strong,
        n_turns=len(scores),
        n_strong_now=now,
        n_strong_then=then,
        n_moved=sum(low <= score < high for score in scores),
        cost_now_micro=cost(now),
        cost_then_micro=cost(then),
    )
