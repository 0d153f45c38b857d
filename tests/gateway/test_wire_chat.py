from decimal import Decimal

import orjson
import pytest

from gateway.backends.base import ReplyDelta
from gateway.errors import RequestError
from gateway.wire.chat import parse_chat
from gateway.wire.reply import ChatReply

HELLO = {"role": "user", "content": "hello"}


def parse(body, **headers):
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    return parse_chat(
        raw, {name.replace("_", "-"): value for name, value in headers.items()}, "req_1"
    )


def refusal(body, **headers):
    with pytest.raises(RequestError) as caught:
        parse(body, **headers)
    return caught.value


def test_parameters_travel_as_the_caller_wrote_them():
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"b": 1, "a": 2}}}]
    turn = parse(
        {
            "model": "auto",
            "messages": [HELLO],
            "tools": tools,
            "stop": ["x"],
            "n": 2,
            "response_format": {"type": "json_object"},
            "temperature": 0.5,
        }
    )
    assert turn.params["tools"] == tools
    assert turn.params["stop"] == ["x"]
    assert turn.params["n"] == 2
    assert turn.needs == {"tools", "json"}


def test_max_tokens_is_the_old_name_of_max_completion_tokens():
    assert parse({"messages": [HELLO], "max_tokens": 5}).params == {"max_completion_tokens": 5}


def test_unknown_fields_are_reported_as_dropped():
    assert parse({"messages": [HELLO], "frobnicate": 1}).dropped_params == ("frobnicate",)


def test_unknown_fields_are_refused_when_the_caller_is_strict():
    error = refusal({"messages": [HELLO], "frobnicate": 1}, x_turnwise_strict="true")
    assert (error.status, error.param) == (400, "frobnicate")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": []}, "messages"),
        ({}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"messages": [HELLO], "temperature": 9}, "temperature"),
        ({"messages": [HELLO], "n": 0}, "n"),
        ({"messages": [HELLO], "n": "two"}, "n"),
        ({"messages": [HELLO], "max_tokens": 0}, "max_tokens"),
        ({"messages": [HELLO], "stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"messages": [HELLO], "response_format": {"type": "xml"}}, "response_format.type"),
        (
            {"messages": [HELLO], "tools": [{"type": "function", "function": {}}]},
            "tools[0].function.name",
        ),
    ],
)
def test_a_wrong_field_is_named(body, param):
    error = refusal(body)
    assert (error.status, error.type, error.param) == (400, "invalid_request_error", param)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b'{"messages": NaN}']
)
def test_what_is_not_a_json_object_is_a_400(body):
    error = refusal(body)
    assert error.status == 400
    assert error.code in {"invalid_json", "invalid_type"}


def test_lone_surrogates_are_bad_json_rather_than_a_crash():
    assert refusal(b'{"messages":[{"role":"user","content":"\\ud800"}]}').code == "invalid_json"


def test_a_conversation_may_be_named_four_ways():
    for body, headers in [
        ({}, {"x_turnwise_conversation_id": "c1"}),
        ({"metadata": {"conversation_id": "c1"}}, {}),
        ({"conversation": "c1"}, {}),
        ({"conversation": {"id": "c1"}}, {}),
        ({"previous_response_id": "c1"}, {}),
    ]:
        assert parse({"messages": [HELLO], **body}, **headers).conversation == "c1"


def test_two_names_that_disagree_are_refused():
    error = refusal({"messages": [HELLO], "conversation": "a"}, x_turnwise_conversation_id="b")
    assert error.code == "conversation_mismatch"


@pytest.mark.parametrize("name", ["", "x" * 257, "a\x00b"])
def test_a_conversation_name_is_short_printable_text(name):
    assert refusal({"messages": [HELLO], "conversation": name}).code == "invalid_conversation_id"


def test_headers_carry_end_user_tags_cost_cap_and_cache_mode():
    turn = parse(
        {"messages": [HELLO]},
        x_turnwise_end_user="u1",
        x_turnwise_tags="a, b,,a",
        x_turnwise_max_cost_usd="0.01",
        x_turnwise_cache="refresh",
    )
    assert (turn.end_user, turn.tags, turn.cache_mode) == ("u1", ("a", "b"), "refresh")
    assert turn.max_cost_usd == Decimal("0.01")


@pytest.mark.parametrize("text", ["-1", "NaN", "Infinity", "a lot"])
def test_a_cost_cap_is_a_sum_of_money(text):
    assert (
        refusal({"messages": [HELLO]}, x_turnwise_max_cost_usd=text).param
        == "x-turnwise-max-cost-usd"
    )


def test_a_reply_joins_text_and_tool_calls_by_index():
    reply = ChatReply()
    for piece in ("Hel", "lo"):
        reply.add(ReplyDelta(content=piece))
    for piece in ('{"a"', ": 1}"):
        call = {"index": 0, "id": "t1", "function": {"name": "", "arguments": piece}}
        reply.add(ReplyDelta(fields={"tool_calls": [call]}))
    reply.add(ReplyDelta(finish_reason="tool_calls"))
    (choice,) = reply.choices
    assert choice["message"]["content"] == "Hello"
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"a": 1}'
    assert choice["finish_reason"] == "tool_calls"
