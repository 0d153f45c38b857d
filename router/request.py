"""What the router is asked: a turn as it stands, and how busy each model is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from memory.conversation import Message

AUTO = "auto"
FAST = "auto:fast"
BEST = "auto:best"


@dataclass(frozen=True, slots=True)
class RouteRequest:
    """One turn to be routed.

    `messages` are the recent conversation, newest last. `requested` is `auto`, `auto:fast`,
    `auto:best` or a catalogue name; `needs` holds what a model must support (tools, json, images).
    `output_tokens` is the allowance of the answer. `current_model` served the previous turn and
    holds `warm_tokens` of this prompt in its cache; both are unknown for stateless callers.
    Costs are told in `currency`, of which `usd_rate` units make one US dollar.
    """

    messages: Sequence[Message]
    requested: str = AUTO
    needs: frozenset[str] = frozenset()
    input_tokens: int = 0
    output_tokens: int = 0
    min_tier: str | None = None
    max_cost_usd: Decimal | None = None
    current_model: str | None = None
    warm_tokens: int = 0
    currency: str = "USD"
    usd_rate: Decimal = Decimal(1)

    @property
    def is_pinned(self) -> bool:
        """Whether the caller named a model instead of leaving the choice to the policy."""
        return self.requested not in (AUTO, FAST, BEST)

    @property
    def is_tool_loop(self) -> bool:
        """Whether the turn hands back the result of a tool that a model asked for."""
        return bool(self.messages) and self.messages[-1].role == "tool"


@dataclass(frozen=True, slots=True)
class Load:
    """How a model stands right now; None is unknown and never counts against it.

    `predicted_ttft_ms` is the wait for a first token if this turn were sent to it now;
    `is_up` is False while its breaker is open or its process is not ready.
    """

    predicted_ttft_ms: float | None = None
    is_up: bool = True
