"""Costs as files for spreadsheets and cost tools: CSV, and FOCUS.

No cell that somebody else wrote can be read as a formula. Amounts stay exact: whole micro-units in
plain CSV, decimals with six digits in FOCUS, which wants whole units.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from functools import lru_cache
from typing import Any

from policies.books import day_bounds
from policies.catalog import ModelSpec
from policies.costs import CostRow

# What makes a spreadsheet read a cell as a formula, full-width signs included.
# Source: OWASP, CSV Injection.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
FOCUS_GROUPS = ("day", "model", "tier", "kind", "end_user", "tags")
FOCUS_COLUMNS = (
    *("BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodStart"),
    *("BillingPeriodEnd", "ChargeCategory", "ChargeClass", "ChargeDescription"),
    *("ChargeFrequency", "ChargePeriodStart", "ChargePeriodEnd", "ConsumedQuantity"),
    *("ConsumedUnit", "BilledCost", "ContractedCost", "EffectiveCost", "ListCost"),
    *("InvoiceIssuerName", "PricingQuantity", "PricingUnit", "ProviderName", "PublisherName"),
    *("ResourceId", "ResourceName", "ServiceCategory", "ServiceName", "SkuId", "SubAccountId"),
    *("SubAccountName", "Tags", "x_Tier", "x_Kind", "x_Requests", "x_Unpriced"),
)


def harmless(cell: object) -> object:
    """Return a CSV cell that no spreadsheet takes for a formula; numbers stay as they are."""
    if isinstance(cell, str) and cell.lstrip(" ").startswith(_FORMULA):
        return f"'{cell}"
    return cell


def csv_text(
    columns: Sequence[str], rows: Iterable[Mapping[str, Any]], *, has_head: bool = True
) -> str:
    """Return a CSV file, or a later part of one, which has no line of column names."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    if has_head:
        writer.writerow(columns)
    writer.writerows([harmless(row[name]) for name in columns] for row in rows)
    return text.getvalue()


def focus_row(
    row: CostRow, *, tenant: str, currency: str, timezone: str, spec: ModelSpec | None
) -> dict[str, Any]:
    """Return one row of costs, grouped by FOCUS_GROUPS, in the columns of FOCUS 1.2.

    What was paid is all there is to tell: billed, effective, contracted and list cost are the same.

    Source: FinOps Open Cost and Usage Specification 1.2, columns.
    """
    month, charged = _periods(row.group["day"], timezone)
    cost = units(row.usd_micro if currency == "USD" else row.micro)
    n_tokens = row.input_tokens + row.output_tokens
    backend = spec.backend if spec else ""
    model, kind = row.group["model"], row.group["kind"]
    tags = {tag: "true" for tag in row.group["tags"].split("\n") if tag}
    return {
        "BillingAccountId": tenant,
        "BillingAccountName": tenant,
        "BillingCurrency": currency,
        "BillingPeriodStart": month[0],
        "BillingPeriodEnd": month[1],
        "ChargeCategory": "Usage",
        "ChargeClass": "",
        "ChargeDescription": f"{kind} calls to {model}",
        "ChargeFrequency": "Usage-Based",
        "ChargePeriodStart": charged[0],
        "ChargePeriodEnd": charged[1],
        "ConsumedQuantity": n_tokens,
        "ConsumedUnit": "Tokens",
        **dict.fromkeys(("BilledCost", "ContractedCost", "EffectiveCost", "ListCost"), cost),
        "InvoiceIssuerName": backend,
        "PricingQuantity": n_tokens,
        "PricingUnit": "Tokens",
        "ProviderName": backend,
        "PublisherName": backend,
        "ResourceId": model,
        "ResourceName": spec.upstream_name if spec else model,
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": "Chat",
        "SkuId": f"{backend}/{model}",
        "SubAccountId": row.group["end_user"],
        "SubAccountName": row.group["end_user"],
        "Tags": json.dumps(tags),
        "x_Tier": row.group["tier"],
        "x_Kind": kind,
        "x_Requests": row.requests,
        "x_Unpriced": row.unpriced,
    }


@lru_cache(maxsize=64)
def _periods(day: str, timezone: str) -> tuple[tuple[str, str], tuple[str, str]]:
    """Return start and end of a day's month, and of the day, as FOCUS writes moments."""
    at = date.fromisoformat(day)
    first = at.replace(day=1)
    last = (first + timedelta(days=32)).replace(day=1) - timedelta(days=1)
    month, charged = day_bounds(first, last, timezone), day_bounds(at, at, timezone)
    return (
        (month[0].isoformat(), month[1].isoformat()),
        (charged[0].isoformat(), charged[1].isoformat()),
    )


def units(micro: int) -> str:
    """Return micro-units as a decimal number of whole units, exactly."""
    whole, rest = divmod(abs(micro), 1_000_000)
    return f"{'-' if micro < 0 else ''}{whole}.{rest:06d}"
