"""Turn: what a caller asks, once past the wire; Disclosure: what we tell them about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any, Literal

from memory.conversation import Message
from memory.traces import Subject, of_conversation, of_end_user
from policies.usage import Cost, Usage
from router.decision import RoutingDecision

CacheMode = Literal["on", "off", "read", "refresh"]
CacheHit = Literal["none", "exact", "semantic"]


@dataclass(frozen=True, slots=True)
class Turn:
    """One request for an answer.

    `messages` is what the caller sent, at least one; `requested` is `auto`, `auto:fast`,
    `auto:best` or a catalogue name; `params` are OpenAI parameters that travel to the model as they
    are. `conversation` is the caller's name for a stored conversation, None when stateless.
    `max_cost_usd` caps the worst case of this turn. `dropped_params` could not be honoured.
    `may_restart` lets a broken stream start again with another model's whole answer.
    `idempotency_key` is the caller's name for the request: asked again after it broke, its messages
    are stored once. `kind` names the helper whose call it is, where no caller asked.
    """

    request_id: str
    messages: tuple[Message, ...]
    requested: str = "auto"
    params: Mapping[str, Any] = field(default_factory=dict)
    is_stream: bool = False
    include_usage: bool = False
    conversation: str | None = None
    end_user: str | None = None
    tags: tuple[str, ...] = ()
    min_tier: str | None = None
    max_cost_usd: Decimal | None = None
    cache_mode: CacheMode = "on"
    dropped_params: tuple[str, ...] = ()
    may_restart: bool = False
    idempotency_key: str | None = None
    kind: str = "chat"

    @property
    def n_choices(self) -> int:
        """How many answers were asked for; each is paid for."""
        return int(self.params.get("n") or 1)

    @property
    def needs(self) -> frozenset[str]:
        """What a model must support to take this turn: tools, json, images."""
        needs = set()
        if self.params.get("tools"):
            needs.add("tools")
        if (self.params.get("response_format") or {}).get("type", "text") != "text":
            needs.add("json")
        if any(_has_image(message) for message in self.messages):
            needs.add("images")
        return frozenset(needs)

    @property
    def subjects(self) -> tuple[Subject, ...]:
        """Of whom an answer to this turn tells: what is kept of it is forgotten with them."""
        subjects = [of_conversation(self.conversation)] if self.conversation else []
        return (*subjects, of_end_user(self.end_user)) if self.end_user else tuple(subjects)


def _has_image(message: Message) -> bool:
    content = message.content
    return isinstance(content, list) and any(part.get("type") == "image_url" for part in content)


@dataclass(slots=True)
class Disclosure:
    """What is known so far of how a turn is being answered; filled as the turn proceeds.

    The responder writes it, the route reads it whenever headers or bodies go out, so that an error
    discloses as much as an answer. `failed_models` names models tried before `model`.
    `overhead_s` is our own time up to the first event, upstream waiting excluded. `choices` is the
    answer collected, as OpenAI spells it. `left_out` counts the conversation's items that the model
    did not see, None where no stored conversation was shown to one.
    """

    request_id: str
    started_at: datetime
    requested: str = "auto"
    policy: str | None = None
    decision: RoutingDecision | None = None
    tier: str | None = None
    model: str | None = None
    failed_models: list[str] = field(default_factory=list)
    cache: CacheHit = "none"
    degraded: set[str] = field(default_factory=set)
    dropped_params: list[str] = field(default_factory=list)
    conversation: str | None = None
    left_out: int | None = None
    overhead_s: float = 0.0
    first_event_ms: float | None = None
    choices: Sequence[dict[str, Any]] = ()
    usage: Usage | None = None
    cost: Cost | None = None
    is_simulated: bool = False
    is_demonstration: bool = False
    rate_limit: Mapping[str, str] = field(default_factory=dict)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return the disclosure headers known so far, lower case, as ASGI wants them."""
        headers = [
            (b"x-turnwise-cache", self.cache.encode()),
            (b"x-turnwise-overhead-ms", b"%.2f" % (self.overhead_s * 1000)),
        ]
        pairs = (
            (b"x-turnwise-tier", self.tier),
            (b"x-turnwise-model", self.model),
            (b"x-turnwise-reason", self.decision.reason.value if self.decision else None),
            (b"x-turnwise-policy", self.policy),
            (b"x-turnwise-degraded", ",".join(sorted(self.degraded)) if self.degraded else None),
            (b"x-turnwise-dropped-params", ",".join(self.dropped_params)),
        )
        headers += [(name, header_value(value)) for name, value in pairs if value]
        headers += [(name.encode(), value.encode()) for name, value in self.rate_limit.items()]
        return headers

    def to_wire(self) -> dict[str, Any]:
        """Return the `turnwise` object of an answer's body."""
        decision = self.decision
        wire: dict[str, Any] = {
            "requested_model": self.requested,
            "tier": self.tier,
            "reason": decision.reason.value if decision else None,
            "score": decision.score if decision else None,
            "policy": self.policy,
            "cache": self.cache,
            "fallbacks": list(self.failed_models),
            "dropped_params": list(self.dropped_params),
        }
        if self.left_out is not None:
            wire["left_out"] = self.left_out
        if self.is_simulated:
            wire["note"] = "Simulated answer: no provider key is configured for this tier."
        elif self.is_demonstration:
            wire["note"] = (
                "Answered by the bundled demonstration model; set `model:` of the engine backend "
                "in turnwise.yaml to a real one."
            )
        return wire


@lru_cache(maxsize=1024)  # names of tiers, models and policies come again and again
def header_value(text: str) -> bytes:
    """Return text as a header value: ASCII, control characters and the rest replaced."""
    if text.isascii() and text.isprintable():
        return text.encode()
    return "".join(char if " " <= char <= "~" else "?" for char in text).encode()
