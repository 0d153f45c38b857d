"""One turn over HTTP: what goes in, what comes out, what is disclosed."""

import asyncio

import orjson
import pytest

from gateway.backends.base import ReplyDelta, ReplyEnd
from gateway.errors import BackendBroken, BackendRejected, BackendTimeout, BackendUnavailable
from policies.usage import Usage
from tests.fakes import until
from tests.integration.conftest import ScriptedBackend, running, text_reply


def frames(text):
    return [
        orjson.loads(line[6:])
        for line in text.splitlines()
        if line.startswith("data: ") and line != "data: [DONE]"
    ]


async def test_an_answer_discloses_how_it_was_made(gateway):
    status, headers, body = await gateway.chat("hello")
    assert status == 200
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "Hello there"}
    assert body["model"] == headers["x-turnwise-model"] == "local-small"
    assert headers["x-turnwise-tier"] == "small"
    assert headers["x-turnwise-reason"] == body["turnwise"]["reason"] == "auto_fast"
    assert headers["x-turnwise-policy"] == "default@0"
    assert headers["x-turnwise-cache"] == "none"
    assert headers["x-request-id"] == headers["request-id"]
    assert float(headers["x-turnwise-overhead-ms"]) >= 0


async def test_usage_carries_the_cost_in_both_currencies(gateway):
    _, _, body = await gateway.chat("hello")
    assert body["usage"]["prompt_tokens"] == 10
    assert body["usage"]["completion_tokens"] == 1
    assert body["usage"]["cost"] == 0.000012  # 10 at 1 USD and 1 at 2 USD per million
    assert body["usage"]["cost_details"]["cost_micro"] == 960
    assert body["usage"]["cost_details"]["currency"] == "INR"


async def test_a_stream_keeps_openais_order(gateway):
    _, headers, text = await gateway.stream("hello", stream_options={"include_usage": True})
    assert headers["content-type"].startswith("text/event-stream")
    assert text.endswith("data: [DONE]\n\n")
    role, content, finish, usage = frames(text)
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert content["choices"][0]["delta"] == {"content": "Hello there"}
    assert content["choices"][0]["finish_reason"] is None
    assert finish["choices"][0]["delta"] == {}
    assert finish["choices"][0]["finish_reason"] == "stop"
    assert finish["turnwise"]["tier"] == "small"
    assert usage["choices"] == []
    assert usage["usage"]["cost"] == 0.000012


async def test_a_stream_has_no_usage_chunk_unless_asked(gateway):
    _, _, text = await gateway.stream("hello")
    assert all("usage" not in frame for frame in frames(text))


async def test_a_stream_and_a_whole_answer_cost_the_same(gateway):
    _, headers, _ = await gateway.stream("one")
    _, whole_headers, _ = await gateway.chat("two")
    streamed = await gateway.turn(headers["x-request-id"])
    whole = await gateway.turn(whole_headers["x-request-id"])
    assert streamed["cost_micro"] == whole["cost_micro"] == 960


async def test_parameters_reach_the_backend_unchanged(gateway):
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    await gateway.chat("x", tools=tools, stop=["a"], n=2, max_completion_tokens=7, seed=3)
    params = gateway.near.calls[0].params
    assert params["tools"] == tools
    assert (params["stop"], params["n"], params["seed"]) == (["a"], 2, 3)
    assert params["max_completion_tokens"] == 7


async def test_unknown_parameters_are_disclosed(gateway):
    _, headers, body = await gateway.chat("x", frobnicate=1)
    assert headers["x-turnwise-dropped-params"] == "frobnicate"
    assert body["turnwise"]["dropped_params"] == ["frobnicate"]


async def test_best_is_the_ceiling_and_a_name_pins_the_model(gateway):
    _, best, _ = await gateway.chat("x", model="auto:best")
    _, pinned, _ = await gateway.chat("y", model="local-small")
    assert best["x-turnwise-model"] == "strong"
    assert (pinned["x-turnwise-model"], pinned["x-turnwise-reason"]) == ("local-small", "pinned")


