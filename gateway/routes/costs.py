"""The cost API: what was spent, on what, and what is left; read from the roll-ups."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, available_timezones

import orjson
from fastapi import APIRouter, Depends, Query
from fastapi.responses import JSONResponse, Response, StreamingResponse

from gateway.auth import Principal
from gateway.errors import RequestError
from gateway.routes.dependencies import Wired, require
from gateway.services import Services
from gateway.spreadsheet import FOCUS_COLUMNS, FOCUS_GROUPS, csv_text, focus_row
from gateway.tenants import Tenant
from policies.books import day_bounds
from policies.budget import Budget
from policies.costs import GROUPS, CostRow, parts_of
from policies.reports import Span

router = APIRouter()
Reader = Annotated[Principal, Depends(require("costs"))]
Format = Literal["csv", "focus"]
_COUNTS = ("requests", "input_tokens", "cached_input_tokens", "output_tokens")
_LONGEST_SPAN = timedelta(days=3 * 366)


class CostQuery:
    """What a cost request asks for, checked: span, time zone, currency, groups."""

    def __init__(
        self,
        principal: Reader,
        from_: Annotated[str | None, Query(alias="from")] = None,
        to: str | None = None,
        tz: str | None = None,
        currency: str | None = None,
        group_by: str = "day",
    ) -> None:
        self.tenant = principal.tenant
        self.tz = tz or self.tenant.timezone
        if self.tz not in available_timezones():
            raise _invalid("tz", self.tz, "a time zone of the IANA list, such as Asia/Kolkata")
        self.currency = currency or self.tenant.currency
        if self.currency not in (self.tenant.currency, "USD"):
            allowed = f"{self.tenant.currency} or USD"
            raise _invalid("currency", self.currency, allowed)
        self.groups = [name.strip() for name in group_by.split(",") if name.strip()]
        for name in self.groups:
            if name not in GROUPS:
                raise _invalid("group_by", name, "any of " + ", ".join(GROUPS))
        today = datetime.now(ZoneInfo(self.tz)).date()
        self.start = self._moment("from", from_, today.replace(day=1), is_end=False)
        self.end = self._moment("to", to, today, is_end=True)
        if not timedelta(0) <= self.end - self.start <= _LONGEST_SPAN:
            raise _invalid("to", to, "after `from` and within three years of it")

    def _moment(self, param: str, text: str | None, usual: date, *, is_end: bool) -> datetime:
        """Return a day's start (or end, which the span includes) or a moment as given."""
        if text is None or len(text) == 10:
            try:
                day = usual if text is None else date.fromisoformat(text)
            except ValueError as error:
                raise _invalid(param, text, "a day, YYYY-MM-DD, or an ISO 8601 time") from error
            try:
                return day_bounds(day, day, self.tz)[1 if is_end else 0]
            except OverflowError as error:  # the day after the calendar's last
                raise _invalid(param, text, "a day before 9999-12-31") from error
        try:
            moment = datetime.fromisoformat(text.replace(" ", "+"))
        except ValueError as error:
            raise _invalid(param, text, "a day, YYYY-MM-DD, or an ISO 8601 time") from error
        return moment if moment.tzinfo else moment.replace(tzinfo=ZoneInfo(self.tz))


Asked = Annotated[CostQuery, Depends()]


@router.get("/v1/costs")
async def costs(wired: Wired, asked: Asked) -> Response:
    """Return costs by group, with their exact total."""
    tenant = asked.tenant.id
    await wired.books.catch_up(tenant)
    rows = await _rows(wired, asked, asked.groups)
    # A turn with two tags stands in two rows, so the total is asked for on its own.
    totals = await _rows(wired, asked, ())
    now = wired.clock()
    n_waiting, oldest_s = await wired.books.backlog(tenant)
    lag_s = now.timestamp() - oldest_s if n_waiting and oldest_s else 0.0
    body = orjson.dumps(  # thousands of rows, in a tenth of the time
        {
            "from": asked.start.isoformat(),
            "to": asked.end.isoformat(),
            "tz": asked.tz,
            "currency": asked.currency,
            "rows": [_row(row, asked.currency) for row in rows],
            "total": _row(totals[0], asked.currency),
            "as_of": now.isoformat(),
            "ledger_lag_s": round(max(0.0, lag_s), 3),
            "unpriced_requests": totals[0].unpriced,
        }
    )
    return Response(body, media_type="application/json")


@router.get("/v1/costs/export")
async def export(wired: Wired, asked: Asked, format: Format = "csv") -> StreamingResponse:
    """Return costs as a file: the asked groups as CSV, or FOCUS; no cell is read as a formula.

    It comes in parts, day by day where it tells days apart; `x-parts` says how many will come.
    """
    await wired.books.catch_up(asked.tenant.id)
    groups = FOCUS_GROUPS if format == "focus" else asked.groups
    parts = parts_of(asked.start, asked.end, asked.tz, groups)
    return StreamingResponse(
        _lines(wired, asked, parts, is_focus=format == "focus"),
        media_type="text/csv; charset=utf-8",
        headers={
            "content-disposition": f'attachment; filename="costs-{format}.csv"',
            "x-parts": str(len(parts)),
        },
    )


