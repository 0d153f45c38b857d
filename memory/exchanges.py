"""Messages grouped so that a tool call and its results are one thing: pure functions.

An API refuses a tool result without its call and a call without its results. Whatever is cut is
cut between exchanges, and what the log lacks is closed when it is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memory.conversation import Item, Message

ABORTED = "[aborted: no result was recorded]"


@dataclass(frozen=True, slots=True)
class Entry:
    """A message on its way into a context; `item` is None where it is not stored yet."""

    message: Message
    item: Item | None = None
    is_new: bool = False


@dataclass(frozen=True, slots=True)
class Exchange:
    """Entries that are shown together or not at all."""

    entries: tuple[Entry, ...]

    @property
    def has_new(self) -> bool:
        """Whether any of it belongs to the turn at hand."""
        return any(entry.is_new for entry in self.entries)


def exchanges_of(entries: Sequence[Entry]) -> list[Exchange]:
    """Return the entries as exchanges, each of them valid to send.

    An assistant message with tool calls takes its results with it, in the order of the calls, the
    last one where a result came twice; a missing result is replaced by an aborted one. A result
    whose call is not just before it is dropped. A user message repeated word for word because its
    first copy was never answered is shown once.
    """
    exchanges: list[Exchange] = []
    i = 0
    while i < len(entries):
        entry = entries[i]
        i += 1
        if entry.message.role == "tool":
            continue
        if entry.message.tool_calls:
            results: dict[str, Entry] = {}
            while i < len(entries) and entries[i].message.role == "tool":
                results[entries[i].message.tool_call_id or ""] = entries[i]
                i += 1
            exchanges.append(_closed(entry, results))
        elif not (i < len(entries) and _is_repeat(entry, entries[i])):
            exchanges.append(Exchange((entry,)))
    return exchanges


def _is_repeat(entry: Entry, following: Entry) -> bool:
    first, second = entry.message, following.message
    return first.role == second.role == "user" and first.content == second.content


def _closed(call: Entry, results: dict[str, Entry]) -> Exchange:
    entries = [call]
    for tool_call in call.message.tool_calls:
        call_id = str(tool_call.get("id") or "")
        entries.append(
            results.get(call_id)
            or Entry(Message(role="tool", content=ABORTED, tool_call_id=call_id))
        )
    return Exchange(tuple(entries))
