"""Timing: how long the turns of a span took, day by day and tier by tier, and how they ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta

from gateway.dashboard.view import View
from gateway.services import Services
from policies.reports import NO_LATENCIES, Latencies

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
    tenant, span = view.tenant.id, view.span
    policy = wired.policies.policy_of(tenant, view.tenant.policy)
    first = view.today - timedelta(days=min(view.days, _MOST_DAYS) - 1)
    by_tier = await wired.reports.latencies_by_tier(tenant, span)
    by_day = await wired.reports.latencies_by_day(tenant, view.span_of(first, view.today))
    return Timing(
        overall=await wired.reports.latencies(tenant, span),
        tiers=tuple((tier.name, by_tier.get(tier.name, NO_LATENCIES)) for tier in policy.tiers),
        days=tuple((day, found) for day, found in by_day.items() if found.total.n),
        statuses=await wired.reports.counts(tenant, span, "status"),
    )
