"""Which of the messages a client sent are history it resent: a pure function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from memory.conversation import Item, Message

_SYSTEM_ROLES = frozenset({"system", "developer"})
_LOOKBACK_ITEMS = 400


@dataclass(frozen=True, slots=True)
class Recognised:
    """A request's messages, sorted.

    `new` are to be appended; `n_history` of the sent ones repeat stored items; `instructions` is
    the text of the system messages, None when the request has none.
    """

    new: tuple[Message, ...]
    n_history: int
    instructions: str | None


def recognise(stored: Sequence[Item], sent: Sequence[Message]) -> Recognised:
    """Return which sent messages are new to a conversation.

    A message is history only where it repeats a stored item and an assistant message at or after
    it does too, in the same order; a lone user message is always new. System messages are neither:
    together they are the conversation's instructions.

    Args:
        stored: the conversation's items, oldest first.
        sent: the request's messages, oldest first.
    """
    system = [m.text for m in sent if m.role in _SYSTEM_ROLES]
    messages = [m for m in sent if m.role not in _SYSTEM_ROLES]
    n_repeatable = _index_after_last_assistant(messages)
    if n_repeatable == 0 or not stored:
        new = tuple(messages)
    else:
        repeated = _repeated(stored, messages[:n_repeatable])
        new = tuple(m for i, m in enumerate(messages) if i not in repeated)
    return Recognised(
        new=new,
        n_history=len(messages) - len(new),
        instructions="\n\n".join(system) if system else None,
    )


def _index_after_last_assistant(messages: Sequence[Message]) -> int:
    for i in range(len(messages), 0, -1):
        if messages[i - 1].role == "assistant":
            return i
    return 0


def _repeated(stored: Sequence[Item], sent: Sequence[Message]) -> frozenset[int]:
    """Return the indices of `sent` that repeat stored items, walking both from their ends.

    A client that resends exactly what was said costs one comparison per sent message. Otherwise
    each message is looked for further back, so that a client that leaves out tool calls or
    rewrote an early message is still recognised.
    """
    lookback = stored[-max(_LOOKBACK_ITEMS, 4 * len(sent)) :]
    signatures: list[tuple[object, ...]] = []  # of `lookback` from its end, made as needed
    reached = 0
    repeated: set[int] = set()
    for i in range(len(sent) - 1, -1, -1):
        if not repeated and sent[i].role != "assistant":
            continue
        wanted = signature_of(sent[i])
        for back in range(reached, len(lookback)):
            if back == len(signatures):
                signatures.append(signature_of(lookback[-1 - back].message))
            if signatures[back] == wanted:
                repeated.add(i)
                reached = back + 1
                break
    return frozenset(repeated)


def signature_of(message: Message) -> tuple[object, ...]:
    """Return what makes two messages the same: role, text, other parts, calls and call id.

    Blank space around the text does not count: clients trim what they were streamed.
    """
    parts = b""
    if isinstance(message.content, list):
        others = [part for part in message.content if part.get("type") != "text"]
        parts = orjson.dumps(others) if others else b""
    calls = tuple(
        (
            call.get("id"),
            call.get("function", {}).get("name"),
            call.get("function", {}).get("arguments"),
        )
        for call in message.tool_calls
    )
    return (message.role, message.text.strip(), parts, calls, message.tool_call_id)
