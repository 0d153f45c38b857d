"""turnwise costs: what the books say, as a table or CSV, and making the roll-ups anew."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from zoneinfo import ZoneInfo

import typer

from gateway.cli.output import (
    CommandFailed,
    ConfigPath,
    JsonFlag,
    load_settings_or_fail,
    say,
    say_json,
    say_table,
)

if TYPE_CHECKING:
    from gateway.tenants import Tenant
    from policies.books import Books
    from policies.costs import CostRow

app = typer.Typer(help="What turns cost.", no_args_is_help=True)

TenantName = Annotated[str, typer.Option(help="Whose costs.")]
FirstDay = Annotated[
    datetime | None, typer.Option("--from", formats=["%Y-%m-%d"], help="First day; today.")
]
LastDay = Annotated[
    datetime | None, typer.Option("--to", formats=["%Y-%m-%d"], help="Last day; today.")
]
GroupBy = Annotated[
    str, typer.Option(help="Of day, week, month, hour, model, tier, kind, tag, end_user.")
]
Currency = Annotated[str | None, typer.Option(help="USD, or the tenant's own (the default).")]
Zone = Annotated[str | None, typer.Option("--tz", help="For days; the tenant's by default.")]
_COUNTS = ("requests", "input_tokens", "cached_input_tokens", "output_tokens")


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of the books; amounts are in micro-units of `currency`."""

    tenant: str
    first: date
    last: date
    timezone: str
    currency: str
    groups: tuple[str, ...]

    def bounds(self) -> tuple[datetime, datetime]:
        """Return the start of the first day and the end of the last."""
        from policies.books import day_bounds

        return day_bounds(self.first, self.last, self.timezone)

    async def rows(self, books: Books, start: datetime, end: datetime) -> list[dict[str, Any]]:
        """Return the rows of a part of the span, as `GET /v1/costs` gives them."""
        found = await books.costs(
            self.tenant, start=start, end=end, timezone=self.timezone, group_by=self.groups
        )
        return [{**self._row(row), "unpriced": row.unpriced} for row in found]

    def _row(self, row: CostRow) -> dict[str, Any]:
        return {
            **row.group,
            **{name: getattr(row, name) for name in _COUNTS},
            "cost_micro": row.usd_micro if self.currency == "USD" else row.micro,
        }


@app.command()
def show(
    tenant: TenantName = "demo",
    first_day: FirstDay = None,
    last_day: LastDay = None,
    group_by: GroupBy = "day,model,tier",
    currency: Currency = None,
    timezone: Zone = None,
    config: ConfigPath = None,
    as_json: JsonFlag = False,
) -> None:
    """Show what a tenant's turns cost, from the roll-ups."""

    async def work() -> tuple[Question, list[dict[str, Any]]]:
        async with _opened(config) as (books, tenants):
            asked = _question(tenants, tenant, first_day, last_day, group_by, currency, timezone)
            return asked, await asked.rows(books, *asked.bounds())

    asked, found = asyncio.run(work())
    n_unpriced = sum(row.pop("unpriced") for row in found)
    total = {name: sum(row[name] for row in found) for name in (*_COUNTS, "cost_micro")}
    if as_json:
        say_json(
            {
                "from": asked.first.isoformat(),
                "to": asked.last.isoformat(),
                "tz": asked.timezone,
                "currency": asked.currency,
                "rows": found,
                "total": total,
                "unpriced_requests": n_unpriced,
            }
        )
        return
    columns = [*asked.groups, "requests", "input_tokens", "output_tokens", "cost"]
    rows = [
        [*(row[name] for name in columns[:-1]), money(row["cost_micro"], asked.currency)]
        for row in (*found, {**dict.fromkeys(asked.groups, "total"), **total})
    ]
    say_table(columns, rows)
    if n_unpriced:
        say(f"{n_unpriced} attempts had no known price and are not in the sums")


@app.command()
def export(
    tenant: TenantName = "demo",
    first_day: FirstDay = None,
    last_day: LastDay = None,
    group_by: GroupBy = "day,model,tier,end_user",
    currency: Currency = None,
    timezone: Zone = None,
    config: ConfigPath = None,
    as_json: JsonFlag = False,
) -> None:
    """Write the same rows as CSV, day by day, amounts in whole micro-units."""
    from gateway.spreadsheet import csv_text
    from policies.costs import parts_of

    async def work() -> list[dict[str, Any]]:
        kept: list[dict[str, Any]] = []
        async with _opened(config) as (books, tenants):
            asked = _question(tenants, tenant, first_day, last_day, group_by, currency, timezone)
            columns = [*asked.groups, *_COUNTS, "cost_micro", "currency"]
            parts = parts_of(*asked.bounds(), asked.timezone, asked.groups)
            is_shown = sys.stderr.isatty() and not sys.stdout.isatty()
            bar = typer.progressbar(parts, label="days", file=sys.stderr, hidden=not is_shown)
            with bar as shown:
                for number, part in enumerate(shown):
                    rows = await asked.rows(books, *part)
                    if as_json:
                        kept += [{name: row[name] for name in columns[:-1]} for row in rows]
                        continue
                    lines = ({**row, "currency": asked.currency} for row in rows)
                    text = csv_text(columns, lines, has_head=number == 0).rstrip()
                    if text:
                        say(text)
        return kept

    kept = asyncio.run(work())
    if as_json:
        say_json(kept)


