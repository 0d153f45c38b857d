"""Reports: what pages and the cost API ask of the books beside plain costs; all from roll-ups.

Nothing here books anything: call `Books.catch_up` first where the last second matters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import orjson
from sqlalchemy import Connection, select

from policies.books import Books
from policies.budget import Budget, period_of
from policies.catalog import ModelSpec, Price
from policies.costs import CostRow
from policies.counts import Counted, count_turns, middle_of
from policies.entry import to_us
from policies.forecast import BurnDown, burn_down
from policies.savings import Savings, SpentDay, savings_of
from policies.tables import turns_table
from policies.usage import Rates, Usage, usd_of


@dataclass(frozen=True, slots=True)
class Span:
    """From `start` (included) to `end` (excluded), both aware; days are those of `timezone`."""

    start: datetime
    end: datetime
    timezone: str


@dataclass(frozen=True, slots=True)
class TierShare:
    """What one tier served; `share` of all requests is between 0 and 1."""

    tier: str
    requests: int
    share: float
    cost_micro: int


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Of `n` turns, in milliseconds, each within 5 % of the true value; None where n is 0."""

    n: int
    p50_ms: float | None
    p90_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True, slots=True)
class Latencies:
    """How long turns took; `first_token` is from the arrival of the request to its first delta."""

    first_token: Percentiles
    total: Percentiles


NO_LATENCIES = Latencies(*(Percentiles(0, None, None, None, None),) * 2)
_DURATIONS = ("first_ms", "total_ms")


