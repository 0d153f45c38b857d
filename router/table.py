"""RoutingTable: what a policy and a catalogue say about every turn, worked out once.

Owns the order of tiers and models and the price of a token by each model. Knows no turn.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from decimal import Decimal

from policies.catalog import ModelCatalog, ModelSpec, Price
from policies.policy import Policy
from router.bounds import Bounds, bounds_of_policy

# From below for small models on a processor: an estimate that errs on the dear side.
PREFILL_TOKENS_PER_S = 500
DECODE_TOKENS_PER_S = 20
_MICRO = 1_000_000


@dataclass(frozen=True, slots=True)
class TokenPrices:
    """Millionths of a US dollar for one token: read anew, read from a warm cache, written."""

    cold: Decimal
    warm: Decimal
    output: Decimal

    def usd_micro(self, input_tokens: int, output_tokens: int, warm_tokens: int = 0) -> Decimal:
        """Return the exact price of a turn, `warm_tokens` of its input being in the cache."""
        warm_tokens = min(warm_tokens, input_tokens)
        usd_micro = self.cold * (input_tokens - warm_tokens) + self.output * output_tokens
        return usd_micro + self.warm * warm_tokens if warm_tokens else usd_micro


@dataclass(frozen=True, slots=True)
class Listed:
    """One model where the policy lists it; `spec` is None where the catalogue lacks it."""

    name: str
    tier: str
    tier_index: int
    spec: ModelSpec | None
    prices: TokenPrices | None


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """A policy over a catalogue.

    `models` stand cheapest tier first and by preference inside a tier; positions in it are how
    the rest of the package names them. `thresholds` are those of known tiers, in tier order.
    `spans` holds the first and the past-the-end position of each tier; `after` holds, by home
    tier, all positions in the order in which they follow: home, stronger tiers, weaker ones.
    `bounds` are the open tiers of a turn that no rule, ladder or caller narrows further.
    """

    policy: Policy
    catalog: ModelCatalog
    label: str
    tier_index: dict[str, int]
    thresholds: tuple[tuple[int, float], ...]
    models: tuple[Listed, ...]
    spans: tuple[tuple[int, int], ...]
    after: tuple[tuple[int, ...], ...]
    bounds: Bounds

    @classmethod
    def of(cls, policy: Policy, catalog: ModelCatalog) -> RoutingTable:
        """Return the table of a policy that was checked when it was read."""
        models: list[Listed] = []
        spans: list[tuple[int, int]] = []
        for index, tier in enumerate(policy.tiers):
            first = len(models)
            for name in tier.models:
                spec = catalog.get(name)
                prices = token_prices(spec.price) if spec else None
                models.append(Listed(name, tier.name, index, spec, prices))
            spans.append((first, len(models)))
        return cls(
            policy=policy,
            catalog=catalog,
            label=policy.label,
            tier_index={tier.name: index for index, tier in enumerate(policy.tiers)},
            thresholds=tuple(
                (index, policy.thresholds[tier.name])
                for index, tier in enumerate(policy.tiers)
                if tier.name in policy.thresholds
            ),
            models=tuple(models),
            spans=tuple(spans),
            after=tuple(_following(home, spans) for home in range(len(spans))),
            bounds=bounds_of_policy(policy, catalog),
        )

    def position_of(self, model: str | None) -> int | None:
        """Return where a model is listed first, None where it is not."""
        for position, listed in enumerate(self.models):
            if listed.name == model:
                return position
        return None


def _following(home: int, spans: list[tuple[int, int]]) -> tuple[int, ...]:
    order = [*range(home, len(spans)), *range(home - 1, -1, -1)]
    return tuple(position for tier in order for position in range(*spans[tier]))


def token_prices(price: Price | None) -> TokenPrices | None:
    """Return what one token costs, None where that is unknown.

    A model billed by its busy time is taken at the speed of a small model on a processor, and
    reads what is in its cache for nothing.
    """
    if price is None:
        return None
    cold, output = price.input_usd_per_mtok, price.output_usd_per_mtok
    if cold is not None and output is not None:
        # USD per million tokens is millionths of a dollar per token.
        warm = price.cached_input_usd_per_mtok
        return TokenPrices(cold, cold if warm is None else warm, output)
    if price.busy_second_usd is None:
        return None
    second_micro = price.busy_second_usd * _MICRO
    return TokenPrices(
        second_micro / PREFILL_TOKENS_PER_S, Decimal(0), second_micro / DECODE_TOKENS_PER_S
    )


class RoutingTables:
    """The tables of the policies in use: made on the first turn of each, the oldest given up.

    Policies are values, so one is known by its identity; the table holds it, which keeps that
    identity its own.
    """

    def __init__(self, most: int = 1024) -> None:
        self._most = most
        self._held: OrderedDict[tuple[int, int], RoutingTable] = OrderedDict()

    def of(self, policy: Policy, catalog: ModelCatalog) -> RoutingTable:
        """Return the table of a policy over a catalogue."""
        key = (id(policy), id(catalog))
        table = self._held.get(key)
        if table is None:
            table = self._held[key] = RoutingTable.of(policy, catalog)
            if len(self._held) > self._most:
                self._held.popitem(last=False)
        return table
