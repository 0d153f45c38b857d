"""What an upstream's usage object says, in our buckets: the one place where providers differ.

Knows the names and the habits of servers that speak OpenAI's protocol, litellm's imitation among
them. Knows no prices.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from policies.usage import Usage

_EMPTY: Mapping[str, Any] = {}


def usage_from_wire(wire: Mapping[str, Any] | None) -> Usage | None:
    """Return usage in inclusive buckets, None where it is missing or makes no sense.

    A total above prompt and completion together is what was thought beside the completion: it is
    billed as output. Counts that contradict each other are mended, and marked, by `Usage`.

    Source: OpenAI, DeepSeek, xAI, OpenRouter and Gemini, API references of chat completions;
    tests/data/usage holds an answer of each.
    """
    if not wire:
        return None
    input_tokens = count_of(wire.get("prompt_tokens"))
    output_tokens = count_of(wire.get("completion_tokens"))
    if input_tokens is None or output_tokens is None:
        return None
    prompt = _details(wire.get("prompt_tokens_details"))
    completion = _details(wire.get("completion_tokens_details"))
    beside = max(0, (count_of(wire.get("total_tokens")) or 0) - input_tokens - output_tokens)
    return Usage(
        input_tokens=input_tokens,
        output_tokens=output_tokens + beside,
        # DeepSeek's and Anthropic's names, where OpenAI's are missing.
        cached_input_tokens=_first(
            prompt.get("cached_tokens"),
            wire.get("prompt_cache_hit_tokens"),
            wire.get("cache_read_input_tokens"),
        ),
        cache_write_tokens=_first(
            prompt.get("cache_creation_tokens"),
            prompt.get("cache_write_tokens"),
            wire.get("cache_creation_input_tokens"),
        ),
        reasoning_tokens=max(beside, _first(completion.get("reasoning_tokens"))),
    )


def count_of(value: Any) -> int | None:
    """Return a whole number of the wire, None where it is none or below zero."""
    if isinstance(value, str) and value.isdigit():
        return int(value)
    return value if type(value) is int and value >= 0 else None


def _first(*values: Any) -> int:
    for value in values:
        count = None if value is None else count_of(value)
        if count is not None:
            return count
    return 0


def _details(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else _EMPTY
