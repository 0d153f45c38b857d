"""The nouns of a conversation: pure data, imported by everyone, importing nothing of ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

Role = Literal["system", "developer", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class Message:
    """One message in OpenAI's terms.

    `content` is text, a list of content parts as the caller sent them (text, image_url, ...), or
    None where an assistant message only calls tools. `extra` keeps any further field of the
    message (refusal, reasoning_content, ...) so that nothing is lost between client and model.
    """

    role: Role
    content: str | list[dict[str, Any]] | None
    name: str | None = None
    tool_calls: tuple[dict[str, Any], ...] = ()
    tool_call_id: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """All text of the message, content parts joined by newlines; empty when there is none."""
        if isinstance(self.content, str):
            return self.content
        if not self.content:
            return ""
        texts = (part.get("text") for part in self.content)
        return "\n".join(text for text in texts if isinstance(text, str))

    def to_wire(self) -> dict[str, Any]:
        """Return the message as OpenAI's chat completions API spells it."""
        wire: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.name is not None:
            wire["name"] = self.name
        if self.tool_calls:
            wire["tool_calls"] = list(self.tool_calls)
        if self.tool_call_id is not None:
            wire["tool_call_id"] = self.tool_call_id
        wire.update(self.extra)
        return wire


_FIELDS = {"role", "content", "name", "tool_calls", "tool_call_id"}


def message_from_wire(wire: Mapping[str, Any]) -> Message:
    """Return the Message of a wire object whose shape has been checked already."""
    return Message(
        role=wire["role"],
        content=wire.get("content"),
        name=wire.get("name"),
        tool_calls=tuple(wire.get("tool_calls") or ()),
        tool_call_id=wire.get("tool_call_id"),
        extra={key: value for key, value in wire.items() if key not in _FIELDS},
    )


@dataclass(frozen=True, slots=True)
class Item:
    """One stored message of a conversation.

    `seq` starts at 1 and has no gaps; `parent` is the id of the item it follows (None for the
    first), so that an edited or regenerated message is a branch; `created_at` is aware UTC.
    """

    id: str
    seq: int
    message: Message
    created_at: datetime
    parent: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation of one tenant as it stands: identity, instructions and extent.

    `id` is the caller's own name or `conv_...`; `instructions` is the latest system message;
    `n_items` equals the highest `seq`; `tip` is the id of the newest item.
    """

    id: str
    tenant: str
    created_at: datetime
    metadata: Mapping[str, Any] = field(default_factory=dict)
    instructions: str | None = None
    n_items: int = 0
    tip: str | None = None


@dataclass(frozen=True, slots=True)
class Context:
    """What goes to the model, and what was left out.

    `tokens` counts `messages` by the chosen model's own counter, and `n_left_out` the stored
    items that are not in it; `recalled` and `recent` hold item ids in the order of `messages`.
    """

    messages: tuple[Message, ...]
    tokens: int
    summary: str = ""
    recalled: tuple[str, ...] = ()
    recent: tuple[str, ...] = ()
    n_left_out: int = 0
