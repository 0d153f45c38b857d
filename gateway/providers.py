"""Which provider takes the strong tier of the embedded default, from the keys at hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider that the embedded default knows how to use once its key is in the environment.

    Prices are list prices in USD per million tokens, read on 2026-11-24 from the price list that
    litellm 1.110.2 ships; a configuration file of your own overrides them.
    """

    variable: str
    backend: str
    kind: Literal["openai", "litellm"]
    model: str
    context_tokens: int
    max_output_tokens: int
    price: Mapping[str, str]
    base_url: str | None = None


PROVIDERS = (
    Provider(
        variable="OPENAI_API_KEY",
        backend="openai",
        kind="openai",
        base_url="https://api.openai.com/v1",
        model="gpt-5",
        context_tokens=272_000,
        max_output_tokens=16_384,
        price=dict(
            input_usd_per_mtok="1.25", cached_input_usd_per_mtok="0.125", output_usd_per_mtok="10"
        ),
    ),
    Provider(
        variable="ANTHROPIC_API_KEY",
        backend="claude",
        kind="litellm",
        model="anthropic/claude-sonnet-4-5",
        context_tokens=200_000,
        max_output_tokens=16_384,
        price=dict(
            input_usd_per_mtok="3",
            cached_input_usd_per_mtok="0.3",
            cache_write_usd_per_mtok="3.75",
            output_usd_per_mtok="15",
        ),
    ),
    Provider(
        variable="GEMINI_API_KEY",
        backend="gemini",
        kind="litellm",
        model="gemini/gemini-2.5-pro",
        context_tokens=200_000,  # beyond this its prices double
        max_output_tokens=16_384,
        price=dict(
            input_usd_per_mtok="1.25", cached_input_usd_per_mtok="0.125", output_usd_per_mtok="10"
        ),
    ),
    Provider(
        variable="MISTRAL_API_KEY",
        backend="mistral",
        kind="litellm",
        model="mistral/mistral-large-latest",
        context_tokens=262_144,
        max_output_tokens=16_384,
        price=dict(
            input_usd_per_mtok="0.5", cached_input_usd_per_mtok="0.05", output_usd_per_mtok="1.5"
        ),
    ),
    Provider(
        variable="DEEPSEEK_API_KEY",
        backend="deepseek",
        kind="litellm",
        model="deepseek/deepseek-chat",
        context_tokens=131_072,
        max_output_tokens=8_192,
        price=dict(
            input_usd_per_mtok="0.28", cached_input_usd_per_mtok="0.028", output_usd_per_mtok="0.42"
        ),
    ),
)


def strong_tier(
    environ: Mapping[str, str], has_module: Callable[[str], bool]
) -> tuple[Provider | None, list[str]]:
    """Return the first provider with a key and a client at hand, and remarks for the log.

    None means that the simulated model keeps the strong tier.
    """
    notes = []
    for provider in PROVIDERS:
        if not environ.get(provider.variable):
            continue
        if provider.kind == "litellm" and not has_module("litellm"):
            notes.append(
                f"{provider.variable} is set, but {provider.backend} needs the extra `providers`: "
                "pip install 'turnwise[providers]'"
            )
            continue
        notes.append(f"{provider.variable} is set: the strong tier is {provider.model}")
        return provider, notes
    notes.append("no provider key is set: the strong tier is simulated")
    return None, notes


def with_strong_tier(data: Mapping[str, Any], provider: Provider) -> dict[str, Any]:
    """Return the default data with the provider in place of the simulation."""
    backend: dict[str, Any] = {"kind": provider.kind, "api_key": f"env:{provider.variable}"}
    if provider.base_url is not None:
        backend["base_url"] = provider.base_url
    model = {
        "backend": provider.backend,
        "name": provider.model,
        "context_tokens": provider.context_tokens,
        "max_output_tokens": provider.max_output_tokens,
        "supports": ["tools", "json", "images"],
        "price": dict(provider.price),
    }
    return {
        **data,
        "backends": {"local": data["backends"]["local"], provider.backend: backend},
        "models": {"local-small": data["models"]["local-small"], "strong": model},
    }
