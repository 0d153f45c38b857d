"""Overview: what was spent yesterday, on what, what routing saved, and why to believe it.

Owns which questions the first page asks of the books. Everything but the check itself is read from
roll-ups; the check adds up the ledger's own rows of one day.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import date, datetime, timedelta

from redis.exceptions import RedisError
from sqlalchemy import Connection, case, func, select

from gateway.dashboard.view import View
from gateway.services import Services
from policies.budget import BudgetState, period_of
from policies.catalog import ModelSpec
from policies.costs import CostRow
from policies.entry import to_us
from policies.errors import LedgerUnavailable
from policies.forecast import BurnDown, burn_down
from policies.policy import Policy
from policies.reports import Latencies, Span, TierShare
from policies.savings import Savings
from policies.tables import entries_table, rollups_table, unbooked_table


@dataclass(frozen=True, slots=True)
class SpendLine:
    """What one value of a group cost; `value` is a day, a model, a tier."""

    value: str
    cost_micro: int
    requests: int
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    unpriced: int
    foreign_usd_micro: int


@dataclass(frozen=True, slots=True)
class Check:
    """One day three times: the ledger's rows, the roll-ups, and the lines that the page shows."""

    ledger_micro: int
    n_entries: int
    rollup_micro: int
    page_micro: int
    checked_at: datetime
    lag_s: float | None

    @property
    def agrees(self) -> bool:
        """Whether the three are the same number, to the last micro-unit."""
        return self.ledger_micro == self.rollup_micro == self.page_micro


@dataclass(frozen=True, slots=True)
class Overview:
    """Everything that the first page says."""

    has_turns: bool
    models: tuple[SpendLine, ...]
    tiers: tuple[TierShare, ...]
    check: Check
    saved: Savings | None
    saved_month: Savings | None
    daily: tuple[SpendLine, ...]
    burn: BurnDown
    budget: BudgetState | None
    cache: Mapping[str, int]
    statuses: Mapping[str, int]
    latencies: Latencies
    alarms: tuple[str, ...]

    @property
    def yesterday_micro(self) -> int:
        """What yesterday cost: the sum of the lines shown."""
        return sum(line.cost_micro for line in self.models)

    @property
    def yesterday_turns(self) -> int:
        """How many turns yesterday had."""
        return sum(line.requests for line in self.models)

    @property
    def cache_share(self) -> float | None:
        """Which share of turns the caches answered, None without turns."""
        total = sum(self.cache.values())
        return None if not total else 1 - self.cache.get("none", 0) / total


async def overview_of(wired: Services, view: View) -> Overview:
    """Return the first page's answers for the view's tenant."""
    tenant = view.tenant
    yesterday = view.span_of(view.yesterday, view.yesterday)
    month = view.span_of(view.today.replace(day=1), view.today)
    # Long enough for any month, so that one reading serves the chart and the forecast.
    recent = view.span_of(view.today - timedelta(days=30), view.today)
    week = view.span_of(view.today - timedelta(days=6), view.today)
    policy = wired.policies.policy_of(tenant.id, tenant.policy)
    baseline = baseline_of(wired, view)
    models = await lines(wired, view, yesterday, "model")
    daily = await lines(wired, view, recent, "day")
    burn = burn_down(
        {date.fromisoformat(line.value): line.cost_micro for line in daily},
        period=period_of("month", view.timezone, view.now),
        timezone=view.timezone,
        currency=view.currency,
        limit_micro=None,
        now=view.now,
    )
    budget = await budget_of(wired, view, policy)
    check = await check_of(wired, view, yesterday, sum(line.cost_micro for line in models))
    statuses = await wired.reports.counts(tenant.id, week, "status")
    return Overview(
        has_turns=bool(daily) or await _has_turns(wired, tenant.id),
        models=models,
        tiers=await wired.reports.tier_mix(tenant.id, yesterday, currency=view.currency),
        check=check,
        saved=await savings(wired, view, yesterday, baseline),
        saved_month=await savings(wired, view, month, baseline),
        daily=filled(daily, recent, view),
        burn=burn,
        budget=budget,
        cache=await wired.reports.counts(tenant.id, week, "cache"),
        statuses=statuses,
        latencies=await wired.reports.latencies(tenant.id, week),
        alarms=await alarms_of(wired, view, budget, daily, check, statuses),
    )


async def budget_of(wired: Services, view: View, policy: Policy) -> BudgetState | None:
    """Return what is spent and held of the policy's budget, None where Redis does not answer."""
    try:
        return await wired.ledger.state(view.tenant.id, policy.budget, view.tenant.currency)
    except LedgerUnavailable:
        return None


def baseline_of(wired: Services, view: View) -> ModelSpec:
    """Return the model that would have answered everything: the first of the policy's ceiling."""
    policy = wired.policies.policy_of(view.tenant.id, view.tenant.policy)
    best = next(tier for tier in policy.tiers if tier.name == policy.ceiling)
    return wired.settings.catalog[best.models[0]]


async def savings(wired: Services, view: View, span: Span, baseline: ModelSpec) -> Savings | None:
    """Return the waterfall of a span in the view's currency, None without a baseline's price."""
    return await wired.reports.savings(
        view.tenant.id, span, currency=view.currency, baseline=baseline
    )


async def lines(wired: Services, view: View, span: Span, name: str) -> tuple[SpendLine, ...]:
    """Return what each value of a group cost, the dearest first; days in their order."""
    return (await breakdowns(wired, view, span, name))[name]


