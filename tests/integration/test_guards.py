"""What refuses and what degrades: keys, limits, budgets, bad input, a silent Redis."""

import asyncio
import io
import json
import os
import signal
from dataclasses import replace

import pytest
import uvicorn
from uvicorn.server import ServerState

from gateway.app import build_app
from gateway.http_protocol import HttpProtocol
from gateway.settings import RedisSettings
from gateway.state import embedded_redis
from tests.fakes import until
from tests.integration.conftest import running

POLICY = {
    "routing": {
        "tiers": {"small": ["local-small"], "strong": ["strong"]},
        "thresholds": {"strong": 0.55},
    }
}


async def put_policy(gateway, **sections):
    return await gateway.admin("PUT", "/admin/tenants/demo/policy", {**POLICY, **sections})


async def test_no_key_and_a_wrong_key_are_401(gateway):
    for auth in ({}, {"authorization": "Bearer wrong"}, {"x-api-key": "tw_00_nope"}):
        async with gateway.client.post(
            gateway.url + "/v1/chat/completions", json={}, headers=auth
        ) as response:
            body = await response.json()
            assert response.status == 401
            assert body["error"]["code"] == "invalid_api_key"
            assert response.headers["x-request-id"].startswith("req_")


async def test_a_key_without_the_scope_is_403(gateway):
    _, _, made = await gateway.admin(
        "POST", "/admin/tenants/demo/keys", {"name": "reader", "scopes": ["costs"]}
    )
    status, _, body = await gateway.chat("x", key=made["key"])
    assert (status, body["error"]["code"]) == (403, "insufficient_scope")


async def test_a_revoked_key_stops_working_at_once(gateway):
    _, _, made = await gateway.admin("POST", "/admin/tenants/demo/keys", {"name": "brief"})
    assert (await gateway.chat("x", key=made["key"]))[0] == 200
    await gateway.admin("DELETE", f"/admin/keys/{made['id']}")
    assert (await gateway.chat("x", key=made["key"]))[0] == 401


async def test_min_tier_needs_its_scope(gateway):
    status, _, body = await gateway.chat("x", headers={"x-turnwise-min-tier": "strong"})
    assert (status, body["error"]["code"]) == (403, "insufficient_scope")


async def test_requests_past_the_rate_are_429(gateway):
    await put_policy(gateway, limits={"requests_per_minute": 2})
    answers = [await gateway.chat(f"x{n}") for n in range(4)]
    status, headers, body = answers[-1]
    assert (status, body["error"]["code"]) == (429, "rate_limit_exceeded")
    assert body["error"]["type"] == "rate_limit_error"
    assert headers["x-ratelimit-limit-requests"] == "2"
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert 1 <= int(headers["retry-after"]) <= 60


async def test_tokens_past_the_rate_are_429(gateway):
    await put_policy(gateway, limits={"tokens_per_minute": 20})
    statuses = [(await gateway.chat(f"x{n}"))[0] for n in range(4)]
    assert statuses[0] == 200  # each turn counts 11 tokens when it is done
    assert statuses[-1] == 429


async def test_turns_past_the_concurrent_limit_are_429(gateway):
    await put_policy(gateway, limits={"concurrent": 2})
    gateway.near.script.insert(0, 0.3)
    answers = await asyncio.gather(*[gateway.chat(f"x{n}") for n in range(5)])
    assert sorted(status for status, _, _ in answers) == [200, 200, 429, 429, 429]
    assert (await gateway.chat("later"))[0] == 200


async def test_a_spent_budget_is_429_with_its_reset(gateway):
    await put_policy(gateway, budget={"limit": "0.000001 INR", "period": "month"})
    status, headers, body = await gateway.chat("x")
    assert (status, body["error"]["code"]) == (429, "budget_exceeded")
    assert body["error"]["type"] == "insufficient_quota"
    assert headers["x-should-retry"] == "false"
    assert int(headers["retry-after"]) > 0
    assert gateway.near.calls == []


async def test_concurrent_turns_never_pass_the_budget(gateway):
    gateway.near.script.insert(0, 0.2)
    # A turn may fall back to the strong model, so it holds about (12 x 10 + 64 x 20) millionths of
    # a dollar: 0.11 INR. Five fit at once, and the small model spends far less.
    await put_policy(gateway, budget={"limit": "0.6 INR", "period": "month"})
    asked = [gateway.chat(f"question {n}", max_completion_tokens=64) for n in range(40)]
    statuses = [status for status, _, _ in await asyncio.gather(*asked)]
    _, _, state = await gateway.get("/v1/budget")
    assert set(statuses) == {200, 429}
    assert state["settled_micro"] + state["reserved_micro"] <= state["limit_micro"]
    assert state["reserved_micro"] == 0


async def test_a_model_outside_the_boundary_is_refused(gateway):
    policy = {"routing": {**POLICY["routing"], "boundary": "on_premises"}}
    await gateway.admin("PUT", "/admin/tenants/demo/policy", policy)
    status, headers, body = await gateway.chat("x", model="strong")
    assert (status, body["error"]["code"]) == (400, "no_tier_allowed")
    assert headers["x-should-retry"] == "false"


