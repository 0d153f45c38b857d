"""The models there are: where they run, how much they hold, what they cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal


@dataclass(frozen=True, slots=True)
class Price:
    """What a model costs, in US dollars; None is unknown, zero is free.

    Token prices are per million tokens. `busy_second_usd` is the price of one second of a local
    engine's busy time; with it, token prices may be left out.
    """

    input_usd_per_mtok: Decimal | None = None
    cached_input_usd_per_mtok: Decimal | None = None
    cache_write_usd_per_mtok: Decimal | None = None
    output_usd_per_mtok: Decimal | None = None
    busy_second_usd: Decimal | None = None


@dataclass(frozen=True, slots=True)
class DatedPrice:
    """A price that holds from its first day to its last one, UTC, both included; None is no end."""

    first: date
    last: date | None
    price: Price


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model of the catalogue; `region` None is outside every boundary but `any`.

    `price` is the one that estimates are made with: where there are dated prices, that of the day
    of the start. `list_price` counts on days that no dated price holds.
    """

    name: str
    backend: str
    upstream_name: str
    context_tokens: int
    max_output_tokens: int | None = None
    price: Price | None = None
    supports: frozenset[str] = field(default_factory=frozenset)
    region: str | None = None
    is_simulated: bool = False
    dated_prices: tuple[DatedPrice, ...] = ()
    list_price: Price | None = None

    def price_on(self, day: date) -> Price | None:
        """Return what the model costs on a day, UTC; None where that is unknown."""
        if not self.dated_prices:
            return self.price
        for dated in reversed(self.dated_prices):
            if dated.first <= day and (dated.last is None or day <= dated.last):
                return dated.price
        return self.list_price


class ModelCatalog(Mapping[str, ModelSpec]):
    """Every model by its catalogue name."""

    def __init__(self, models: Mapping[str, ModelSpec]) -> None:
        self._models = dict(models)

    def __getitem__(self, name: str) -> ModelSpec:
        return self._models[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)


def is_inside(spec: ModelSpec, boundary: str) -> bool:
    """Return whether a model lies inside a boundary: any, on_premises or region:<name>.

    A model of unknown region is outside every boundary but `any`, and on_premises names no region.
    """
    if boundary == "any":
        return True
    return spec.region is not None and spec.region == boundary.removeprefix("region:")
