"""A reply in OpenAI's terms: its pieces collected into choices, its usage with the cost.

Source: OpenAI API reference, "The chat completion object".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.turn import Disclosure
from memory.conversation import Message, message_from_wire
from policies.usage import Cost, Usage


def usage_to_wire(usage: Usage, cost: Cost | None) -> dict[str, Any]:
    """Return OpenAI's usage object with `cost` (USD) and `cost_details` added."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_input_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "cost": cost.usd_micro / 1_000_000 if cost else None,
        "cost_details": {
            "cost_micro": cost.micro,
            "currency": cost.currency,
            "usd_micro": cost.usd_micro,
            "is_estimated": usage.is_estimated,
        }
        if cost
        else None,
    }


def completion_to_wire(disclosure: Disclosure) -> dict[str, Any]:
    """Return OpenAI's chat.completion object of a finished answer."""
    usage = disclosure.usage
    return {
        "id": disclosure.request_id.replace("req_", "chatcmpl-", 1),
        "object": "chat.completion",
        "created": int(disclosure.started_at.timestamp()),
        "model": disclosure.model,
        "choices": disclosure.choices,
        "usage": usage_to_wire(usage, disclosure.cost) if usage else None,
        "turnwise": disclosure.to_wire(),
    }


class ChatReply:
    """Collects the deltas of a reply into OpenAI's choices."""

    def __init__(self) -> None:
        self._choices: dict[int, dict[str, Any]] = {}

    def add(self, delta: Any) -> None:
        """Add one ReplyDelta."""
        choice = self._choices.get(delta.index)
        if choice is None:
            choice = self._choices[delta.index] = {
                "index": delta.index,
                "message": {"role": "assistant", "content": None},
                "finish_reason": None,
                "logprobs": None,
            }
        message = choice["message"]
        if delta.content:
            message["content"] = (message["content"] or "") + delta.content
        elif delta.content == "" and message["content"] is None:
            message["content"] = ""
        for name, value in delta.fields.items():
            merge_field(message, name, value)
        if delta.logprobs:
            logprobs = choice["logprobs"] = choice["logprobs"] or {}
            for name, tokens in delta.logprobs.items():
                logprobs[name] = (logprobs.get(name) or []) + (tokens or [])
        if delta.finish_reason:
            choice["finish_reason"] = delta.finish_reason

    def clear(self) -> None:
        """Forget everything: another model answers from the start."""
        self._choices.clear()

    @property
    def choices(self) -> list[dict[str, Any]]:
        """The choices so far, in order of their index, as OpenAI spells them."""
        return [self._choices[index] for index in sorted(self._choices)]


def merge_field(message: dict[str, Any], name: str, value: Any) -> None:
    """Merge one delta field into a message, mutating it: texts join, tool calls join by index."""
    if name == "tool_calls":
        calls: list[dict[str, Any]] = message.setdefault("tool_calls", [])
        for piece in value or ():
            _merge_tool_call(calls, piece)
    elif isinstance(value, str) and isinstance(message.get(name), str):
        message[name] += value
    elif isinstance(value, list) and isinstance(message.get(name), list):
        message[name] = message[name] + value
    elif value is not None:
        message[name] = value


def _merge_tool_call(calls: list[dict[str, Any]], piece: dict[str, Any]) -> None:
    index = piece.get("index", len(calls))
    while len(calls) <= index:
        calls.append({"id": None, "type": "function", "function": {"name": "", "arguments": ""}})
    call = calls[index]
    if piece.get("id"):
        call["id"] = piece["id"]
    if piece.get("type"):
        call["type"] = piece["type"]
    function = piece.get("function") or {}
    call["function"]["name"] += function.get("name") or ""
    call["function"]["arguments"] += function.get("arguments") or ""


def reply_message(choice: Mapping[str, Any]) -> Message:
    """Return the assistant message of a collected choice."""
    return message_from_wire(choice["message"])