async def test_a_prompt_larger_than_every_window_is_400(gateway):
    status, _, body = await gateway.chat("word " * 200_000)
    assert (status, body["error"]["code"]) == (400, "context_length_exceeded")


async def test_a_body_past_the_limit_is_413(gateway):
    async with gateway.client.post(
        gateway.url + "/v1/chat/completions",
        data=io.BytesIO(b" " * (21 * 1024 * 1024)),
        headers=gateway.auth(),
    ) as response:
        body = await response.json()
    assert (response.status, body["error"]["code"]) == (413, "request_too_large")


@pytest.mark.parametrize(
    ("path", "method", "body", "status"),
    [
        ("/v1/chat/completions", "POST", b"{", 400),
        ("/v1/chat/completions", "POST", b"[]", 400),
        (
            "/v1/chat/completions",
            "POST",
            b'{"messages":[{"role":"user","content":"\\ud800"}]}',
            400,
        ),
        ("/v1/chat/completions", "GET", b"", 405),
        ("/v1/conversations", "POST", b'{"nope":1}', 400),
        ("/v1/conversations", "POST", b"{", 400),
        ("/v1/conversations/none/items", "GET", b"", 404),
        ("/v1/conversations/none/items?limit=0", "GET", b"", 400),
        ("/v1/turns/req_none", "GET", b"", 404),
        ("/v1/costs?tz=Mars", "GET", b"", 400),
        ("/v1/costs?from=yesterday", "GET", b"", 400),
        ("/v1/costs?group_by=colour", "GET", b"", 400),
        ("/v1/route", "POST", b"{", 400),
        ("/v1/models/none", "GET", b"", 404),
        ("/nowhere", "GET", b"", 404),
    ],
)
async def test_every_bad_request_gets_the_contracts_error(gateway, path, method, body, status):
    headers = gateway.auth(content_type="application/json")
    async with gateway.client.request(
        method, gateway.url + path, data=body or None, headers=headers
    ) as response:
        answer = await response.json()
        assert response.status == status
        assert set(answer["error"]) == {"message", "type", "param", "code"}
        assert response.headers["x-request-id"].startswith("req_")


async def test_readiness_and_metrics(gateway):
    status, _, body = await gateway.get("/readyz")
    assert (status, body["status"]) == (200, "ready")
    await gateway.chat("x")
    async with gateway.client.get(gateway.url + "/metrics") as response:
        text = await response.text()
    assert "gen_ai_server_request_duration_seconds_bucket" in text
    assert 'turnwise_decisions_total{reason="auto_fast",tier="small"} 1.0' in text


@pytest.fixture
async def own_redis(settings, tmp_path):
    child, url = embedded_redis(tmp_path / "state")
    async with child:
        await child.wait_ready()
        yield child, replace(settings, redis=RedisSettings(url=url))


async def test_a_frozen_redis_blocks_turns_whose_policy_says_so(own_redis):
    child, settings = own_redis
    async with running(settings) as gateway:
        await gateway.chat("warm")
        os.kill(child.pid, signal.SIGSTOP)
        try:
            status, _, body = await gateway.chat("x")
        finally:
            os.kill(child.pid, signal.SIGCONT)
    assert (status, body["error"]["code"]) == (503, "ledger_unavailable")


async def test_a_frozen_redis_degrades_turns_whose_policy_allows_it(own_redis):
    child, settings = own_redis
    async with running(settings) as gateway:
        await put_policy(gateway, on_ledger_down="allow")
        await gateway.chat("warm")
        os.kill(child.pid, signal.SIGSTOP)
        try:
            status, headers, body = await gateway.chat(
                "x", headers={"x-turnwise-conversation-id": "c"}
            )
        finally:
            os.kill(child.pid, signal.SIGCONT)
    assert status == 200
    assert body["choices"][0]["message"]["content"] == "Hello there"
    assert {"ledger", "memory"} <= set(headers["x-turnwise-degraded"].split(","))


async def test_a_named_turn_while_redis_is_away_is_kept_and_stored_later(own_redis):
    child, settings = own_redis
    name = {"x-turnwise-conversation-id": "c"}
    async with running(settings) as gateway:
        await put_policy(gateway, on_ledger_down="allow")
        await gateway.chat("before", headers=name)
        os.kill(child.pid, signal.SIGSTOP)
        try:
            await gateway.chat("meanwhile", headers=name)
        finally:
            os.kill(child.pid, signal.SIGCONT)
        for _ in range(100):
            _, _, page = await gateway.get("/v1/conversations/c/items?order=asc")
            if len(page.get("data", ())) == 4:
                break
            await asyncio.sleep(0.1)
    assert [item["content"] for item in page["data"]] == [
        "before",
        "Hello there",
        "meanwhile",
        "Hello there",
    ]