async def test_a_failure_before_the_first_token_falls_back(settings, redis):
    near = ScriptedBackend(BackendUnavailable("near", "refused"))
    async with running(settings, near) as gateway:
        status, headers, body = await gateway.chat("hello")
        turn = await gateway.turn(headers["x-request-id"])
    assert status == 200
    assert body["model"] == headers["x-turnwise-model"] == "strong"
    assert headers["x-turnwise-tier"] == "strong"
    assert body["turnwise"]["fallbacks"] == ["local-small"]
    assert [(a["model"], a["status"]) for a in turn["attempts"]] == [
        ("local-small", "failed"),
        ("strong", "complete"),
    ]


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (BackendUnavailable("b", "refused"), 503, "upstream_unavailable"),
        (BackendTimeout("b", "silent"), 504, "timeout"),
        (BackendRejected("b", "bad image", status=400, param="messages"), 400, "upstream_rejected"),
    ],
)
async def test_when_every_model_fails_the_status_says_how(settings, redis, failure, status, code):
    async with running(settings, ScriptedBackend(failure), ScriptedBackend(failure)) as gateway:
        got, headers, body = await gateway.chat("hello")
        turn = await gateway.turn(headers["x-request-id"])
    assert (got, body["error"]["code"]) == (status, code)
    assert headers["x-turnwise-policy"] == "default@0"
    assert turn["status"] == "failed"


async def test_a_stream_that_breaks_ends_with_an_error_frame_and_is_settled(settings, redis):
    near = ScriptedBackend(ReplyDelta(content="Half an"), BackendBroken("near", "cut"))
    async with running(settings, near) as gateway:
        status, headers, text = await gateway.stream("hello")
        turn = await gateway.turn(headers["x-request-id"])
    assert status == 200
    assert "[DONE]" not in text
    assert frames(text)[-1]["error"]["code"] == "upstream_unavailable"
    assert turn["status"] == "failed"
    assert turn["attempts"][0]["usage"]["is_estimated"]
    assert turn["attempts"][0]["cost_micro"] > 0


async def test_another_model_continues_a_broken_stream_that_it_repeats(settings, redis):
    near = ScriptedBackend(ReplyDelta(content="Hello the"), BackendBroken("near", "cut"))
    async with running(settings, near, ScriptedBackend(*text_reply("Hello", " there"))) as gateway:
        _, headers, text = await gateway.stream("hello")
        turn = await gateway.turn(headers["x-request-id"])
    sent = [f["choices"][0]["delta"].get("content") or "" for f in frames(text)]
    assert "".join(sent) == "Hello there"
    assert text.endswith("data: [DONE]\n\n")
    assert [a["status"] for a in turn["attempts"]] == ["failed", "complete"]
    assert turn["attempts"][0]["cost_micro"] > 0


async def test_a_broken_stream_starts_again_only_where_the_caller_allows_it(settings, redis):
    near = ScriptedBackend(ReplyDelta(content="Hullo"), BackendBroken("near", "cut"))
    async with running(settings, near, ScriptedBackend(*text_reply("Good day"))) as gateway:
        _, _, refused = await gateway.stream("hello")
        allow = {"x-turnwise-restart": "allow"}
        _, _, restarted = await gateway.stream("hello again", headers=allow)
    assert "error" in frames(refused)[-1]
    assert "event: turnwise.restart" in restarted
    after = restarted.split("event: turnwise.restart", 1)[1]
    assert "Good day" in after
    assert restarted.endswith("data: [DONE]\n\n")


async def test_an_end_that_never_comes_is_not_taken_for_one(settings, redis):
    async with running(settings, ScriptedBackend(ReplyDelta(content="Half"))) as gateway:
        _, _, text = await gateway.stream("hello")
    assert "[DONE]" not in text
    assert "error" in frames(text)[-1]


async def test_a_caller_who_leaves_stops_the_backend_and_still_settles(settings, redis):
    near = ScriptedBackend(ReplyDelta(content="one two three"), 30.0, *text_reply("x"))
    async with running(settings, near) as gateway:
        body = {
            "messages": [{"role": "user", "content": "x"}],
            "model": "auto:fast",
            "stream": True,
        }
        response = await gateway.client.post(
            gateway.url + "/v1/chat/completions", json=body, headers=gateway.auth()
        )
        await response.content.readuntil(b"three")
        response.close()
        request_id = response.headers["x-request-id"]

        async def is_settled():
            return (await gateway.turn(request_id))["status"] != "pending"

        await until(is_settled)
        turn = await gateway.turn(request_id)
        _, _, budget = await gateway.get("/v1/budget")
    assert near.n_aborted == 1
    assert turn["status"] == "cancelled"
    assert turn["attempts"][0]["usage"]["completion_tokens"] > 0
    assert budget["reserved_micro"] == 0


async def test_the_exact_cache_answers_the_same_request_for_free(gateway):
    await gateway.chat("what are your hours?")
    _, headers, body = await gateway.chat("what are your hours?")
    assert headers["x-turnwise-cache"] == "exact"
    assert body["choices"][0]["message"]["content"] == "Hello there"
    assert body["usage"]["cost"] == 0
    assert len(gateway.near.calls) == 1


