"""Prices of well-known providers' models, for those that the configuration gives none.

The library brings its list along and asks no network. A server of one's own is never in it, however
its model is called: what an address stands for is told by the address.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from policies.catalog import Price


def library_price(
    upstream_name: str, *, base_url: str | None, context_tokens: int, at: datetime
) -> Price | None:
    """Return the list price of a model, None where it is not known.

    Where a price rises with the length of the prompt, the lower one counts only for a model whose
    window never reaches the higher one: an estimate errs on the dear side.

    Args:
        upstream_name: as the provider calls it, with or without the provider's name before it.
        base_url: where it is asked; None where the name alone says whose it is.
        context_tokens: its window.
        at: prices change; the one of this moment.
    """
    # Only here: reading the list takes longer than the rest of a start.
    from genai_prices import data_snapshot

    provider_id, slash, name = upstream_name.partition("/")
    place = (name, provider_id) if slash and base_url is None else (upstream_name, None)
    try:
        _, model = data_snapshot.get_snapshot().find_provider_model(
            place[0], None, place[1], base_url
        )
    except LookupError:
        return None
    listed = model.get_prices(at)

    def usd(value: Any) -> Decimal | None:
        if value is None or isinstance(value, Decimal):
            return value
        reached = [tier.price for tier in value.tiers if tier.start < context_tokens]
        return Decimal(max([value.base, *reached]))

    if listed.input_mtok is None or listed.output_mtok is None:
        return None
    return Price(
        input_usd_per_mtok=usd(listed.input_mtok),
        cached_input_usd_per_mtok=usd(listed.cache_read_mtok),
        cache_write_usd_per_mtok=usd(listed.cache_write_mtok),
        output_usd_per_mtok=usd(listed.output_mtok),
    )
