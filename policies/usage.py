"""Tokens into money: the one place where cost is computed and rounded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import ROUND_FLOOR, ROUND_HALF_UP, Decimal
from typing import Any

from policies.catalog import Price
from policies.errors import UnknownRate

MAX_TOKENS = 10**12
_PER_MILLION = Decimal(1_000_000)
_MAX_REPORTED_USD = Decimal(1_000_000)  # a larger charge of one call is a provider's mistake


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one attempt, in OpenAI's inclusive buckets.

    `cached_input_tokens` is contained in `input_tokens`, `reasoning_tokens` in `output_tokens`.
    `cache_write_tokens` is contained in `input_tokens` (Anthropic). `is_estimated` marks counts
    made here because the upstream never told, or told what cannot be: such counts are brought into
    their bounds, so that no nonsense of an upstream reaches an amount.
    """

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    is_estimated: bool = False

    def __post_init__(self) -> None:
        cached, written = self.cached_input_tokens, self.cache_write_tokens
        if (
            cached >= 0
            and written >= 0
            and cached + written <= self.input_tokens <= MAX_TOKENS
            and 0 <= self.reasoning_tokens <= self.output_tokens <= MAX_TOKENS
        ):
            return
        input_tokens = min(max(self.input_tokens, 0), MAX_TOKENS)
        output_tokens = min(max(self.output_tokens, 0), MAX_TOKENS)
        cached = min(max(cached, 0), input_tokens)
        repaired = {
            "input_tokens": input_tokens,
            "output_tokens": output_tokens,
            "cached_input_tokens": cached,
            "cache_write_tokens": min(max(written, 0), input_tokens - cached),
            "reasoning_tokens": min(max(self.reasoning_tokens, 0), output_tokens),
            "is_estimated": True,
        }
        for name, value in repaired.items():
            object.__setattr__(self, name, value)

    def to_json(self) -> dict[str, Any]:
        """Return the counts by their names, as they are recorded."""
        return {
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cached_input_tokens": self.cached_input_tokens,
            "cache_write_tokens": self.cache_write_tokens,
            "reasoning_tokens": self.reasoning_tokens,
            "is_estimated": self.is_estimated,
        }


@dataclass(frozen=True, slots=True)
class Cost:
    """What an attempt cost: whole millionths of a US dollar and of the tenant's currency.

    `rate` is units of `currency` for one US dollar on `rate_date`, kept with the row for ever.
    """

    usd_micro: int
    micro: int
    currency: str
    rate: Decimal
    rate_date: date


class Rates:
    """Dated exchange rates from US dollars; an amount keeps the rate of its day.

    A rate holds from its day until the next one of the currency.
    """

    def __init__(self, rates: Mapping[str, Sequence[tuple[date, Decimal]]]) -> None:
        """Take, by currency, the first day and the rate of each span."""
        self._rates = {currency: sorted(spans) for currency, spans in rates.items()}

    def rate_on(self, currency: str, day: date) -> tuple[Decimal, date]:
        """Return units of the currency for one US dollar, and the day the rate is from.

        Raises:
            UnknownRate: no span covers the day.
        """
        if currency == "USD":
            return Decimal(1), day
        for first, rate in reversed(self._rates.get(currency, ())):
            if first <= day:
                return rate, first
        raise UnknownRate(currency, day)


def cost_of(
    usage: Usage,
    price: Price | None,
    *,
    currency: str,
    rates: Rates,
    at: datetime,
    busy_s: float | None = None,
    provider_cost_usd: str | None = None,
) -> Cost | None:
    """Return what an attempt cost, None where the price is unknown.

    The charge that the provider itself reported goes before the declared price. Cached tokens are
    priced once, at their own price where there is one. Rounded once, half up, to a micro-unit. The
    exchange rate is that of the day of `at` in its own time zone.

    Raises:
        UnknownRate: no exchange rate for the day.
    """
    usd = _reported(provider_cost_usd)
    if usd is None:
        usd = usd_of(usage, price, busy_s)
    if usd is None:
        return None
    rate, rate_date = rates.rate_on(currency, at.date())
    return Cost(_micro(usd), _micro(usd * rate), currency, rate, rate_date)