async def test_the_cache_is_never_shared_between_tenants(gateway):
    await gateway.chat("what are your hours?")
    _, headers, _ = await gateway.chat("what are your hours?", key="other-key-0123456789")
    assert headers["x-turnwise-cache"] == "none"


async def test_the_cache_can_be_turned_off_per_request(gateway):
    await gateway.chat("x")
    _, headers, _ = await gateway.chat("x", headers={"x-turnwise-cache": "off"})
    assert headers["x-turnwise-cache"] == "none"


async def test_an_idempotent_retry_gets_the_first_answer(gateway):
    key = {"Idempotency-Key": "k1", "x-turnwise-cache": "off"}
    _, first_headers, first = await gateway.chat("hello", headers=key)
    status, headers, second = await gateway.chat("hello", headers=key)
    assert (status, second) == (200, first)
    assert headers["x-turnwise-model"] == first_headers["x-turnwise-model"]
    assert len(gateway.near.calls) == 1


async def test_an_idempotent_stream_is_replayed_whole(gateway):
    key = {"Idempotency-Key": "k2", "x-turnwise-cache": "off"}
    _, _, first = await gateway.stream("hello", headers=key)
    _, headers, second = await gateway.stream("hello", headers=key)
    assert second == first
    assert headers["content-type"].startswith("text/event-stream")
    assert len(gateway.near.calls) == 1


async def test_an_idempotency_key_with_another_body_is_refused(gateway):
    key = {"Idempotency-Key": "k3"}
    await gateway.chat("hello", headers=key)
    status, _, body = await gateway.chat("goodbye", headers=key)
    assert (status, body["error"]["code"]) == (422, "idempotency_key_mismatch")


async def test_an_idempotency_key_that_is_running_is_a_conflict(settings, redis):
    async with running(settings, ScriptedBackend(0.5, *text_reply("slow"))) as gateway:
        key = {"Idempotency-Key": "k4"}
        first = asyncio.ensure_future(gateway.chat("hello", headers=key))
        await asyncio.sleep(0.2)
        status, _, body = await gateway.chat("hello", headers=key)
        assert (await first)[0] == 200
    assert (status, body["error"]["code"]) == (409, "idempotency_in_progress")


async def test_a_failed_request_frees_its_idempotency_key(settings, redis):
    down = BackendUnavailable("b", "refused")
    near = ScriptedBackend(down)
    async with running(settings, near, ScriptedBackend(down)) as gateway:
        key = {"Idempotency-Key": "k5"}
        assert (await gateway.chat("hello", headers=key))[0] == 503
        near.script = text_reply("better")
        assert (await gateway.chat("hello", headers=key))[0] == 200


async def test_a_broken_turn_that_is_asked_again_with_its_key_stores_its_message_once(
    settings, redis
):
    down = BackendUnavailable("b", "refused")
    near = ScriptedBackend(down)
    async with running(settings, near, ScriptedBackend(down)) as gateway:
        name = {"Idempotency-Key": "k6", "x-turnwise-conversation-id": "c"}
        assert (await gateway.chat("hello", headers=name))[0] == 503
        near.script = text_reply("better")
        assert (await gateway.chat("hello", headers=name))[0] == 200
        _, _, page = await gateway.get("/v1/conversations/c/items?order=asc")
    assert [item["content"] for item in page["data"]] == ["hello", "better"]


async def test_a_key_whose_outcome_is_forgotten_names_another_request(gateway, redis):
    name = {"Idempotency-Key": "k7", "x-turnwise-conversation-id": "c"}
    await gateway.chat("hello", headers=name)
    for key in await redis.keys("*:idem:*"):
        if b":c:" not in key:
            await redis.delete(key)
    assert (await gateway.chat("goodbye", headers=name))[0] == 200
    _, _, page = await gateway.get("/v1/conversations/c/items?order=asc")
    texts = [item["content"] for item in page["data"]]
    assert texts == ["hello", "Hello there", "goodbye", "Hello there"]


async def test_several_choices_are_collected_apart(settings, redis):
    script = [
        ReplyDelta(index=0, content="a"),
        ReplyDelta(index=1, content="b"),
        ReplyDelta(index=0, finish_reason="stop"),
        ReplyDelta(index=1, finish_reason="length"),
        ReplyEnd(Usage(1, 2)),
    ]
    async with running(settings, ScriptedBackend(*script)) as gateway:
        _, _, body = await gateway.chat("x", n=2)
    got = [(c["message"]["content"], c["finish_reason"]) for c in body["choices"]]
    assert got == [("a", "stop"), ("b", "length")]
