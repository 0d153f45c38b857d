"""Savings: what routing, caching and failures made of a baseline's bill, part by part. Pure.

The baseline answers every answered turn with one model, in one call of the same tokens. What really
happened differs from that in four ways, and each is one part:

- `routing`: other models answered; the baseline's price of their tokens less what they cost;
- `cache`: answers that were given again; the baseline would have made them anew;
- `failed_attempts`: calls that failed and were paid for all the same (negative);
- `helper_calls`: classifier, embedder, summariser, judge (negative).

Any part may be negative. They add up to baseline - actual exactly, because `routing` and `cache`
are the baseline itself, split, less what was paid. Attempts without a known price are on neither
side: they are counted and told. Tokens are those that the answering model counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from policies.usage import Rates, Usage, to_micro

UsdOf = Callable[[Usage], Decimal | None]
"""Usage -> what the baseline model would have charged, None where its price does not cover it."""


@dataclass(frozen=True, slots=True)
class SavingsPart:
    """One step of the waterfall, in micro-units; positive is money saved."""

    name: str
    cost_micro: int


@dataclass(frozen=True, slots=True)
class Savings:
    """The waterfall: `baseline_micro - sum(parts) == actual_micro`, always.

    `unpriced` attempts had no known price and stand on neither side. `foreign_usd_micro` was booked
    while the tenant counted in another currency, and is not in the amounts.
    """

    baseline: str
    baseline_micro: int
    parts: tuple[SavingsPart, ...]
    actual_micro: int
    currency: str
    unpriced: int

    @property
    def saved_micro(self) -> int:
        """Baseline less actual; negative where routing cost more than it saved."""
        return self.baseline_micro - self.actual_micro


@dataclass(frozen=True, slots=True)
class SpentDay:
    """One day's sums of one kind of row: `chat`, `failed`, `cache`, `unpriced` or a helper."""

    day: date
    kind: str
    usage: Usage
    cost_micro: int
    attempts: int


def savings_of(
    days: Iterable[SpentDay], *, baseline: str, usd_of: UsdOf, rates: Rates, currency: str
) -> Savings | None:
    """Return the waterfall of these days, None where the baseline has no price for their tokens.

    The baseline is rounded once per day and kind, at the day's exchange rate.

    Raises:
        UnknownRate: no exchange rate for one of the days.
    """
    parts = dict.fromkeys(("routing", "cache", "failed_attempts", "helper_calls"), 0)
    baseline_micro = actual_micro = unpriced = 0
    for spent in days:
        if spent.kind == "unpriced":
            unpriced += spent.attempts
            continue
        actual_micro += spent.cost_micro
        if spent.kind in ("chat", "cache"):
            usd = usd_of(spent.usage)
            if usd is None:
                return None
            would = to_micro(usd, rates.rate_on(currency, spent.day)[0])
            baseline_micro += would
            parts["routing" if spent.kind == "chat" else "cache"] += would - spent.cost_micro
        else:
            name = "failed_attempts" if spent.kind == "failed" else "helper_calls"
            parts[name] -= spent.cost_micro
    steps = tuple(SavingsPart(name, micro) for name, micro in parts.items())
    return Savings(baseline, baseline_micro, steps, actual_micro, currency, unpriced)
