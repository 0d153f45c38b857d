"""Routing over HTTP: odd input, a missing model, feedback, and the second stage."""

import asyncio
import io
import json
import logging

import pytest

import router.classifier
from gateway.backends.base import ReplyDelta, ReplyEnd
from policies.outcomes import Outcomes
from policies.usage import Usage
from tests.integration.conftest import ScriptedBackend, running, text_reply

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
ODD = {
    "empty": "",
    "blank": " \n\t ",
    "emoji": "😀🎉👍🏽" * 50,
    "NUL": "a\x00b\x00",
    "mixed scripts": "hello नमस्ते வணக்கம் హలో 你好 مرحبا",
    "one word, very long": "x" * 200_000,
    "controls": "\x01\x02\x7f\u202e\ufeff",
    "digits of many scripts": "१२३ ௧௨௩ ٣٤٥ 1234 5678 9012",
}


async def posted(gateway, path, body):
    """Post JSON in ASCII, as a client that escapes everything does."""
    headers = {**gateway.auth(), "content-type": "application/json"}
    data = io.BytesIO(json.dumps(body).encode())
    async with gateway.client.post(gateway.url + path, data=data, headers=headers) as response:
        return response.status, await response.json()


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
async def test_odd_text_is_decided_on(gateway, text):
    body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
    status, answer = await posted(gateway, "/v1/route", body)
    assert status == 200, answer
    assert 0 <= answer["decision"]["score"] <= 1
    assert answer["decision"]["reason"] != "classifier_unavailable"
    status, answer = await posted(gateway, "/v1/chat/completions", body)
    assert status == 200, answer


async def test_half_a_character_is_no_text_and_told_as_such(gateway):
    body = {"model": "auto", "messages": [{"role": "user", "content": "a \ud800 b \udfff"}]}
    for path in ("/v1/route", "/v1/chat/completions"):
        status, answer = await posted(gateway, path, body)
        assert (status, answer["error"]["code"]) == (400, "invalid_json")


async def test_a_text_of_ten_megabytes_is_too_long_and_told_so(gateway):
    text = "please add up all of these words " * 300_000
    body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
    async with asyncio.timeout(30):
        status, answer = await posted(gateway, "/v1/route", body)
    assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")


async def test_a_turn_of_images_alone_is_decided_on(gateway):
    body = {"model": "auto", "messages": [{"role": "user", "content": [IMAGE]}]}
    status, answer = await posted(gateway, "/v1/route", body)
    assert status == 200, answer


async def test_without_a_model_file_the_safe_tier_serves_and_readiness_says_so(
    settings, redis, monkeypatch, caplog
):
    monkeypatch.setattr(router.classifier, "MODEL_FILE", "nowhere.onnx")
    with caplog.at_level(logging.WARNING):
        async with running(settings) as gateway:
            for _ in range(3):
                status, headers, body = await gateway.chat("hello", model="auto")
                assert status == 200
                assert headers["x-turnwise-tier"] == "strong"
                assert body["turnwise"]["reason"] == "classifier_unavailable"
                assert "classifier" in headers["x-turnwise-degraded"]
            _, _, ready = await gateway.get("/readyz")
    assert "degraded" in json.dumps(ready)
    lines = [r for r in caplog.records if "classifier" in r.getMessage()]
    assert len(lines) == 1, [r.getMessage() for r in lines]