class Reports:
    """Questions to one tenant's books.

    Args:
        books: the roll-ups.
        rates: exchange rates for what would have been paid.
    """

    def __init__(self, books: Books, rates: Rates) -> None:
        self._books = books
        self._rates = rates

    async def savings(
        self, tenant: str, span: Span, *, currency: str, baseline: ModelSpec
    ) -> Savings | None:
        """Return what was saved against answering everything with one model.

        A baseline that is priced by busy seconds alone is priced at what its own answers in the
        span cost per token.

        Args:
            tenant: whose.
            span: rounded to quarters of an hour.
            currency: USD or the tenant's.
            baseline: the model that would have answered.

        Returns:
            None where the baseline has no price.

        Raises:
            UnknownRate: no exchange rate for one of the days.
        """
        rows = await self._costs(tenant, span, ("day", "kind"), currency)
        price = baseline.price
        if price is not None and price.input_usd_per_mtok is None:
            price = await self._measured_price(tenant, span, baseline.name)
        return savings_of(
            [_spent_day(row, currency) for row in rows],
            baseline=baseline.name,
            usd_of=partial(usd_of, price=price),
            rates=self._rates,
            currency=currency,
        )

    async def burn_down(
        self, tenant: str, budget: Budget | None, *, currency: str, timezone: str, now: datetime
    ) -> BurnDown:
        """Return the running period day by day and its forecast.

        Args:
            tenant: whose.
            budget: None shows the month, without a limit.
            currency: the tenant's, where there is no budget.
            timezone: the tenant's, where there is no budget.
            now: aware.
        """
        kind = budget.period if budget else "month"
        timezone = budget.timezone if budget else timezone
        currency = budget.currency if budget else currency
        period = period_of(kind, timezone, now)
        span = Span(now - timedelta(days=29), now, timezone)
        if period.start < span.start:
            span = Span(period.start, now, timezone)
        rows = await self._costs(tenant, span, ("day",), currency)
        costs = {date.fromisoformat(row.group["day"]): _micro(row, currency) for row in rows}
        return burn_down(
            costs,
            period=period,
            timezone=timezone,
            currency=currency,
            limit_micro=budget.limit_micro if budget else None,
            now=now,
        )

    async def tier_mix(self, tenant: str, span: Span, *, currency: str) -> tuple[TierShare, ...]:
        """Return what each tier served, the largest share first."""
        rows = await self._costs(tenant, span, ("tier",), currency)
        n_requests = sum(row.requests for row in rows)
        shares = [
            TierShare(
                row.group["tier"],
                row.requests,
                row.requests / n_requests if n_requests else 0.0,
                _micro(row, currency),
            )
            for row in rows
        ]
        return tuple(sorted(shares, key=lambda share: (-share.requests, share.tier)))

    async def counts(self, tenant: str, span: Span, name: str) -> Mapping[str, int]:
        """Return how many turns had each value of `name`, the most frequent first.

        `name` is `reason`, `cache`, `status` or `score` (tenths of P(the cheapest tier is not good
        enough), `0.0` to `0.9`).
        """
        return (await self.counts_of(tenant, span, name))[name]

    async def counts_of(
        self, tenant: str, span: Span, *names: str
    ) -> Mapping[str, Mapping[str, int]]:
        """Return the counts of several names from one reading."""
        counted = await self._counted(tenant, span, names)
        found: dict[str, Counter[str]] = {name: Counter() for name in names}
        for (name, _, value, _), n in counted.items():
            found[name][value] += n
        return {
            name: {v: n for v, n in sorted(of.items(), key=lambda item: (-item[1], item[0])) if n}
            for name, of in found.items()
        }

    async def recorded(self, tenant: str, span: Span, *, limit: int) -> list[Mapping[str, Any]]:
        """Return the newest recorded turns of the span, without their attempts."""
        table = turns_table.c
        query = (
            select(table.record)
            .where(table.tenant == tenant, table.status != "refused")
            .where(table.started_us >= to_us(span.start), table.started_us < to_us(span.end))
            .order_by(table.started_us.desc())
            .limit(limit)
        )

        def read(connection: Connection) -> list[Mapping[str, Any]]:
            return [orjson.loads(text) for text in connection.execute(query).scalars()]

        return await self._books.database.read(read)

    async def latencies(self, tenant: str, span: Span) -> Latencies:
        """Return how long answered turns took."""
        return _latencies(await self._counted(tenant, span, _DURATIONS))

    async def latencies_by_tier(self, tenant: str, span: Span) -> Mapping[str, Latencies]:
        """Return how long the answered turns of each tier took."""
        counted = await self._counted(tenant, span, _DURATIONS)
        tiers = sorted({tier for _, tier, _, _ in counted})
        return {
            tier: _latencies({place: n for place, n in counted.items() if place[1] == tier})
            for tier in tiers
        }

    async def latencies_by_day(self, tenant: str, span: Span) -> Mapping[date, Latencies]:
        """Return how long the answered turns of each day took; days without any are left out."""
        counted = await self._counted(tenant, span, _DURATIONS, by_day=True)
        by_day: dict[int, dict[Counted, int]] = {}
        for place, n in counted.items():
            by_day.setdefault(place[3], {})[place] = n
        return {
            date(1970, 1, 1) + timedelta(days=day): _latencies(found)
            for day, found in sorted(by_day.items())
        }

    async def _counted(
        self, tenant: str, span: Span, names: Sequence[str], *, by_day: bool = False
    ) -> Mapping[Counted, int]:
        def read(connection: Connection) -> Mapping[Counted, int]:
            return count_turns(
                connection,
                tenant,
                first_us=to_us(span.start),
                last_us=to_us(span.end),
                names=names,
                timezone=span.timezone,
                by_day=by_day,
            )

        return await self._books.database.read(read)

    async def _costs(
        self, tenant: str, span: Span, group_by: Sequence[str], currency: str
    ) -> list[CostRow]:
        return await self._books.costs(
            tenant,
            start=span.start,
            end=span.end,
            timezone=span.timezone,
            group_by=group_by,
            currency=currency,
        )

    async def _measured_price(self, tenant: str, span: Span, model: str) -> Price | None:
        rows = await self._costs(tenant, span, ("model", "kind"), "USD")
        for row in rows:
            n_tokens = row.input_tokens + row.output_tokens
            if row.group == {"model": model, "kind": "chat"} and n_tokens:
                usd_per_mtok = Decimal(row.usd_micro) / n_tokens
                return Price(input_usd_per_mtok=usd_per_mtok, output_usd_per_mtok=usd_per_mtok)
        return None


def _micro(row: CostRow, currency: str) -> int:
    return row.usd_micro if currency == "USD" else row.micro


def _spent_day(row: CostRow, currency: str) -> SpentDay:
    if row.group["kind"] == "cache":
        usage = Usage(row.reused_input_tokens, row.reused_output_tokens)
    else:
        usage = Usage(
            row.input_tokens,
            row.output_tokens,
            row.cached_input_tokens,
            row.cache_write_tokens,
            row.reasoning_tokens,
        )
    day = date.fromisoformat(row.group["day"])
    return SpentDay(day, row.group["kind"], usage, _micro(row, currency), row.attempts)


def _latencies(counted: Mapping[Counted, int]) -> Latencies:
    bins: dict[str, Counter[int]] = {name: Counter() for name in _DURATIONS}
    for (name, _, value, _), n in counted.items():
        bins[name][int(value)] += n
    return Latencies(*(_percentiles(bins[name]) for name in _DURATIONS))


def _percentiles(bins: Mapping[int, int]) -> Percentiles:
    ordered = sorted((number, n) for number, n in bins.items() if n > 0)
    n_all = sum(n for _, n in ordered)

    def at(share: float) -> float | None:
        n_below = 0
        for number, n in ordered:
            n_below += n
            if n_below >= share * n_all:
                return middle_of(number)
        return None

    return Percentiles(n_all, at(0.5), at(0.9), at(0.95), at(0.99))
