"""What one turn may cost, and what a tenant may spend, whatever happens on the way."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.backends.base import ReplyDelta
from gateway.errors import BackendBroken, BackendUnavailable
from policies.usage import Usage
from tests.fakes import until

from .conftest import ScriptedBackend, running, text_reply

pytestmark = pytest.mark.usefixtures("redis")
# The small model asks 1 and 2 USD per million tokens, the strong one 10 and 20; a dollar is Rs 80.
ROUTING = """
routing: {tiers: {small: [local-small], strong: [strong]}, thresholds: {strong: 0.5}}
"""
LONG = "word " * 30


@pytest.fixture
def with_policy(settings, tmp_path):
    def change(text):
        folder = tmp_path / "policies"
        folder.mkdir(exist_ok=True)
        (folder / "own.yaml").write_text(ROUTING + text, encoding="utf-8")
        tenants = {"demo": replace(settings.tenants["demo"], policy="own")}
        return replace(settings, tenants=tenants, policy_dirs=(folder, *settings.policy_dirs))

    return change


async def test_an_answer_is_kept_short_enough_for_the_cap(with_policy):
    async with running(with_policy('limits: {max_cost: "1 INR"}')) as gateway:
        status, _, _ = await gateway.chat(model="strong")
        (call,) = gateway.far.calls
    assert status == 200
    # A rupee is 12,500 millionths of a dollar; a token of the answer costs twenty of them.
    assert 600 < call.params["max_completion_tokens"] < 625


async def test_the_cap_of_a_turn_is_shared_by_its_choices(with_policy):
    async with running(with_policy('limits: {max_cost: "1 INR"}')) as gateway:
        await gateway.chat(model="strong")
        await gateway.chat(model="strong", n=3)
        one, three = (call.params["max_completion_tokens"] for call in gateway.far.calls)
    assert three == one // 3


async def test_the_callers_own_cap_binds_where_it_is_lower(with_policy):
    async with running(with_policy('limits: {max_cost: "1 INR"}')) as gateway:
        for cap in ("0.0062", "1"):
            headers = {"x-turnwise-max-cost-usd": cap, "x-turnwise-cache": "off"}
            await gateway.chat(model="strong", headers=headers)
        low, high = (call.params["max_completion_tokens"] for call in gateway.far.calls)
    assert low <= 310 < 600 < high < 625


async def test_a_turn_that_no_model_can_answer_within_the_cap_is_refused(with_policy):
    async with running(with_policy('limits: {max_cost: "0.0001 INR"}')) as gateway:
        status, headers, body = await gateway.chat(LONG)
        _, _, budget = await gateway.get("/v1/budget")
    assert (status, body["error"]["code"]) == (400, "no_tier_allowed")
    assert headers["x-should-retry"] == "false"
    assert gateway.near.calls == gateway.far.calls == []
    assert budget["reserved_micro"] == 0


async def test_a_dear_tier_gives_way_to_one_within_the_cap(with_policy):
    async with running(with_policy('limits: {max_cost: "0.10 INR"}')) as gateway:
        status, headers, _ = await gateway.chat(model="auto:best", max_tokens=200)
    assert (status, headers["x-turnwise-tier"]) == (200, "small")


async def test_several_choices_are_held_for_before_they_are_asked_for(with_policy):
    policy = 'budget: {limit: "0.05 INR"}'
    async with running(with_policy(policy)) as gateway:
        options = {"model": "local-small", "max_tokens": 100, "headers": {}}
        assert (await gateway.chat(**options))[0] == 200  # a hundred tokens are 0.016 INR
        status, _, body = await gateway.chat(**options, n=4)
    assert (status, body["error"]["code"]) == (429, "budget_exceeded")
    assert len(gateway.near.calls) == 1


def broken(n_words):
    """Return a model that breaks after so many words, which are paid for."""
    pieces = [ReplyDelta(content=f"word{n} ") for n in range(n_words)]
    return ScriptedBackend(*pieces, BackendBroken("near", "It broke."))


async def test_a_fallback_that_would_pass_the_limit_with_what_the_first_cost_is_not_asked(
    with_policy,
):
    # A hundred tokens cost 2,000 millionths at the strong model, 0.16 INR, and the prompt a little.
    async with running(with_policy('budget: {limit: "0.17 INR"}'), broken(90)) as gateway:
        status, headers, body = await gateway.chat(model="auto:fast", max_tokens=100)
        turn = await gateway.turn(headers["x-request-id"])
        _, _, budget = await gateway.get("/v1/budget")
    assert (status, body["error"]["code"]) == (429, "budget_exceeded")
    assert gateway.far.calls == []
    (attempt,) = turn["attempts"]
    assert (turn["status"], attempt["status"], attempt["model"]) == (
        "failed",
        "failed",
        "local-small",
    )
    assert attempt["cost_micro"] == turn["cost_micro"] == budget["settled_micro"] > 0
    assert budget["reserved_micro"] == 0


async def test_a_fallback_that_fits_beside_what_the_first_cost_is_asked(with_policy):
    answer = ScriptedBackend(*text_reply("fine", usage=Usage(10, 100)))
    async with running(with_policy('budget: {limit: "1 INR"}'), broken(90), answer) as gateway:
        status, headers, _ = await gateway.chat(model="auto:fast", max_tokens=100)
        turn = await gateway.turn(headers["x-request-id"])
        _, _, budget = await gateway.get("/v1/budget")
    assert status == 200
    costs = [attempt["cost_micro"] for attempt in turn["attempts"]]
    assert costs[1] == 80 * (10 * 10 + 100 * 20)
    assert sum(costs) == turn["cost_micro"] == budget["settled_micro"]
    assert budget["reserved_micro"] == 0


async def test_a_fallback_after_a_failure_that_cost_nothing_needs_no_more_money(with_policy):
    down = ScriptedBackend(BackendUnavailable("near", "It is down."))
    async with running(with_policy('budget: {limit: "0.17 INR"}'), down) as gateway:
        status, headers, _ = await gateway.chat(model="auto:fast", max_tokens=100)
    assert (status, headers["x-turnwise-model"]) == (200, "strong")


async def test_all_attempts_of_a_turn_together_stay_within_its_cap(with_policy):
    policy = 'limits: {max_cost: "0.17 INR"}'
    async with running(with_policy(policy), broken(90)) as gateway:
        status, headers, body = await gateway.chat(model="auto:fast", max_tokens=100)
        turn = await gateway.turn(headers["x-request-id"])
    assert (status, body["error"]["code"]) == (400, "no_tier_allowed")
    assert gateway.far.calls == []
    assert turn["cost_micro"] > 0


@pytest.mark.parametrize("amount", ["5", "-1 INR", "5 rupees", "99999999999 INR"])
async def test_a_cap_that_is_no_amount_is_refused_with_its_place(settings, amount):
    async with running(settings) as gateway:
        auth = {"authorization": "Bearer an-admin-key-for-tests"}
        url = f"{gateway.url}/admin/tenants/demo/policy"
        text = ROUTING + f'limits: {{max_cost: "{amount}"}}'
        async with gateway.client.put(url, data=text, headers=auth) as response:
            status, body = response.status, await response.json()
    assert (status, body["error"]["code"]) == (400, "invalid_policy")
    assert ":3: limits.max_cost:" in body["error"]["message"]


async def test_a_step_of_the_ladder_is_told_by_the_budget_and_its_ceiling_holds(with_policy):
    ladder = "[{at: 0.5, ceiling: small}, {at: 1.0, action: refuse}]"
    policy = with_policy(f'budget: {{limit: "1 INR", ladder: {ladder}}}')
    answer = ScriptedBackend(*text_reply("Hi", usage=Usage(100, 400)))  # 0.72 INR
    async with running(policy, far=answer) as gateway:
        await gateway.chat(model="auto:best", max_tokens=400)
        _, headers, _ = await gateway.chat("and now?", model="auto:best", max_tokens=10)

        async def alerts():
            return (await gateway.get("/v1/budget"))[2]["alerts"]

        await until(alerts)
        (alert,) = await alerts()
    assert headers["x-turnwise-tier"] == "small"
    assert (alert["at"], alert["action"]) == (0.5, "ceiling:small")
    assert alert["settled_micro"] >= 720_000


@pytest.mark.parametrize(("overshoot", "is_short"), [("1 INR", True), ("0 INR", False)])
async def test_answers_are_kept_to_a_usual_length_where_room_for_the_longest_is_scarce(
    with_policy, overshoot, is_short
):
    policy = f'budget: {{limit: "20 INR", overshoot: "{overshoot}"}}\ncache: {{exact: true}}'
    async with running(with_policy(policy)) as gateway:
        gateway.near.script = text_reply("Hi", usage=Usage(10, 7))
        for number in range(21):
            await gateway.chat(f"question {number}")
        _, first, _ = await gateway.chat("another")
        _, again, _ = await gateway.chat("another")
        await gateway.chat("asked for", max_tokens=500)
        await gateway.chat("of two", n=2)
        lengths = [call.params["max_completion_tokens"] for call in gateway.near.calls]
    assert lengths[0] == 1024  # nothing is known yet: half of the window
    assert lengths[21] == (14 if is_short else 1024)  # twice the longest
    assert first.get("x-turnwise-degraded") == ("length" if is_short else None)
    # An answer that was kept short is not given again: the next one may have room.
    assert again["x-turnwise-cache"] == ("none" if is_short else "exact")
    assert lengths[-2:] == [500, 14 if is_short else 1024]


async def test_answers_keep_their_length_while_there_is_room(with_policy):
    policy = 'budget: {limit: "5000 INR", overshoot: "1 INR"}'
    async with running(with_policy(policy)) as gateway:
        for number in range(23):
            await gateway.chat(f"question {number}")
        assert gateway.near.calls[-1].params["max_completion_tokens"] == 1024
