"""OpenAI's chat completions request, from bytes to a Turn.

Source: OpenAI API reference, "Create chat completion".
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from gateway.errors import RequestError
from gateway.turn import CacheMode, Turn
from memory.conversation import message_from_wire

# Parameters that reach the model as the caller wrote them.
PASSED_PARAMS = frozenset(
    [
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "response_format",
        "stop",
        "n",
        "max_completion_tokens",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "logit_bias",
        "logprobs",
        "top_logprobs",
        "seed",
        "reasoning_effort",
        "verbosity",
        "modalities",
        "audio",
        "prediction",
        "prompt_cache_key",
        "safety_identifier",
        "service_tier",
        "web_search_options",
    ]
)
_NAME = r"^[^\x00-\x1f\x7f]{1,256}$"


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class FunctionCall(_Open):
    """A function and its arguments, the latter as JSON text."""

    name: Annotated[str, Field(min_length=1)]
    arguments: str


class ToolCall(_Open):
    """One tool call of an assistant message."""

    id: Annotated[str, Field(min_length=1)]
    type: str = "function"
    function: FunctionCall | None = None


class ContentPart(_Open):
    """One part of a message's content: text, image_url, input_audio, file, refusal."""

    type: Annotated[str, Field(min_length=1)]


class ChatMessage(_Open):
    """One message of the request; unknown fields are kept and passed on."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None


class StreamOptions(_Open):
    """`include_usage` asks for the usage chunk."""

    include_usage: bool = False


class FunctionTool(_Open):
    """The declaration of a function the model may call."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.:-]{1,128}$")]


class Tool(_Open):
    """One tool on offer."""

    type: str
    function: FunctionTool | None = None


class ResponseFormat(_Open):
    """The form that the answer must have."""

    type: Literal["text", "json_object", "json_schema"]


