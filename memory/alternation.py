"""Messages for a chat template that insists on taking turns: pure functions.

Such templates (Mistral's, Gemma's) want user and assistant in turn after at most one system
message, and refuse everything else. A context has the user's words after quotations of the user's,
and a summary after the instructions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from memory.conversation import Message

OPENING = Message("user", "…")
"""What the first assistant message answers where nobody asked anything."""


def alternating(messages: Sequence[Message], *, takes_system: bool = True) -> tuple[Message, ...]:
    """Return the messages so that user and assistant take turns, nothing left out.

    Neighbours of one role become one message, their texts in order, two line ends apart; so a
    prompt that began as another one did still does. Calls of tools and their results stay as they
    are. System messages at the beginning become one, later ones the user's.

    Args:
        messages: a context's.
        takes_system: whether the template knows a system message; else its text goes before the
            user's first, as Gemma's own later templates have it.
    """
    n_first = next((n for n, m in enumerate(messages) if not _is_system(m)), len(messages))
    head, rest = messages[:n_first], messages[n_first:]
    if takes_system:
        system = [Message("system", _joined_content(head))] if head else []
    else:
        system, rest = [], messages
    turns: list[Message] = []
    for message in rest:
        plain = replace(message, role="user") if _is_system(message) else message
        if turns and _is_one_turn(turns[-1], plain):
            turns[-1] = _joined(turns[-1], plain)
        else:
            turns.append(plain)
    if turns and turns[0].role == "assistant":
        turns.insert(0, OPENING)
    return (*system, *turns)


def _is_system(message: Message) -> bool:
    return message.role in ("system", "developer")


def _is_one_turn(first: Message, second: Message) -> bool:
    if first.role != second.role or first.role == "tool":
        return False
    return not first.tool_calls and not second.tool_calls


def _joined(first: Message, second: Message) -> Message:
    if first.name == second.name:
        return replace(first, content=_joined_content([first, second]))
    return replace(first, name=None, content=_joined_content([_named(first), _named(second)]))


def _named(message: Message) -> Message:
    """Return a message whose text says who speaks, where its name did."""
    if message.name is None:
        return message
    parts = [{"type": "text", "text": f"{message.name}:"}, *_parts(message)]
    if isinstance(message.content, list):
        return replace(message, content=parts)
    return replace(message, content=f"{message.name}: {message.text}")


def _joined_content(messages: Iterable[Message]) -> str | list[dict[str, Any]]:
    messages = list(messages)
    if any(isinstance(message.content, list) for message in messages):
        return [part for message in messages for part in _parts(message)]
    return "\n\n".join(message.text for message in messages if message.text)


def _parts(message: Message) -> list[dict[str, Any]]:
    if isinstance(message.content, list):
        return message.content
    return [{"type": "text", "text": message.content}] if message.content else []