async def breakdowns(
    wired: Services, view: View, span: Span, *names: str
) -> Mapping[str, tuple[SpendLine, ...]]:
    """Return the lines of several groups from one reading of the roll-ups.

    Only groups of which a turn has one value may be asked for together: tags alone.
    """
    rows = await wired.books.costs(
        view.tenant.id,
        start=span.start,
        end=span.end,
        timezone=view.timezone,
        group_by=names,
        currency=view.currency,
    )
    found: dict[str, tuple[SpendLine, ...]] = {}
    for name in names:
        summed: dict[str, SpendLine] = {}
        for row in rows:
            line = _line(row, row.group[name], view.currency)
            summed[line.value] = _sum(summed[line.value], line) if line.value in summed else line
        in_order = sorted(summed.values(), key=lambda line: line.value)
        if name != "day":
            in_order.sort(key=lambda line: (-line.cost_micro, -line.requests))
        found[name] = tuple(in_order)
    return found


def filled(days: Sequence[SpendLine], span: Span, view: View) -> tuple[SpendLine, ...]:
    """Return one line for each day of a span, zero where nothing was spent; none if all are."""
    if not days:
        return ()
    known = {line.value: line for line in days}
    first, last = span.start.date(), (span.end - timedelta(seconds=1)).date()
    all_days = (first + timedelta(days=n) for n in range((last - first).days + 1))
    return tuple(
        known.get(day.isoformat(), SpendLine(day.isoformat(), 0, 0, 0, 0, 0, 0, 0))
        for day in all_days
    )


async def check_of(wired: Services, view: View, span: Span, page_micro: int) -> Check:
    """Return a day's sum from the ledger's own rows beside the finest roll-ups' and the page's.

    The page itself is read from coarser roll-ups, so that all three come from different rows.
    """

    def read(connection: Connection) -> tuple[int, int, int]:
        sums: list[int] = []
        for columns, moment in (
            (entries_table.c, entries_table.c.opened_us),
            (rollups_table.c, rollups_table.c.bucket_us),
        ):
            is_own = case((columns.currency == view.currency, columns.micro))
            amount = columns.usd_micro if view.currency == "USD" else is_own
            query = select(func.coalesce(func.sum(amount), 0), func.count()).where(
                columns.tenant == view.tenant.id,
                moment >= to_us(span.start),
                moment < to_us(span.end),
            )
            sums += map(int, connection.execute(query).one())
        return sums[0], sums[1], sums[2]

    ledger_micro, n_entries, rollup_micro = await wired.books.database.read(read)
    now = wired.clock()
    return Check(
        ledger_micro=ledger_micro,
        n_entries=n_entries,
        rollup_micro=rollup_micro,
        page_micro=page_micro,
        checked_at=now,
        lag_s=await lag_s(wired, view.tenant.id, now),
    )


async def lag_s(wired: Services, tenant: str, now: datetime) -> float | None:
    """Return how long the oldest entry that is not booked has waited, None if Redis is silent."""
    try:
        n_waiting, oldest_s = await wired.books.backlog(tenant)
    except (RedisError, OSError):
        return None
    return max(0.0, now.timestamp() - oldest_s) if n_waiting and oldest_s else 0.0


async def alarms_of(
    wired: Services,
    view: View,
    budget: BudgetState | None,
    daily: Sequence[SpendLine],
    check: Check,
    statuses: Mapping[str, int],
) -> tuple[str, ...]:
    """Return what somebody should look at, in whole sentences; empty when all is well."""
    found = []
    if not check.agrees:
        found.append("Ledger and roll-ups disagree: run `turnwise costs rebuild` and look again.")
    if budget and budget.limit_micro is not None and budget.used_share >= 0.8:
        share = min(999, round(100 * budget.used_share))
        found.append(f"{share} % of the {budget.period}'s budget is spent or held.")
    unpriced = sum(line.unpriced for line in daily)
    if unpriced:
        found.append(f"{unpriced} calls of the last 31 days have no known price and add nothing.")
    if any(line.foreign_usd_micro for line in daily):
        found.append("A part was booked in another currency; switch to USD to see all of it.")
    if not view.is_fresh:
        found.append("Redis does not answer: what the books have not taken from it is missing.")
    if check.lag_s is not None and check.lag_s > 60:
        found.append(f"The books are {check.lag_s:.0f} s behind the gateway.")
    n_unbooked = await _unbooked(wired, view.tenant.id)
    if n_unbooked:
        found.append(f"{n_unbooked} ledger records could not be read and were set aside.")
    n_turns, n_failed = sum(statuses.values()), statuses.get("failed", 0)
    if n_turns >= 20 and n_failed > n_turns * 0.05:
        found.append(f"{100 * n_failed / n_turns:.0f} % of the turns of the last 7 days failed.")
    return tuple(found)


async def _unbooked(wired: Services, tenant: str) -> int:
    query = select(func.count()).where(unbooked_table.c.tenant == tenant)
    return int(
        await wired.books.database.read(lambda connection: connection.execute(query).scalar_one())
    )


async def _has_turns(wired: Services, tenant: str) -> bool:
    return bool(await wired.books.turns(tenant, limit=1))


def _line(row: CostRow, value: str, currency: str) -> SpendLine:
    return SpendLine(
        value=value,
        cost_micro=row.usd_micro if currency == "USD" else row.micro,
        requests=row.requests,
        input_tokens=row.input_tokens,
        cached_input_tokens=row.cached_input_tokens,
        output_tokens=row.output_tokens,
        unpriced=row.unpriced,
        foreign_usd_micro=0 if currency == "USD" else row.foreign_usd_micro,
    )


def _sum(one: SpendLine, other: SpendLine) -> SpendLine:
    amounts = (field.name for field in fields(SpendLine) if field.name != "value")
    return replace(one, **{name: getattr(one, name) + getattr(other, name) for name in amounts})