async def test_feedback_is_kept_by_voice_and_the_newer_word_counts(gateway):
    _, headers, _ = await gateway.chat("hello")
    path = f"/v1/turns/{headers['x-request-id']}/feedback"
    for body, score in (
        ({"thumbs": "down"}, 0.0),
        ({"thumbs": "up"}, 1.0),
        ({"score": 0.25, "source": "judge"}, 0.25),
    ):
        status, _, kept = await gateway.post(path, body)
        assert (status, kept["score"]) == (201, score)
    found = await Outcomes(gateway.services.database).of_turns("demo")
    assert sorted((each.outcome.source, each.outcome.score) for each in found) == [
        ("judge", 0.25),
        ("user", 1.0),
    ]
    assert found[0].decision["model"] == "local-small"
    assert found[0].decision["inputs"]["requested"] == "auto:fast"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"score": 1.5},
        {"score": "good"},
        {"thumbs": "sideways"},
        {"thumbs": "up", "score": 1},
        {"thumbs": "up", "why": "nice"},
        {"thumbs": "up", "source": "rumour"},
    ],
)
async def test_feedback_that_says_nothing_clear_is_refused(gateway, body):
    _, headers, _ = await gateway.chat("hello")
    path = f"/v1/turns/{headers['x-request-id']}/feedback"
    status, _, answer = await gateway.post(path, body)
    assert (status, answer["error"]["type"]) == (400, "invalid_request_error")


async def test_feedback_on_anothers_turn_is_not_found(gateway):
    _, headers, _ = await gateway.chat("hello")
    for key, name in (("other-key-0123456789", headers["x-request-id"]), (None, "req_none")):
        status, _, answer = await gateway.post(
            f"/v1/turns/{name}/feedback", {"thumbs": "up"}, key=key
        )
        assert (status, answer["error"]["code"]) == (404, "not_found")
    assert await Outcomes(gateway.services.database).of_turns() == []


async def test_costs_of_candidates_are_in_the_tenants_currency(gateway):
    body = {"model": "auto", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 10}
    _, _, rupees = await gateway.post("/v1/route", body)
    _, _, dollars = await gateway.post("/v1/route", body, key="other-key-0123456789")
    for inr, usd in zip(
        rupees["decision"]["candidates"], dollars["decision"]["candidates"], strict=True
    ):
        assert inr["estimated_cost_micro"] == usd["estimated_cost_micro"] * 80
    assert (rupees["decision"]["currency"], dollars["decision"]["currency"]) == ("INR", "USD")


async def test_a_recorded_decision_holds_its_inputs_and_its_propensity(gateway):
    _, headers, _ = await gateway.chat("hello", model="auto")
    turn = await gateway.turn(headers["x-request-id"])
    decision = turn["decision"]
    assert decision["propensity"] == 1.0
    assert decision["inputs"]["requested"] == "auto"
    assert "hello" not in json.dumps(decision)


async def test_the_default_policy_stays_at_stage_one(gateway):
    body = {"model": "auto", "messages": [{"role": "user", "content": "hello"}]}
    _, _, answer = await gateway.post("/v1/route", body)
    assert answer["decision"]["stage"] == 1


async def test_the_model_that_asked_for_a_tool_gets_its_result(settings, redis):
    call = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    asking = ReplyDelta(fields={"tool_calls": [{"index": 0, **call}]})
    finish = ReplyDelta(finish_reason="tool_calls")
    far = ScriptedBackend(asking, finish, ReplyEnd(Usage(input_tokens=10, output_tokens=2)))
    tools = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
    messages = [{"role": "user", "content": "hello"}]
    async with running(settings, far=far) as gateway:
        _, _, answer = await gateway.chat(model="auto:best", messages=messages, tools=tools)
        assert answer["choices"][0]["message"]["tool_calls"][0]["id"] == "call_1"
        messages += [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "3"},
        ]
        far.script = text_reply("It is 3.")
        _, headers, _ = await gateway.chat(model="auto", messages=messages, tools=tools)
        assert headers["x-turnwise-model"] == "strong"
        assert headers["x-turnwise-reason"] == "tool_continuation"
        _, headers, _ = await gateway.chat(model="auto", messages=messages[:1], tools=tools)
        assert headers["x-turnwise-model"] == "local-small"
        # Another tenant's call of the same id is another call.
        _, headers, _ = await gateway.chat(
            model="auto", messages=messages, tools=tools, key="other-key-0123456789"
        )
        assert headers["x-turnwise-reason"] != "tool_continuation"
