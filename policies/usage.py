"""Tokens into money: the one place where cost is computed and rounded."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one attempt, in OpenAI's inclusive buckets.

    `cached_input_tokens` is contained in `input_tokens`, `reasoning_tokens` in `output_tokens`.
    `cache_write_tokens` is contained in `input_tokens` (Anthropic). `is_estimated` marks counts made
    here because the upstream never told.
    """

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    is_estimated: bool = False
