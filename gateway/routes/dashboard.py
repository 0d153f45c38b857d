"""GET /dashboard: what was spent, saved and decided, page by page, read from the roll-ups."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict
from datetime import timedelta

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from gateway.dashboard.overview import (
    baseline_of,
    breakdowns,
    budget_of,
    filled,
    lines,
    overview_of,
    savings,
)
from gateway.dashboard.rendering import SECURITY
from gateway.dashboard.routing import routing_of, what_if_of
from gateway.dashboard.timing import timing_of
from gateway.dashboard.view import View, day_in
from gateway.errors import RequestError
from gateway.routes import dashboard_access, dashboard_policies, dashboard_turns
from gateway.routes.dependencies import Wired
from gateway.routes.page_route import PageRoute, Shown, page
from gateway.services import Services
from gateway.spreadsheet import csv_text
from policies.costs import GROUPS
from policies.forecast import BurnDown

router = APIRouter(prefix="/dashboard", include_in_schema=False, route_class=PageRoute)
for part in (dashboard_access, dashboard_policies, dashboard_turns):
    router.include_router(part.router)
_EXPORT_COLUMNS = ("requests", "input_tokens", "cached_input_tokens", "output_tokens")


@router.get("")
async def overview(wired: Wired, view: Shown, request: Request) -> Response:
    """Answer finance's question in words, then in figures."""
    view.viewer.require("costs")
    seen = await overview_of(wired, view)
    if not seen.has_turns:
        return page(request, view, "empty.html", "Overview")
    return page(request, view, "overview.html", "Overview", o=seen)


@router.get("/spend")
async def spend(wired: Wired, view: Shown, request: Request) -> Response:
    """Show the span by day, or one day by hour and model."""
    view.viewer.require("costs")
    day = day_in(view)
    span = view.span if day is None else view.span_of(day, day)
    names = ("model", "tier", "kind", *(() if day else ("day",)))
    by = await breakdowns(wired, view, span, *names)
    return page(
        request,
        view,
        "spend.html",
        "Spend",
        day=day,
        before=None if day is None else day - timedelta(days=1),
        after=None if day is None or day >= view.today else day + timedelta(days=1),
        daily=filled(by.get("day", ()), span, view),
        models=by["model"],
        tiers=by["tier"],
        kinds=by["kind"],
        tags=await lines(wired, view, span, "tag"),
        end_users=(await lines(wired, view, span, "end_user"))[:20],
    )


@router.get("/spend.csv")
async def export(wired: Wired, view: Shown, request: Request) -> Response:
    """Return the span as CSV, day by day as it is read; `x-days` says how many days come."""
    view.viewer.require("costs")
    group = view.query.get("group", "model")
    if group not in GROUPS or group == "day":
        raise RequestError(f"There is no group {group!r}.", code="invalid_value", param="group")
    headers = {
        **SECURITY,
        "content-disposition": f'attachment; filename="spend-{view.tenant.id}-by-{group}.csv"',
        "cache-control": "no-store",
        "x-days": str(view.days),
    }
    rows = _csv_of(wired, view, group)
    return StreamingResponse(rows, media_type="text/csv; charset=utf-8", headers=headers)


@router.get("/savings")
async def savings_page(wired: Wired, view: Shown, request: Request) -> Response:
    """Show what the baseline would have cost, and each step from there to what was paid."""
    view.viewer.require("costs")
    baseline = baseline_of(wired, view)
    return page(
        request,
        view,
        "savings.html",
        "Savings",
        baseline=baseline,
        saved=await savings(wired, view, view.span, baseline),
        yesterday=await savings(
            wired, view, view.span_of(view.yesterday, view.yesterday), baseline
        ),
    )


@router.get("/routing")
async def routing(wired: Wired, view: Shown, request: Request) -> Response:
    """Show where turns went and why."""
    view.viewer.require("turns")
    return page(request, view, "routing.html", "Routing", r=await routing_of(wired, view))


@router.get("/routing/what-if")
async def what_if(wired: Wired, view: Shown, request: Request) -> Response:
    """Return what another threshold would have done with the recorded scores: a part of a page."""
    view.viewer.require("turns")
    text = view.query.get("threshold", "0.5")
    try:
        threshold = float(text)
    except ValueError as error:
        raise RequestError("The threshold is no number.", param="threshold") from error
    if not 0 <= threshold <= 1:
        raise RequestError("The threshold is between 0 and 1.", param="threshold")
    seen = await what_if_of(wired, view, threshold)
    return page(request, view, "what_if.html", "What if", w=seen)


@router.get("/latency")
async def latency(wired: Wired, view: Shown, request: Request) -> Response:
    """Show how long turns took, and how they ended."""
    view.viewer.require("turns")
    return page(request, view, "latency.html", "Latency and errors", t=await timing_of(wired, view))


@router.get("/budgets")
async def budgets(wired: Wired, view: Shown, request: Request) -> Response:
    """Show the running period, its limit and where it leads."""
    view.viewer.require("costs")
    policy = wired.policies.policy_of(view.tenant.id, view.tenant.policy)
    burn = await wired.reports.burn_down(
        view.tenant.id,
        policy.budget,
        currency=view.currency if policy.budget is None else policy.budget.currency,
        timezone=view.timezone,
        now=view.now,
    )
    state = await budget_of(wired, view, policy)
    return page(
        request,
        view,
        "budgets.html",
        "Budgets",
        burn=burn,
        state=state,
        policy=policy,
        remaining=_remaining(burn),
    )


def _remaining(burn: BurnDown) -> Sequence[tuple[str, int]]:
    """Return the days left in the period with the sum expected at the end of each."""
    if not burn.points:
        return ()
    last, ends = burn.points[-1], burn.period.end
    n_left = max(0, (ends.date() - last.day).days - 1)
    step = (burn.forecast.expected_micro - last.total_micro) / (n_left + 1)
    return [
        ((last.day + timedelta(days=n)).isoformat(), last.total_micro + round(step * n))
        for n in range(1, n_left + 1)
    ]


async def _csv_of(wired: Services, view: View, group: str) -> AsyncIterator[str]:
    columns = ("day", group, *_EXPORT_COLUMNS, "cost_micro", "currency")
    for back in range(view.days - 1, -1, -1):
        day = view.today - timedelta(days=back)
        found = await lines(wired, view, view.span_of(day, day), group)
        fixed = {"day": day.isoformat(), "currency": view.currency}
        rows = ({**asdict(line), **fixed, group: line.value} for line in found)
        text = await asyncio.to_thread(csv_text, columns, rows, has_head=back == view.days - 1)
        if text:
            yield text
