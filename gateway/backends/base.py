"""What a backend is: one method that turns a Call into a stream of events.

Two events only: `ReplyDelta`, a piece of one choice, and `ReplyEnd`, exactly one, last. A backend
that is asked not to stream yields whole choices as single deltas; nobody above needs to care.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from policies.usage import Usage


@dataclass(frozen=True, slots=True)
class Call:
    """One attempt to get an answer from one model.

    `model` is the upstream's name of the model. `params` are OpenAI parameters (tools, stop, n,
    max_completion_tokens, ...) already checked, without `model`, `messages` and `stream`. `scope`
    is an opaque token for fairness and prefix isolation in the local engine, `target_ttft_ms` the
    policy's target for its first token. Timeouts in seconds.
    """

    model: str
    messages: tuple[dict[str, Any], ...]
    params: Mapping[str, Any]
    is_stream: bool
    request_id: str
    scope: str
    first_token_s: float
    idle_s: float
    total_s: float
    target_ttft_ms: int | None = None


@dataclass(frozen=True, slots=True)
class ReplyDelta:
    """A piece of one choice.

    `index` is the choice. `fields` holds the wire fields of the delta that go to the caller as they
    are (tool_calls, refusal, reasoning_content, audio, ...). `finish_reason` ends the choice.
    `has_more` says that another delta follows at once, so that both may leave in one write.
    """

    index: int = 0
    content: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    logprobs: Any = None
    finish_reason: str | None = None
    has_more: bool = field(default=False, compare=False)  # how it came, not what it says


@dataclass(frozen=True, slots=True)
class ReplyEnd:
    """The end of a reply: what was used (None where the upstream never told) and by which model.

    `busy_s` is the local engine's share of busy time in seconds, None elsewhere.
    `provider_cost_usd` is the charge the provider itself reported, as text, None elsewhere.
    """

    usage: Usage | None
    model: str | None = None
    system_fingerprint: str | None = None
    busy_s: float | None = None
    provider_cost_usd: str | None = None


class Backend(Protocol):
    """A place that answers: an OpenAI-compatible server, litellm, the engine, a simulation."""

    def stream(self, call: Call) -> AsyncGenerator[ReplyDelta | ReplyEnd, None]:
        """Yield the reply's deltas and then exactly one ReplyEnd.

        Closing the generator (aclose, cancellation) aborts the upstream request at once.

        Raises:
            gateway.errors.BackendError: a subclass that says what happened; nothing else.
        """
        ...

    async def close(self) -> None:
        """Release connections and processes; safe to call twice."""
        ...
