"""Sequence: one request's tokens, pages and state, and what it asks of sampling.

Knows neither torch nor text: what a token spells is the watcher's business.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol


class Finish(StrEnum):
    """Why a sequence ended."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen; temperature 0 takes the likeliest."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    top_logprobs: int | None = None
    ignore_eos: bool = False

    @property
    def is_plain_greedy(self) -> bool:
        """Whether an argmax over untouched logits is the whole answer."""
        return (
            self.temperature == 0
            and not self.presence_penalty
            and not self.frequency_penalty
            and self.repetition_penalty == 1.0
            and not self.logit_bias
            and self.top_logprobs is None
        )


class Watcher(Protocol):
    """Sees each token as it is chosen; text and grammar live behind it."""

    @property
    def is_constrained(self) -> bool:
        """Whether `allowed` may ever forbid a token."""
        ...

    def push(self, token: int) -> bool:
        """Take one token; return whether the sequence ends here."""
        ...

    def allowed(self) -> Any:
        """Return a bool mask over the vocabulary, or None when everything is allowed."""
        ...


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """The chosen token's log probability and the likeliest alternatives, best first."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


def _digest(content: bytes, key: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16, key=key).digest()


@dataclass(slots=True, eq=False)
class Sequence:
    """One generation, from queue to terminal event; changed by the engine's thread alone.

    `tokens` is prompt plus output; `n_computed` counts those whose keys and values lie in `pages`.
    `max_tokens` bounds prompt plus output; nothing is guessed while `tokens` is shorter than
    `guesses_from`, and a first guess needs as much reason as one after a wrong one. Times are
    monotonic seconds.
    """

    id: int
    scope: str
    tokens: list[int]
    n_prompt: int
    max_tokens: int
    params: SamplingParams
    eos: frozenset[int]
    arrived_s: float
    watcher: Watcher | None = None
    deadline_s: float | None = None
    target_ttft_s: float | None = None
    admitted_s: float | None = None
    pages: list[int] = field(default_factory=list)
    n_computed: int = 0
    n_reused: int = 0
    hashes: list[bytes] = field(default_factory=list)
    n_published: int = 0
    counts: Counter[int] = field(default_factory=Counter)
    random: Any = None
    pair_ends: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    n_indexed: int = 0
    busy_s: float = 0.0
    first_token_s: float | None = None
    last_token_s: float | None = None
    n_preempted: int = 0
    n_guess: int = 3
    n_wrong_guesses: int = 1
    guesses_from: int = 0
    n_drafted: int = 0
    n_accepted: int = 0
    finish: Finish | None = None

    @property
    def n_output(self) -> int:
        """Tokens generated so far."""
        return len(self.tokens) - self.n_prompt

    @property
    def n_remaining(self) -> int:
        """Known tokens whose keys and values are not computed yet; 1 while decoding."""
        return len(self.tokens) - self.n_computed

    def page_hashes(self, page_tokens: int) -> list[bytes]:
        """Return the hash of every full page of known tokens, each covering all before it.

        The chain begins with the scope, so that equal text in two scopes never meets.
        """
        while (len(self.hashes) + 1) * page_tokens <= len(self.tokens):
            at = len(self.hashes) * page_tokens
            page = array("I", self.tokens[at : at + page_tokens]).tobytes()
            before = self.hashes[-1] if self.hashes else _digest(self.scope.encode(), b"scope")
            self.hashes.append(_digest(page, before))
        return self.hashes

    def append(self, token: int) -> Finish | None:
        """Take the chosen token; return why the sequence ends with it, if it does."""
        self.tokens.append(token)
        self.counts[token] += 1
        if token in self.eos and not self.params.ignore_eos:
            return Finish.STOP
        if self.watcher is not None and self.watcher.push(token):
            return Finish.STOP
        if len(self.tokens) >= self.max_tokens:
            return Finish.LENGTH
        return None
