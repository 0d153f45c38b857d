"""Timing: how long the turns of a span took, day by day and tier by tier, and how they ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta

from gateway.dashboard.view import View
from gateway.services import Services
from policies.reports import Latencies

_MOST_DAYS = 14


@dataclass(frozen=True, slots=True)
class Timing:
    """Percentiles of the span, of each tier, and of its last days; ends and errors."""

    overall: Latencies
    tiers: tuple[tuple[str, Latencies], ...]
    days: tuple[tuple[date, Latencies], ...]
    statuses: Mapping[str, int]


async def timing_of(wired: Services, view: View) -> Timing:
    """Return the figures of the page; days without answers are left out."""
    tenant, span = view.tenant, view.span
    policy = wired.policies.policy_of(tenant.id, tenant.policy)
    tiers = []
    for tier in policy.tiers:
        tiers.append((tier.name, await wired.reports.latencies(tenant.id, span, tier=tier.name)))
    days = []
    for back in range(min(view.days, _MOST_DAYS) - 1, -1, -1):
        day = view.today - timedelta(days=back)
        found = await wired.reports.latencies(tenant.id, view.span_of(day, day))
        if found.total.n:
            days.append((day, found))
    return Timing(
        overall=await wired.reports.latencies(tenant.id, span),
        tiers=tuple(tiers),
        days=tuple(days),
        statuses=await wired.reports.counts(tenant.id, span, "status"),
    )
