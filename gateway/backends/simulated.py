"""A backend without a model: answers that say so, so that everything else can be tried at once.

Deterministic: the same call gets the same answer. Usage is an estimate by the gateway's counter.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

import orjson

from gateway.backends.base import Call, ReplyDelta, ReplyEnd
from gateway.token_count import count_messages, estimate_tokens
from memory.conversation import message_from_wire
from policies.usage import Usage

_LABEL = "[simulated answer]"
_BODIES = (
    "No model is configured for this tier, so this text stands in for one. You asked: {question}",
    "A real model would answer here; this gateway has no provider key yet. The question was: "
    "{question}",
    "This reply was composed without a model, to show routing, memory and costs at work. It was "
    "asked: {question}",
)
_TAIL = "Set a provider's key, such as OPENAI_API_KEY, and the same request gets a real answer."
_MAX_QUOTE_CHARS = 160
_WORD = re.compile(r"\s*\S+|\s+$")


class SimulatedBackend:
    """Answers every call with a labelled text, or with a schematic tool call where one is required.

    Args:
        name: the backend's name in the configuration.
        word_delay_s: the wait before each word of a stream; zero in tests.
        count: the token counter for limits and usage.
    """

    def __init__(
        self,
        name: str,
        *,
        word_delay_s: float = 0.004,
        count: Callable[[str], int] = estimate_tokens,
    ) -> None:
        self.name = name
        self._word_delay_s = word_delay_s
        self._count = count

    async def close(self) -> None:
        """Do nothing: there is nothing to release."""

    async def stream(self, call: Call) -> AsyncGenerator[ReplyDelta | ReplyEnd, None]:
        """Yield the reply's deltas and then one ReplyEnd; see `Backend`."""
        output_tokens = 0
        for index in range(int(call.params.get("n") or 1)):
            tool_calls = _tool_calls(call, index)
            if tool_calls:
                output_tokens += self._count(orjson.dumps(tool_calls).decode())
                yield ReplyDelta(
                    index, None, {"tool_calls": tool_calls}, finish_reason="tool_calls"
                )
                continue
            words, finish_reason = self._words(call, index)
            output_tokens += self._count("".join(words)) if words else 0
            if not call.is_stream:
                yield ReplyDelta(index, "".join(words), finish_reason=finish_reason)
                continue
            for word in words:
                if self._word_delay_s:
                    await asyncio.sleep(self._word_delay_s)
                yield ReplyDelta(index, word)
            yield ReplyDelta(index, finish_reason=finish_reason)
        yield ReplyEnd(usage=self._usage(call, output_tokens), model=call.model)

    def _words(self, call: Call, index: int) -> tuple[list[str], str]:
        text, finish_reason = _stopped(_answer_to(call, index), call.params.get("stop"))
        words = _WORD.findall(text)
        limit = call.params.get("max_completion_tokens")
        if limit is not None:
            kept: list[str] = []
            for word in words:
                if self._count("".join([*kept, word])) > limit:
                    return kept, "length"
                kept.append(word)
        return words, finish_reason

    def _usage(self, call: Call, output_tokens: int) -> Usage:
        messages = [message_from_wire(wire) for wire in call.messages]
        input_tokens = count_messages(messages, self._count, call.params.get("tools"))
        return Usage(input_tokens, output_tokens, is_estimated=True)


def _answer_to(call: Call, index: int) -> str:
    question = _last_question(call)
    wants = (call.params.get("response_format") or {}).get("type", "text")
    if wants == "json_schema":
        schema = (call.params["response_format"].get("json_schema") or {}).get("schema")
        return orjson.dumps(_example_of(schema)).decode()
    if wants == "json_object":
        return orjson.dumps({"simulated": True, "question": question}).decode()
    digest = hashlib.sha256(f"{call.model}\n{index}\n{question}".encode()).digest()
    return f"{_LABEL} {_BODIES[digest[0] % len(_BODIES)].format(question=question)} {_TAIL}"


def _last_question(call: Call) -> str:
    for wire in reversed(call.messages):
        if wire.get("role") == "user":
            text = " ".join(message_from_wire(wire).text.split())
            return text if len(text) <= _MAX_QUOTE_CHARS else f"{text[:_MAX_QUOTE_CHARS]}…"
    return "(nothing)"


def _stopped(text: str, stop: Any) -> tuple[str, str]:
    stops = [stop] if isinstance(stop, str) else list(stop or ())
    ends = [text.find(each) for each in stops if each]
    found = [end for end in ends if end >= 0]
    return (text[: min(found)], "stop") if found else (text, "stop")


def _tool_calls(call: Call, index: int) -> list[dict[str, Any]]:
    """Return the call that `tool_choice` demands, its arguments drawn from the tool's schema."""
    tools = [tool for tool in call.params.get("tools") or () if tool.get("type") == "function"]
    choice = call.params.get("tool_choice")
    if not tools or (choice != "required" and not isinstance(choice, Mapping)):
        return []
    function = tools[0]["function"]
    if isinstance(choice, Mapping):
        wanted = (choice.get("function") or {}).get("name")
        function = next((t["function"] for t in tools if t["function"].get("name") == wanted), None)
        if function is None:
            return []
    digest = hashlib.sha256(f"{index}\n{_last_question(call)}".encode()).hexdigest()
    arguments = orjson.dumps(_example_of(function.get("parameters"))).decode()
    return [
        {
            "index": 0,
            "id": f"call_{digest[:24]}",
            "type": "function",
            "function": {"name": function["name"], "arguments": arguments},
        }
    ]


_EXAMPLES: Mapping[str, Any] = {
    "string": "simulated",
    "integer": 1,
    "number": 1.0,
    "boolean": True,
    "array": [],
    "null": None,
}


def _example_of(schema: Any, depth: int = 0) -> Any:
    """Return the smallest value that a JSON schema of the usual kind accepts."""
    if not isinstance(schema, Mapping) or depth > 8:
        return {}
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    for name in ("anyOf", "oneOf", "allOf"):
        if schema.get(name):
            return _example_of(schema[name][0], depth + 1)
    kind = schema.get("type", "object")
    if isinstance(kind, list):
        kind = kind[0]
    if kind == "array" and schema.get("minItems"):
        return [_example_of(schema.get("items"), depth + 1)] * int(schema["minItems"])
    if kind != "object":
        return _EXAMPLES.get(kind)
    properties = schema.get("properties") or {}
    names = schema.get("required") or list(properties)
    return {name: _example_of(properties.get(name), depth + 1) for name in names}
