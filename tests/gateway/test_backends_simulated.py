from __future__ import annotations

from typing import Any

import orjson

from gateway.backends.base import Call, ReplyDelta, ReplyEnd
from gateway.backends.simulated import SimulatedBackend

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Pune", "Delhi"]},
        "days": {"type": "array", "items": {"type": "integer"}, "minItems": 2},
        "note": {"type": "string"},
    },
    "required": ["city", "days"],
}


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": SCHEMA}}


async def reply(*, is_stream: bool = True, text: str = "Hello?", **params: Any) -> list[Any]:
    backend = SimulatedBackend("practice", word_delay_s=0.0, count=lambda text: len(text.split()))
    messages = ({"role": "user", "content": text},)
    call = Call("m", messages, params, is_stream, "req_1", "s", 1.0, 1.0, 1.0)
    return [event async for event in backend.stream(call)]


def text_of(events: list[Any], index: int = 0) -> str:
    deltas = [event for event in events if isinstance(event, ReplyDelta) and event.index == index]
    return "".join(delta.content or "" for delta in deltas)


async def test_every_answer_says_that_it_is_simulated() -> None:
    for text in ("Hello?", "नमस्ते", "What is 2 + 2?"):
        assert text_of(await reply(text=text)).startswith("[simulated answer]")


async def test_the_same_call_gets_the_same_answer_streamed_or_not() -> None:
    assert text_of(await reply()) == text_of(await reply()) == text_of(await reply(is_stream=False))


async def test_a_stream_comes_word_by_word() -> None:
    events = await reply()
    assert len(events) > 10
    assert events[0] == ReplyDelta(0, "[simulated")


async def test_the_token_limit_cuts_and_is_named() -> None:
    *deltas, end = await reply(max_completion_tokens=5)
    assert len(text_of(deltas).split()) == 5
    assert deltas[-1].finish_reason == "length"
    assert isinstance(end, ReplyEnd)
    assert end.usage is not None and end.usage.output_tokens == 5 and end.usage.is_estimated


async def test_a_stop_sequence_ends_the_answer_before_it() -> None:
    events = await reply(stop=["answer]", "never"])
    assert text_of(events) == "[simulated "
    assert events[-2].finish_reason == "stop"


async def test_each_choice_has_its_own_index() -> None:
    events = await reply(n=3, is_stream=False)
    assert [event.index for event in events[:-1]] == [0, 1, 2]


async def test_a_required_tool_is_called_with_arguments_its_schema_accepts() -> None:
    delta, _ = await reply(tools=[tool("trip")], tool_choice="required")
    (call,) = delta.fields["tool_calls"]
    assert delta.finish_reason == "tool_calls"
    assert call["function"]["name"] == "trip"
    assert orjson.loads(call["function"]["arguments"]) == {"city": "Pune", "days": [1, 1]}


async def test_a_named_tool_is_the_one_that_is_called() -> None:
    choice = {"type": "function", "function": {"name": "second"}}
    delta, _ = await reply(tools=[tool("first"), tool("second")], tool_choice=choice)
    assert delta.fields["tool_calls"][0]["function"]["name"] == "second"


async def test_tools_that_are_only_offered_are_not_called() -> None:
    assert text_of(await reply(tools=[tool("trip")], tool_choice="auto"))


async def test_json_is_answered_in_json() -> None:
    as_object = await reply(response_format={"type": "json_object"})
    assert orjson.loads(text_of(as_object))["simulated"] is True
    wanted = {"type": "json_schema", "json_schema": {"name": "trip", "schema": SCHEMA}}
    by_schema = await reply(response_format=wanted)
    assert orjson.loads(text_of(by_schema)) == {"city": "Pune", "days": [1, 1]}
