"""View: what a page shows to whom: tenant, currency, time zone, span; and links that keep these.

The query of the address holds all of it, so that a page can be sent to a colleague as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from urllib.parse import urlencode
from zoneinfo import ZoneInfo, available_timezones

from gateway.dashboard import formats
from gateway.dashboard.session import Viewer
from gateway.errors import RequestError
from gateway.tenants import Tenant
from policies.books import day_bounds
from policies.reports import Span

SPANS_DAYS = (1, 7, 30, 90)
_KEPT = ("tenant", "currency", "tz", "days")


@dataclass(frozen=True, slots=True)
class View:
    """One page for one viewer.

    `tenants` are the ids that the viewer may choose from; `query` is the address's own.
    `is_fresh` says that everything that had ended was booked before the page was made.
    """

    viewer: Viewer
    tenant: Tenant
    tenants: tuple[str, ...]
    currency: str
    timezone: str
    days: int
    now: datetime
    path: str
    query: Mapping[str, str]
    is_fresh: bool = True

    @property
    def today(self) -> date:
        """Today in the view's time zone."""
        return self.now.astimezone(ZoneInfo(self.timezone)).date()

    @property
    def yesterday(self) -> date:
        """The last complete day in the view's time zone."""
        return self.today - timedelta(days=1)

    @property
    def zone_name(self) -> str:
        """The zone's short name today: IST, UTC, CET; the full one where there is none."""
        name = f"{self.now.astimezone(ZoneInfo(self.timezone)):%Z}"
        return name if name.isalpha() else self.timezone

    @property
    def zones(self) -> tuple[str, ...]:
        """Time zones to choose from: the tenant's, the chosen one, and the usual ones."""
        usual = ("Asia/Kolkata", "UTC", "Europe/London", "America/New_York", "Asia/Singapore")
        return tuple(dict.fromkeys((self.tenant.timezone, self.timezone, *usual)))

    @property
    def currencies(self) -> tuple[str, ...]:
        """Currencies to choose from: the tenant's and US dollars."""
        return tuple(dict.fromkeys((self.tenant.currency, "USD")))

    @property
    def span(self) -> Span:
        """The last `days` days, today included, in the view's time zone."""
        return self.span_of(self.today - timedelta(days=self.days - 1), self.today)

    def span_of(self, first: date, last: date) -> Span:
        """Return from the start of one day to the end of another."""
        return Span(*day_bounds(first, last, self.timezone), self.timezone)

    def link(self, path: str, **changes: object) -> str:
        """Return an address that keeps what the viewer chose; a change to None drops it."""
        kept = {name: self.query[name] for name in _KEPT if name in self.query}
        kept |= {name: str(value) for name, value in changes.items() if value is not None}
        for name, value in changes.items():
            if value is None:
                kept.pop(name, None)
        return f"{path}?{urlencode(kept)}" if kept else path

    def money(self, micro: int | None) -> str:
        """Return an amount in the view's currency, exact."""
        return formats.money(micro, self.currency)

    def short(self, micro: int | None) -> str:
        """Return an amount in the view's currency, rounded to two decimals."""
        return formats.money(micro, self.currency, short=True)

    def count(self, number: int) -> str:
        """Return a count, grouped as the view's currency is."""
        return formats.grouped(number, is_indian=self.currency == "INR")

    def stamp(self, us: int | None) -> str:
        """Return microseconds since the epoch as day and time in the view's zone."""
        return formats.stamp(us, self.timezone, now=self.now)


def view_of(
    viewer: Viewer,
    tenants: Mapping[str, Tenant],
    *,
    now: datetime,
    path: str,
    query: Mapping[str, str],
) -> View:
    """Return the view that an address asks for.

    Args:
        viewer: who looks; one tenant's key sees that tenant alone.
        tenants: every tenant that the viewer may see, by id, at least one.
        now: aware.
        path: of the page.
        query: of the address.

    Raises:
        RequestError: 404 for a tenant that is not the viewer's to see; 400 for a wrong value.
    """
    wanted = query.get("tenant") or next(iter(tenants))
    tenant = tenants.get(wanted)
    if tenant is None:
        raise RequestError(f"There is no tenant {wanted!r}.", status=404, code="not_found")
    timezone = query.get("tz") or tenant.timezone
    if timezone not in available_timezones():
        raise _invalid("tz", timezone, "a time zone of the IANA list, such as Asia/Kolkata")
    currency = query.get("currency") or tenant.currency
    if currency not in (tenant.currency, "USD"):
        raise _invalid("currency", currency, f"{tenant.currency} or USD")
    days = query.get("days") or "30"
    if days not in map(str, SPANS_DAYS):
        raise _invalid("days", days, "one of " + ", ".join(map(str, SPANS_DAYS)))
    return View(
        viewer, tenant, tuple(tenants), currency, timezone, int(days), now, path, dict(query)
    )


def day_in(view: View, name: str = "day") -> date | None:
    """Return the day that the address names, None where it names none.

    Raises:
        RequestError: it is no day.
    """
    text = view.query.get(name)
    if not text:
        return None
    try:
        day = date.fromisoformat(text)
    except ValueError as error:
        raise _invalid(name, text, "a day, YYYY-MM-DD") from error
    if not date(1970, 1, 2) <= day <= date(9000, 1, 1):
        raise _invalid(name, text, "a day of this age")
    return day


def _invalid(param: str, value: str, allowed: str) -> RequestError:
    return RequestError(
        f"Invalid value for '{param}': {value[:80]!r} is not {allowed}.",
        code="invalid_value",
        param=param,
    )
