"""OpenAI's chat request -> what the engine is asked; replies -> OpenAI's objects and chunks.

Owns field names, ranges and shapes of the wire. Knows neither threads nor sockets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from local_models.errors import RequestRefused
from local_models.sequence import SamplingParams, TokenLogprobs
from local_models.text import TextCodec

_KNOWN = frozenset(
    {"model", "messages", "stream", "stream_options", "temperature", "top_p", "top_k", "min_p", "n"}
    | {"stop", "seed", "presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias"}
    | {"logprobs", "top_logprobs", "max_tokens", "max_completion_tokens", "tools", "tool_choice"}
    | {"parallel_tool_calls", "response_format", "user", "ignore_eos", "timeout_s"}
    | {"metadata", "store"}
)
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
_RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "repetition_penalty": (0.1, 10),
    "timeout_s": (0, 86_400),
}
_INT_RANGES: dict[str, tuple[int, int]] = {
    "top_k": (0, 1 << 30),
    "n": (1, 16),
    "seed": (-(1 << 63), (1 << 63) - 1),
    "top_logprobs": (0, 20),
    "max_tokens": (1, 1 << 30),
    "max_completion_tokens": (1, 1 << 30),
}


_OPENAI = SamplingParams()


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One checked request; `dropped` names the fields that are not understood here.

    `tools` are those that may be called; `must_call` forbids any other reply, `many_calls` allows
    several calls in one.
    """

    model: str
    messages: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...]
    params: SamplingParams
    max_new_tokens: int | None
    stops: tuple[str, ...]
    n: int
    is_stream: bool
    includes_usage: bool
    schema: Any
    must_call: bool
    many_calls: bool
    timeout_s: float | None
    dropped: tuple[str, ...]


def parse_chat(body: Any, defaults: SamplingParams = _OPENAI) -> ChatRequest:
    """Return the request that a JSON body states; `defaults` fill in what it leaves out.

    Raises:
        RequestRefused: with OpenAI's code and the field at fault.
    """
    if not isinstance(body, dict):
        raise _bad(None, "The body must be a JSON object.")
    numbers = {name: _number(body, name, *bounds) for name, bounds in _RANGES.items()}
    ints = {name: _integer(body, name, *bounds) for name, bounds in _INT_RANGES.items()}
    logprobs = (ints["top_logprobs"] or 0) if body.get("logprobs") else None
    if ints["top_logprobs"] and not body.get("logprobs"):
        raise _bad("top_logprobs", "top_logprobs needs logprobs: true.")
    tools, must_call = _tools(body.get("tools"), body.get("tool_choice"))
    stream_options = body.get("stream_options") or {}
    seed = ints["seed"]
    return ChatRequest(
        model=str(body.get("model") or ""),
        messages=_messages(body.get("messages")),
        tools=tools,
        params=SamplingParams(
            temperature=_or(numbers["temperature"], _temperature(body, defaults)),
            top_p=_or(numbers["top_p"], defaults.top_p),
            top_k=int(_or(ints["top_k"], defaults.top_k)),
            min_p=_or(numbers["min_p"], defaults.min_p),
            presence_penalty=numbers["presence_penalty"] or 0.0,
            frequency_penalty=numbers["frequency_penalty"] or 0.0,
            repetition_penalty=_or(numbers["repetition_penalty"], defaults.repetition_penalty),
            seed=None if seed is None else seed & ((1 << 64) - 1),
            logit_bias=_logit_bias(body.get("logit_bias")),
            top_logprobs=logprobs,
            ignore_eos=bool(body.get("ignore_eos", False)),
        ),
        max_new_tokens=ints["max_completion_tokens"] or ints["max_tokens"],
        stops=_stops(body.get("stop")),
        n=ints["n"] or 1,
        is_stream=bool(body.get("stream")),
        includes_usage=bool(stream_options.get("include_usage")),
        schema=_schema(body.get("response_format")),
        must_call=must_call,
        many_calls=body.get("parallel_tool_calls") is not False,
        timeout_s=numbers["timeout_s"],
        dropped=tuple(sorted(set(body) - _KNOWN)),
    )


def _temperature(body: Mapping[str, Any], defaults: SamplingParams) -> float:
    """Return the temperature of a request that names none.

    Whoever asks for several choices or narrows the draw wants a draw, also of a greedy model.
    """
    wants_draw = (body.get("n") or 1) > 1 or (body.get("top_p") or 1) < 1 or body.get("top_k")
    return defaults.temperature or (1.0 if wants_draw or body.get("min_p") else 0.0)


