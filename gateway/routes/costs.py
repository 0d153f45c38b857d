"""The cost API: what was spent, on what, and what is left; read from the roll-ups."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Annotated, Any
from zoneinfo import ZoneInfo, available_timezones

from fastapi import APIRouter, Depends, Query
from fastapi.responses import JSONResponse, Response

from gateway.auth import Principal
from gateway.errors import RequestError
from gateway.routes.dependencies import Wired, require
from gateway.services import Services
from policies.books import GROUPS, CostRow, day_bounds

router = APIRouter()
Reader = Annotated[Principal, Depends(require("costs"))]
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
async def costs(wired: Wired, asked: Asked) -> JSONResponse:
    """Return costs by group, with their exact total."""
    tenant = asked.tenant.id
    await wired.books.catch_up(tenant)
    rows = await _rows(wired, asked, asked.groups)
    # A turn with two tags stands in two rows, so the total is asked for on its own.
    totals = await _rows(wired, asked, ())
    now = wired.clock()
    n_waiting, oldest_s = await wired.books.backlog(tenant)
    lag_s = now.timestamp() - oldest_s if n_waiting and oldest_s else 0.0
    return JSONResponse(
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


@router.get("/v1/costs/export")
async def export(wired: Wired, asked: Asked) -> Response:
    """Return the same rows as CSV; no cell can be read as a formula."""
    await wired.books.catch_up(asked.tenant.id)
    rows = await _rows(wired, asked, asked.groups)
    return Response(
        _csv(asked.groups, rows, asked.currency),
        media_type="text/csv; charset=utf-8",
        headers={"content-disposition": 'attachment; filename="costs.csv"'},
    )


@router.get("/v1/budget")
async def budget(wired: Wired, principal: Reader) -> JSONResponse:
    """Return what is spent, held and left of the running period."""
    tenant = principal.tenant
    policy = wired.policies.policy_of(tenant.id, tenant.policy)
    state = await wired.ledger.state(tenant.id, policy.budget, tenant.currency)
    return JSONResponse(
        {
            "limit_micro": state.limit_micro,
            "settled_micro": state.settled_micro,
            "reserved_micro": state.reserved_micro,
            "currency": state.currency,
            "period": state.period,
            "resets_at": state.resets_at.isoformat() if state.resets_at else None,
        }
    )


async def _rows(wired: Services, asked: CostQuery, groups: Sequence[str]) -> list[CostRow]:
    return await wired.books.costs(
        asked.tenant.id,
        start=asked.start,
        end=asked.end,
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


def _csv(groups: Sequence[str], rows: Sequence[CostRow], currency: str) -> str:
    names = [*groups, "requests", "input_tokens", "cached_input_tokens", "output_tokens"]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([*names, "cost_micro", "currency"])
    for row in rows:
        values = _row(row, currency)
        cells = [_cell(values[name]) for name in names]
        writer.writerow([*cells, values["cost_micro"], currency])
    return text.getvalue()


def _cell(value: Any) -> Any:
    """Return a value that no spreadsheet takes for a formula. Source: OWASP, CSV Injection."""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return "'" + value
    return value


def _invalid(param: str, value: object, allowed: str) -> RequestError:
    return RequestError(
        f"Invalid value for '{param}': {str(value)[:80]!r} is not {allowed}.",
        code="invalid_value",
        param=param,
    )