def _integral(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


Count = Annotated[int, BeforeValidator(_integral), Field(ge=1, le=2**31 - 1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]


class ChatBody(BaseModel):
    """The request body. Unknown fields are collected, answered in `dropped_params`."""

    model_config = ConfigDict(extra="allow", strict=True)

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    model: Annotated[str, Field(min_length=1, max_length=256)] = "auto"
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: Annotated[list[Tool], Field(max_length=512)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    stop: Annotated[str | list[str] | None, Field(union_mode="left_to_right")] = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    max_completion_tokens: Count | None = None
    max_tokens: Count | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[str, float] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    seed: int | None = None
    user: str | None = None
    metadata: dict[str, Any] | None = None
    conversation: str | dict[str, Any] | None = None
    previous_response_id: str | None = None


# Fields with a meaning of their own here, so neither passed on nor reported as dropped.
_OURS = frozenset(
    [
        "messages",
        "model",
        "stream",
        "stream_options",
        "max_tokens",
        "user",
        "metadata",
        "conversation",
        "previous_response_id",
    ]
)


def parse_chat(body: bytes, headers: Mapping[str, str], request_id: str) -> Turn:
    """Return the Turn of a chat completions request.

    Args:
        body: the JSON text, UTF-8.
        headers: request headers, names in lower case.
        request_id: the id under which the turn is recorded.

    Raises:
        RequestError: 400 with the first field that is wrong.
    """
    try:
        chat = ChatBody.model_validate_json(body)
    except ValidationError as error:
        raise request_error_of(error) from error
    # The caller's own JSON, not the validated copy, is what travels on: nothing is reordered,
    # defaulted or lost on the way.
    try:
        sent: dict[str, Any] = orjson.loads(body)
    except orjson.JSONDecodeError as error:  # NaN, 1e999, -: pydantic takes them, JSON does not
        raise RequestError(
            f"We could not parse the JSON body of your request. {error}", code="invalid_json"
        ) from error
    _check_messages(chat)
    params = {key: sent[key] for key in sent if key in PASSED_PARAMS and sent[key] is not None}
    limit = chat.max_completion_tokens or chat.max_tokens
    if limit is not None:
        params["max_completion_tokens"] = limit
    dropped = [key for key in sent if key not in PASSED_PARAMS and key not in _OURS]
    if dropped and headers.get("x-turnwise-strict", "").lower() == "true":
        raise RequestError(
            f"Unrecognized request argument supplied: {dropped[0]}",
            code="unknown_parameter",
            param=dropped[0],
        )
    if len(chat.stop or ()) > 4 and isinstance(chat.stop, list):
        raise RequestError("At most 4 stop sequences.", code="array_above_max_length", param="stop")
    return Turn(
        request_id=request_id,
        messages=tuple(message_from_wire(message) for message in sent["messages"]),
        requested=chat.model,
        params=params,
        is_stream=bool(chat.stream),
        include_usage=bool(chat.stream_options and chat.stream_options.include_usage),
        conversation=_conversation_name(chat, headers),
        end_user=headers.get("x-turnwise-end-user") or chat.user,
        tags=_tags(headers.get("x-turnwise-tags", "")),
        min_tier=headers.get("x-turnwise-min-tier") or None,
        max_cost_usd=_max_cost(headers.get("x-turnwise-max-cost-usd")),
        cache_mode=_cache_mode(headers.get("x-turnwise-cache")),
        dropped_params=tuple(dropped),
        may_restart=headers.get("x-turnwise-restart", "").lower() == "allow",
        idempotency_key=headers.get("idempotency-key"),
    )


def _check_messages(chat: ChatBody) -> None:
    for index, message in enumerate(chat.messages):
        param = f"messages[{index}]"
        if message.role == "tool" and not message.tool_call_id:
            raise RequestError(
                f"Missing required parameter: '{param}.tool_call_id'.",
                code="missing_required_parameter",
                param=f"{param}.tool_call_id",
            )
        may_be_empty = message.role == "assistant" and (
            message.tool_calls or getattr(message, "function_call", None) or message.model_extra
        )
        if message.content is None and not may_be_empty:
            raise RequestError(
                f"Missing required parameter: '{param}.content'.",
                code="missing_required_parameter",
                param=f"{param}.content",
            )


def _conversation_name(chat: ChatBody, headers: Mapping[str, str]) -> str | None:
    """Return the one name the caller gave; two names that disagree are an error."""
    given: list[tuple[str, Any]] = [
        ("x-turnwise-conversation-id", headers.get("x-turnwise-conversation-id")),
        ("metadata.conversation_id", (chat.metadata or {}).get("conversation_id")),
        (
            "conversation",
            chat.conversation.get("id")
            if isinstance(chat.conversation, dict)
            else chat.conversation,
        ),
        ("previous_response_id", chat.previous_response_id),
    ]
    names = [(where, name) for where, name in given if name is not None]
    if not names:
        return None
    for where, name in names:
        if not isinstance(name, str) or not 1 <= len(name) <= 256:
            raise RequestError(
                "A conversation name is text of 1 to 256 characters.",
                code="invalid_conversation_id",
                param=where,
            )
        if any(ord(char) < 32 or ord(char) == 127 for char in name):
            raise RequestError(
                "A conversation name has no control characters.",
                code="invalid_conversation_id",
                param=where,
            )
    if len({name for _, name in names}) > 1:
        raise RequestError(
            "Two different conversations are named: " + ", ".join(where for where, _ in names),
            code="conversation_mismatch",
            param=names[1][0],
        )
    return str(names[0][1])


def _tags(text: str) -> tuple[str, ...]:
    tags = tuple(dict.fromkeys(tag.strip() for tag in text.split(",") if tag.strip()))
    if len(tags) > 16 or any(len(tag) > 64 for tag in tags):
        raise RequestError(
            "At most 16 tags of at most 64 characters.",
            code="invalid_value",
            param="x-turnwise-tags",
        )
    return tags


def _max_cost(text: str | None) -> Decimal | None:
    if text is None:
        return None
    try:
        value = Decimal(text)
    except ArithmeticError:
        value = Decimal(-1)
    if not value.is_finite() or value < 0:
        raise RequestError(
            "x-turnwise-max-cost-usd is a number of US dollars, at least 0.",
            code="invalid_value",
            param="x-turnwise-max-cost-usd",
        )
    return value


_CACHE_MODES: dict[str | None, CacheMode] = {
    None: "on",
    "off": "off",
    "read": "read",
    "refresh": "refresh",
}


def _cache_mode(text: str | None) -> CacheMode:
    try:
        return _CACHE_MODES[text]
    except KeyError:
        raise RequestError(
            "x-turnwise-cache is off, read or refresh.",
            code="invalid_value",
            param="x-turnwise-cache",
        ) from None


def request_error_of(error: ValidationError) -> RequestError:
    """Return the contract's error for pydantic's first complaint."""
    first = error.errors(include_url=False, include_context=False)[0]
    if first["type"] == "json_invalid":
        return RequestError(
            "We could not parse the JSON body of your request. " + first["msg"], code="invalid_json"
        )
    param = _param_of(first["loc"])
    if not param:
        return RequestError("The request body must be a JSON object.", code="invalid_type")
    if first["type"] == "missing":
        message, code = f"Missing required parameter: '{param}'.", "missing_required_parameter"
    elif first["type"].endswith("_type"):
        message, code = f"Invalid type for '{param}': {first['msg']}.", "invalid_type"
    else:
        message, code = f"Invalid value for '{param}': {first['msg']}.", "invalid_value"
    return RequestError(message, code=code, param=param)


# pydantic names the branch of a union inside the location; a caller has no use for it.
_BRANCHES = {"str", "list[ContentPart]", "ContentPart", "list[str]", "dict[str,any]"}


def _param_of(location: tuple[int | str, ...]) -> str:
    param = ""
    for step in location:
        if isinstance(step, int):
            param += f"[{step}]"
        elif step not in _BRANCHES:
            param += f".{step}" if param else step
    return param