def _tools(value: Any, choice: Any) -> tuple[tuple[dict[str, Any], ...], bool]:
    """Return the tools that may be called, and whether one of them must be."""
    tools = _objects(value or [], "tools")
    names = []
    for at, tool in enumerate(tools):
        function = tool.get("function")
        if tool.get("type", "function") != "function" or not isinstance(function, dict):
            raise _bad(f"tools[{at}]", "A tool is {type: function, function: {name, ...}}.")
        if not isinstance(function.get("name"), str) or not function["name"]:
            raise _bad(f"tools[{at}].function.name", "A function needs a name.")
        if not isinstance(function.get("parameters") or {}, dict):
            raise _bad(f"tools[{at}].function.parameters", "Parameters are a JSON schema.")
        names.append(function["name"])
    if choice == "none":
        return (), False
    if choice in (None, "auto"):
        return tuple(tools), False
    if not tools:
        raise _bad("tool_choice", "tool_choice needs tools.")
    if choice == "required":
        return tuple(tools), True
    wanted = choice.get("function") if isinstance(choice, dict) else None
    name = wanted.get("name") if isinstance(wanted, dict) else None
    if name not in names:
        raise _bad("tool_choice", "tool_choice is none, auto, required or one of the tools.")
    return (tools[names.index(name)],), True


def _messages(value: Any) -> tuple[dict[str, Any], ...]:
    messages = _objects(value, "messages")
    if not messages:
        raise _bad("messages", "At least one message is needed.")
    for at, message in enumerate(messages):
        where = f"messages[{at}]"
        if message.get("role") not in _ROLES:
            raise _bad(f"{where}.role", f"A role is one of {', '.join(sorted(_ROLES))}.")
        content = message.get("content")
        if isinstance(content, list):
            for part in content:
                if not isinstance(part, dict) or not isinstance(part.get("text"), str):
                    raise _bad(f"{where}.content", "This model reads text parts only.")
        elif content is not None and not isinstance(content, str):
            raise _bad(f"{where}.content", "Content is text or a list of text parts.")
        if content is None and not (message["role"] == "assistant" and message.get("tool_calls")):
            raise _bad(f"{where}.content", "Content is missing.")
        if message["role"] == "developer":
            message["role"] = "system"
    return tuple(messages)


def _objects(value: Any, param: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise _bad(param, f"{param} must be a list of objects.")
    return [dict(entry) for entry in value]


def _number(body: Mapping[str, Any], name: str, low: float, high: float) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not low <= value <= high:
        raise _bad(name, f"{name} must be a number from {low:g} to {high:g}.")
    return float(value)


def _integer(body: Mapping[str, Any], name: str, low: int, high: int) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise _bad(name, f"{name} must be a whole number from {low} to {high}.")
    return value


def _stops(value: Any) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else value or []
    if not isinstance(stops, list) or not all(isinstance(s, str) and s for s in stops):
        raise _bad("stop", "stop must be text or a list of texts, none of them empty.")
    if len(stops) > 16:
        raise _bad("stop", "At most 16 stop texts are taken.")
    return tuple(stops)


def _logit_bias(value: Any) -> dict[int, float]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _bad("logit_bias", "logit_bias must map token ids to numbers from -100 to 100.")
    try:
        bias = {int(token): float(number) for token, number in value.items()}
    except (TypeError, ValueError) as error:
        raise _bad("logit_bias", "logit_bias must map token ids to numbers.") from error
    if any(token < 0 or not -100 <= number <= 100 for token, number in bias.items()):
        raise _bad("logit_bias", "logit_bias must map token ids to numbers from -100 to 100.")
    return bias


def _schema(value: Any) -> Any:
    """Return None for text, `{}` for any JSON object, else the JSON schema asked for."""
    kind = (value or {}).get("type", "text") if isinstance(value or {}, dict) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    if kind == "json_schema" and isinstance(value.get("json_schema"), dict):
        return value["json_schema"].get("schema") or {"type": "object"}
    raise _bad("response_format", "response_format is text, json_object or json_schema.")


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _bad(param: str | None, message: str) -> RequestRefused:
    return RequestRefused(message, code="invalid_value" if param else "invalid_json", param=param)


def usage_object(prompt: int, completion: int, cached: int, busy_s: float) -> dict[str, Any]:
    """Return OpenAI's usage with the engine's own `busy_s`: this request's share of busy time."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
        "busy_s": round(busy_s, 6),
    }


def logprobs_object(codec: TextCodec, found: tuple[TokenLogprobs, ...]) -> dict[str, Any]:
    """Return OpenAI's logprobs of some tokens."""

    def entry(token: int, logprob: float) -> dict[str, Any]:
        return {
            "token": codec.token_text(token),
            "logprob": max(logprob, -9999.0),
            "bytes": codec.token_bytes(token),
        }

    return {
        "content": [
            {**entry(one.token, one.logprob), "top_logprobs": [entry(*pair) for pair in one.top]}
            for one in found
        ],
        "refusal": None,
    }


def error_object(
    message: str, type_: str, code: str | None = None, param: str | None = None
) -> dict[str, Any]:
    """Return OpenAI's error body."""
    return {"error": {"message": message, "type": type_, "param": param, "code": code}}