class _Written(asyncio.Transport):
    """A transport that keeps each write apart."""

    def __init__(self):
        super().__init__()
        self.pieces = []

    def write(self, data):
        self.pieces.append(data)

    def is_closing(self):
        return False

    def pause_reading(self):
        pass

    def resume_reading(self):
        pass


async def test_the_head_and_the_body_of_an_answer_leave_as_one_piece(gateway):
    config = uvicorn.Config(build_app(gateway.services), lifespan="off", log_config=None)
    config.load()
    protocol = HttpProtocol(config=config, server_state=ServerState(), app_state={})
    written = _Written()
    protocol.connection_made(written)
    protocol.data_received(b"GET /livez HTTP/1.1\r\nhost: here\r\n\r\n")
    await until(lambda: bool(written.pieces))
    assert len(written.pieces) == 1
    head, _, body = written.pieces[0].partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert body


async def test_a_method_that_http_does_not_know_gets_the_contracts_error(gateway):
    config = uvicorn.Config(build_app(gateway.services), http=HttpProtocol, log_config=None)
    listening = await asyncio.get_running_loop().create_server(
        lambda: HttpProtocol(config, ServerState(), {}), "127.0.0.1", 0
    )
    async with listening:
        reader, writer = await asyncio.open_connection(*listening.sockets[0].getsockname())
        writer.write(b"BREW /v1/models HTTP/1.1\r\nhost: tea\r\n\r\n")
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
    assert head.startswith(b"HTTP/1.1 405 ")
    assert b"x-request-id: req_" in head
    assert json.loads(body)["error"]["code"] == "method_not_allowed"


async def test_numbers_that_json_lacks_are_refused_by_chat(gateway):
    for number in ("NaN", "-Infinity", "1e999"):
        async with gateway.client.post(
            gateway.url + "/v1/chat/completions",
            data=f'{{"messages": [{{"role": "user", "content": "x"}}], "other": {number}}}',
            headers=gateway.auth(),
        ) as response:
            body = await response.json()
            assert (response.status, body["error"]["code"]) == (400, "invalid_json")


async def test_an_output_limit_past_32_bits_is_refused(gateway):
    status, _, body = await gateway.chat("x", max_completion_tokens=2**63)
    assert (status, body["error"]["param"]) == (400, "max_completion_tokens")


async def test_conversations_keep_nothing_that_json_cannot_say(gateway):
    await gateway.post("/v1/conversations", {"id": "kept"})
    for value in ("NaN", "1e999", '"\\ud800"'):
        async with gateway.client.post(
            gateway.url + "/v1/conversations/kept/items",
            data=f'{{"items": [{{"role": "user", "content": "x", "metadata": {{"a": {value}}}}}]}}',
            headers={**gateway.auth(), "content-type": "application/json"},
        ) as response:
            assert response.status == 400, value
    assert (await gateway.get("/v1/conversations/kept/items"))[2]["data"] == []


async def test_a_body_that_is_no_text_is_invalid_json(gateway):
    async with gateway.client.post(
        gateway.url + "/v1/conversations",
        data=b"\xff",
        headers={**gateway.auth(), "content-type": "application/json"},
    ) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (400, "invalid_json")


async def test_the_end_of_the_calendar_is_bad_input(gateway):
    status, _, body = await gateway.get("/v1/costs?from=9999-12-31&to=9999-12-31")
    assert (status, body["error"]["code"]) == (400, "invalid_value")
    expiring = {"name": "late", "expires_at": "9999-12-31T23:59:59-14:00"}
    status, _, body = await gateway.admin("POST", "/admin/tenants/demo/keys", expiring)
    assert (status, body["error"]["param"]) == (400, "expires_at")


async def test_a_body_past_the_limit_is_413_on_every_route(gateway):
    async with gateway.client.post(
        gateway.url + "/v1/conversations",
        data=io.BytesIO(b" " * (21 * 1024 * 1024)),
        headers={**gateway.auth(), "content-type": "application/json"},
    ) as response:
        body = await response.json()
    assert (response.status, body["error"]["code"]) == (413, "request_too_large")


async def test_a_defect_of_ours_still_answers_in_the_contracts_shape(gateway, monkeypatch):
    async def defective(*_args, **_options):
        raise ZeroDivisionError

    monkeypatch.setattr(type(gateway.services.books), "costs", defective)
    status, headers, body = await gateway.get("/v1/costs")
    assert (status, body["error"]["code"]) == (500, "internal_error")
    assert headers["x-request-id"].startswith("req_")


async def test_answers_are_cached_on_the_server_named_for_it(settings, redis, tmp_path):
    child, url = embedded_redis(tmp_path / "cache")
    async with child:
        await child.wait_ready()
        named = replace(settings, redis=replace(settings.redis, cache_url=url))
        async with running(named) as gateway:
            await gateway.chat("hours?")
            _, headers, _ = await gateway.chat("hours?")
    assert headers["x-turnwise-cache"] == "exact"
    assert not [key for key in await redis.keys("*") if b":cache:" in key]
