"""The demo's trace: conversations written for it, and the tools their users' applications offer."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import orjson

_N_LONG_TURNS = 12


@dataclass(frozen=True, slots=True)
class TraceConversation:
    """One conversation of the trace: what its user says, in order.

    `fact` is a text of the first turn that the last turn asks for, None where nothing is planted.
    `tools` are names of `TOOLS`.
    """

    id: str
    language: str
    kind: str
    turns: tuple[str, ...]
    system: str | None = None
    tools: tuple[str, ...] = ()
    fact: str | None = None


def _function(name: str, description: str, *arguments: str) -> dict[str, Any]:
    parameters = {
        "type": "object",
        "properties": {argument: {"type": "string"} for argument in arguments},
        "required": list(arguments),
    }
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


# Name -> what the model is offered, and what our pretended world answers when it is called.
TOOLS: Mapping[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "order_status": (
        _function("order_status", "State and place of an order.", "order"),
        {"state": "packed", "place": "Nagpur", "expected": "in 2 days"},
    ),
    "cancel_order": (
        _function("cancel_order", "Cancel an order that has not left.", "order"),
        {"cancelled": True},
    ),
    "weather": (
        _function("weather", "Forecast of a city for one day.", "city", "day"),
        {"rain": "likely after 5 pm", "high_c": 29},
    ),
}


def load_trace(path: Path | None = None) -> list[TraceConversation]:
    """Return the conversations of a trace file, by default the bundled one."""
    source = path if path is not None else files("gateway").joinpath("demo_trace.jsonl")
    lines = source.read_text(encoding="utf-8").splitlines()
    return [_conversation_of(orjson.loads(line)) for line in lines if line.strip()]


def _conversation_of(record: dict[str, Any]) -> TraceConversation:
    lists = {name: tuple(record.get(name, ())) for name in ("turns", "tools")}
    return TraceConversation(**{**record, **lists})


def queues_of(
    trace: Sequence[TraceConversation],
) -> tuple[deque[TraceConversation], deque[TraceConversation]]:
    """Return the long chats, longest first, and the others, languages and kinds in turn."""
    long = [each for each in trace if len(each.turns) >= _N_LONG_TURNS]
    short = [each for each in trace if len(each.turns) < _N_LONG_TURNS]
    seen: Counter[tuple[str, str]] = Counter()
    rounds: list[tuple[int, TraceConversation]] = []
    for each in short:
        rounds.append((seen[each.language, each.kind], each))
        seen[each.language, each.kind] += 1
    rounds.sort(key=lambda pair: pair[0])
    return deque(sorted(long, key=lambda each: -len(each.turns))), deque(each for _, each in rounds)