@app.command()
def rebuild(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    config: ConfigPath = None,
    as_json: JsonFlag = False,
) -> None:
    """Make roll-ups and budget counters anew from the recorded turns and entries."""

    async def work() -> tuple[int, int | None]:
        async with _opened(config) as (books, tenants):
            n_rows = await books.rebuild(tenant)
            return n_rows, await _rebuild_counters(config, [tenant] if tenant else list(tenants))

    n_rows, n_counters = asyncio.run(work())
    if as_json:
        say_json({"rows_read": n_rows, "counters_forgotten": n_counters})
        return
    say(f"the roll-ups are made anew from {n_rows} rows")
    if n_counters is None:
        say("the budget counters are left as they are: Redis is not running")
    else:
        say(f"{n_counters} budget counters are taken from the books by the next turn")


async def _rebuild_counters(config: Path | None, tenants: Sequence[str]) -> int | None:
    """Return how many counters of budgets were forgotten, None where Redis is not running."""
    from gateway.embedded import socket_path
    from gateway.state import open_redis
    from policies.errors import LedgerUnavailable
    from policies.ledger import Ledger

    settings = load_settings_or_fail(config)
    url = settings.redis.url
    if settings.redis.is_embedded:
        url = f"unix://{socket_path(settings.state_dir / 'redis')}"

    async def in_books(*_: object) -> int:
        raise AssertionError("forgetting a counter asks nobody for its value")

    async with open_redis(url, is_cluster=settings.redis.is_cluster, timeout_s=5.0) as redis:
        ledger = Ledger(redis, lambda: datetime.now(UTC), in_books)
        try:
            return sum([await ledger.rebuild(tenant) for tenant in tenants])
        except LedgerUnavailable:
            return None


def money(micro: int, currency: str) -> str:
    """Return an amount for people, six decimals because a turn costs that little."""
    return f"{micro / 1_000_000:.6f} {currency}"


def _question(
    tenants: Mapping[str, Tenant],
    tenant_id: str,
    first_day: datetime | None,
    last_day: datetime | None,
    group_by: str,
    currency: str | None,
    timezone: str | None,
) -> Question:
    tenant = tenants.get(tenant_id)
    if tenant is None:
        raise CommandFailed(f"there is no tenant {tenant_id!r}")
    zone = _zone(timezone or tenant.timezone)
    unit = (currency or tenant.currency).upper()
    if unit not in ("USD", tenant.currency):
        raise CommandFailed(f"amounts are kept in USD and {tenant.currency}", code=2)
    today = datetime.now(ZoneInfo(zone)).date()
    first = first_day.date() if first_day else today
    last = last_day.date() if last_day else today
    if last < first:
        raise CommandFailed(f"--to {last} is before --from {first}", code=2)
    return Question(tenant_id, first, last, zone, unit, _groups(group_by))


def _groups(text: str) -> tuple[str, ...]:
    from policies.costs import GROUPS

    groups = tuple(name.strip() for name in text.split(",") if name.strip())
    unknown = [name for name in groups if name not in GROUPS]
    if unknown:
        raise CommandFailed(f"no such group: {unknown[0]}; there are {', '.join(GROUPS)}", code=2)
    return groups


@asynccontextmanager
async def _opened(
    config: Path | None,
) -> AsyncIterator[tuple[Books, Mapping[str, Tenant]]]:
    from redis.asyncio import Redis

    from gateway.cli.keys import opened_store
    from policies.books import Books

    async with opened_store(config) as (store, engine):
        # Reading the books asks Redis nothing: what still waits there is booked by the gateway.
        books = Books(engine, Redis())
        yield books, {tenant.id: tenant for tenant in await store.tenants()}


def _zone(name: str) -> str:
    from zoneinfo import available_timezones

    if name not in available_timezones():
        raise CommandFailed(f"{name} is no time zone of the IANA list", code=2)
    return name