def usd_of(usage: Usage, price: Price | None, busy_s: float | None = None) -> Decimal | None:
    """Return the exact cost in US dollars, None where the price does not cover the usage.

    Busy time, where it is priced and known, is the whole cost; without any usage the cost is zero.
    """
    if price is None:
        return None
    if price.busy_second_usd is not None and busy_s is not None:
        return price.busy_second_usd * _seconds(busy_s)
    if price.input_usd_per_mtok is None or price.output_usd_per_mtok is None:
        is_unused = usage.input_tokens == 0 == usage.output_tokens
        return Decimal(0) if is_unused else None
    plain = usage.input_tokens - usage.cached_input_tokens - usage.cache_write_tokens
    return (
        price.input_usd_per_mtok * plain
        + _else(price.cached_input_usd_per_mtok, price.input_usd_per_mtok)
        * usage.cached_input_tokens
        + _else(price.cache_write_usd_per_mtok, price.input_usd_per_mtok) * usage.cache_write_tokens
        + price.output_usd_per_mtok * usage.output_tokens
    ) / _PER_MILLION


def worst_case_usd(
    price: Price | None, *, input_tokens: int, output_tokens: int, busy_s: float
) -> Decimal | None:
    """Return the most an attempt of these bounds can cost, None where the price is unknown.

    Every input token counts at the dearest of its prices, since writing a cache may cost more than
    reading without one. A local model is charged by busy time; `busy_s` bounds it.
    """
    if price is None:
        return None
    known = []
    if price.input_usd_per_mtok is not None and price.output_usd_per_mtok is not None:
        prices = (
            price.input_usd_per_mtok,
            price.cached_input_usd_per_mtok,
            price.cache_write_usd_per_mtok,
        )
        dearest = max(value for value in prices if value is not None)
        by_tokens = dearest * input_tokens + price.output_usd_per_mtok * output_tokens
        known.append(by_tokens / _PER_MILLION)
    if price.busy_second_usd is not None:
        known.append(price.busy_second_usd * _seconds(busy_s))
    return max(known) if known else None


def affordable_output_tokens(
    price: Price | None, *, input_tokens: int, cap_usd: Decimal
) -> int | None:
    """Return how many output tokens fit a cap beside a prompt at its dearest; below 0, none do.

    None where no number of tokens passes it: output is free, or not priced by tokens.
    """
    if price is None or price.output_usd_per_mtok in (None, 0):
        return None
    prompt_usd = worst_case_usd(price, input_tokens=input_tokens, output_tokens=0, busy_s=0.0)
    left = (cap_usd - (prompt_usd or 0)) * _PER_MILLION / (price.output_usd_per_mtok or 1)
    return int(left.to_integral_value(ROUND_FLOOR))


def to_micro(usd: Decimal, rate: Decimal) -> int:
    """Return an amount of US dollars in whole millionths of the currency with this rate."""
    return _micro(usd * rate)


def _micro(amount: Decimal) -> int:
    return int((amount * _PER_MILLION).to_integral_value(ROUND_HALF_UP))


def _else(value: Decimal | None, other: Decimal) -> Decimal:
    return other if value is None else value


def _seconds(busy_s: float) -> Decimal:
    # repr is the shortest text of the float: 0.1 s is priced as 0.1 s.
    return Decimal(repr(busy_s)) if math.isfinite(busy_s) and busy_s > 0 else Decimal(0)


def _reported(text: str | None) -> Decimal | None:
    if text is None:
        return None
    try:
        amount = Decimal(text)
    except ArithmeticError:
        return None
    return amount if amount.is_finite() and 0 <= amount <= _MAX_REPORTED_USD else None
