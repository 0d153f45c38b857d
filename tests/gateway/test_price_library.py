from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from gateway.price_library import library_price
from policies.catalog import Price

AT = datetime(2026, 11, 24, tzinfo=UTC)


def price(name: str, base_url: str | None = None, context_tokens: int = 128_000) -> Price | None:
    return library_price(name, base_url=base_url, context_tokens=context_tokens, at=AT)


def test_a_providers_model_has_its_list_price() -> None:
    assert price("gpt-5", "https://api.openai.com/v1") == Price(
        input_usd_per_mtok=Decimal("1.25"),
        cached_input_usd_per_mtok=Decimal("0.125"),
        output_usd_per_mtok=Decimal("10"),
    )


def test_the_name_alone_or_with_its_provider_says_whose_it_is() -> None:
    assert price("anthropic/claude-sonnet-4-5") == price("claude-sonnet-4-5") is not None


def test_a_server_of_ones_own_has_no_list_price_however_its_model_is_called() -> None:
    assert price("gpt-5", "http://gpu-1:8000/v1") is None


def test_a_window_that_reaches_the_dearer_price_is_priced_by_it() -> None:
    short, long = price("claude-sonnet-4-5"), price("claude-sonnet-4-5", None, 1_000_000)
    assert short is not None and long is not None
    assert (short.input_usd_per_mtok, long.input_usd_per_mtok) == (Decimal(3), Decimal(6))


def test_an_unknown_model_has_no_price() -> None:
    assert price("no-such-model-anywhere") is None