async def _lines(
    wired: Services, asked: CostQuery, parts: Sequence[tuple[datetime, datetime]], *, is_focus: bool
) -> AsyncIterator[str]:
    columns = FOCUS_COLUMNS if is_focus else [*asked.groups, *_COUNTS, "cost_micro", "currency"]
    currency = {"currency": asked.currency}

    def line(row: CostRow) -> Mapping[str, Any]:
        return _focus(wired, asked, row) if is_focus else _row(row, asked.currency) | currency

    for number, part in enumerate(parts):
        rows = await _rows(wired, asked, FOCUS_GROUPS if is_focus else asked.groups, part)
        # In a worker thread, so that turns go on while a large day is written.
        yield await asyncio.to_thread(csv_text, columns, map(line, rows), has_head=number == 0)


@router.get("/v1/budget")
async def budget(wired: Wired, principal: Reader) -> JSONResponse:
    """Return what is spent, held and left of the running period, and where it leads."""
    tenant = principal.tenant
    policy = wired.policies.policy_of(tenant.id, tenant.policy)
    state = await wired.ledger.state(tenant.id, policy.budget, tenant.currency)
    await wired.books.catch_up(tenant.id)
    burn = await wired.reports.burn_down(
        tenant.id,
        policy.budget,
        currency=tenant.currency,
        timezone=tenant.timezone,
        now=wired.clock(),
    )
    forecast = burn.forecast
    return JSONResponse(
        {
            "limit_micro": state.limit_micro,
            "settled_micro": state.settled_micro,
            "reserved_micro": state.reserved_micro,
            "currency": state.currency,
            "period": state.period,
            "resets_at": state.resets_at.isoformat() if state.resets_at else None,
            "timezone": burn.timezone,
            "alerts": await _alerts(wired, tenant, policy.budget),
            "burn_down": [
                {
                    "day": point.day.isoformat(),
                    "cost_micro": point.cost_micro,
                    "total_micro": point.total_micro,
                }
                for point in burn.points
            ],
            "forecast": {
                "expected_micro": forecast.expected_micro,
                "low_micro": forecast.low_micro,
                "high_micro": forecast.high_micro,
                "days_looked_at": forecast.n_days,
                "spent_by": forecast.spent_by.isoformat() if forecast.spent_by else None,
            },
        }
    )


@router.get("/v1/savings")
async def savings(wired: Wired, asked: Asked, baseline: str = "strong") -> JSONResponse:
    """Return what was saved against a baseline, part by part; the parts may be negative.

    `baseline` is `strong` (the ceiling's first model), `cheap` (the first tier's) or a model of the
    catalogue.
    """
    tenant = asked.tenant
    policy = wired.policies.policy_of(tenant.id, tenant.policy)
    tiers = {tier.name: tier.models[0] for tier in policy.tiers}
    named = {"strong": tiers[policy.ceiling], "cheap": policy.tiers[0].models[0]}
    spec = wired.settings.catalog.get(named.get(baseline, baseline))
    if spec is None:
        raise _invalid("baseline", baseline, "strong, cheap or a model of the catalogue")
    await wired.books.catch_up(tenant.id)
    saved = await wired.reports.savings(
        tenant.id,
        Span(asked.start, asked.end, asked.tz),
        currency=asked.currency,
        baseline=spec,
    )
    if saved is None:
        raise _invalid("baseline", baseline, f"a model with a known price ({spec.name} has none)")
    return JSONResponse(
        {
            "from": asked.start.isoformat(),
            "to": asked.end.isoformat(),
            "tz": asked.tz,
            "currency": saved.currency,
            "baseline": {"name": saved.baseline, "cost_micro": saved.baseline_micro},
            "parts": [{"name": p.name, "cost_micro": p.cost_micro} for p in saved.parts],
            "actual": {"cost_micro": saved.actual_micro},
            "saved_micro": saved.saved_micro,
            "unpriced_requests": saved.unpriced,
        }
    )


def _focus(wired: Services, asked: CostQuery, row: CostRow) -> dict[str, Any]:
    return focus_row(
        row,
        tenant=asked.tenant.id,
        currency=asked.currency,
        timezone=asked.tz,
        spec=wired.settings.catalog.get(row.group["model"]),
    )


async def _alerts(wired: Services, tenant: Tenant, budget: Budget | None) -> list[dict[str, Any]]:
    """Return the steps of the budget that the running period has reached."""
    found = await wired.alerts.of(wired.ledger.spending.place(tenant.id, budget, tenant.currency))
    return [
        {
            "at": alert.step.at_permyriad / 10_000,
            "action": alert.step.action,
            "settled_micro": alert.settled_micro,
            "reached_at": datetime.fromtimestamp(alert.at_us / 1e6, UTC).isoformat(),
        }
        for alert in found
    ]


async def _rows(
    wired: Services,
    asked: CostQuery,
    groups: Sequence[str],
    part: tuple[datetime, datetime] | None = None,
) -> list[CostRow]:
    start, end = part or (asked.start, asked.end)
    return await wired.books.costs(
        asked.tenant.id,
        start=start,
        end=end,
        timezone=asked.tz,
        group_by=groups,
        currency=None if asked.currency == "USD" else asked.currency,
    )


def _row(row: CostRow, currency: str) -> dict[str, Any]:
    return {
        **row.group,
        "requests": row.requests,
        "input_tokens": row.input_tokens,
        "cached_input_tokens": row.cached_input_tokens,
        "output_tokens": row.output_tokens,
        "cost_micro": row.usd_micro if currency == "USD" else row.micro,
    }


def _invalid(param: str, value: object, allowed: str) -> RequestError:
    return RequestError(
        f"Invalid value for '{param}': {str(value)[:80]!r} is not {allowed}.",
        code="invalid_value",
        param=param,
    )
