"""A turn goes by the policy it began with, whatever is put on its way."""

from __future__ import annotations

import asyncio

import pytest

from gateway.backends.base import ReplyDelta
from gateway.errors import BackendUnavailable

from .conftest import ScriptedBackend, running, text_reply

pytestmark = pytest.mark.usefixtures("redis")
PATH = "/admin/tenants/demo/policy"


def policy(ceiling, **limits):
    return {
        "routing": {
            "tiers": {"small": ["local-small"], "strong": ["strong"]},
            "thresholds": {"strong": 0.5},
            "ceiling": ceiling,
        },
        "limits": limits,
    }


class Paused(ScriptedBackend):
    """Says when it was asked, and goes on with its script when it is let."""

    def __init__(self, *script):
        super().__init__(*script)
        self.asked = asyncio.Event()
        self.let_go = asyncio.Event()

    async def stream(self, call):
        self.asked.set()
        await self.let_go.wait()
        async for event in super().stream(call):
            yield event


async def test_a_stream_keeps_the_policy_it_began_with(settings):
    near = Paused(*text_reply("Hello", " there"))
    async with running(settings, near) as gateway:
        await gateway.admin("PUT", PATH, policy("strong"))
        streaming = asyncio.ensure_future(gateway.stream("hello"))
        await near.asked.wait()
        await gateway.admin("PUT", PATH, policy("small"))
        near.let_go.set()
        status, headers, _ = await streaming
        _, later, _ = await gateway.chat("later")
        turns = [await gateway.turn(each["x-request-id"]) for each in (headers, later)]
    assert status == 200
    assert headers["x-turnwise-policy"] == "default@1"
    assert later["x-turnwise-policy"] == "default@2"
    assert [turn["decision"]["policy"] for turn in turns] == ["default@1", "default@2"]


async def test_a_fallback_is_the_one_of_the_policy_that_the_turn_began_with(settings):
    near = Paused(BackendUnavailable("near", "It is down."))
    async with running(settings, near) as gateway:
        await gateway.admin("PUT", PATH, policy("strong"))
        asking = asyncio.ensure_future(gateway.chat("hello"))
        await near.asked.wait()
        await gateway.admin("PUT", PATH, policy("small"))  # from now on nobody may ask the strong
        near.let_go.set()
        status, headers, _ = await asking
        refused, _, _ = await gateway.chat("hello again")
    assert (status, headers["x-turnwise-model"], headers["x-turnwise-tier"]) == (
        200,
        "strong",
        "strong",
    )
    assert headers["x-turnwise-policy"] == "default@1"
    assert refused == 503  # the small one is down, and there is no other now
    assert len(gateway.far.calls) == 1


async def test_limits_and_routing_of_a_turn_are_of_one_version(settings):
    """Both are read in one step: a put between them must not mix two versions."""
    async with running(settings) as gateway:
        await gateway.admin("PUT", PATH, policy("strong", requests_per_minute=100))
        puts = [
            policy("small", requests_per_minute=200),
            policy("strong", requests_per_minute=100),
        ] * 10
        done = asyncio.Event()

        async def put_on():
            for each in puts:
                await gateway.admin("PUT", PATH, each)
            done.set()

        async def ask_on():
            seen = []
            while not done.is_set():
                _, headers, _ = await gateway.chat(
                    "hello", model="auto:best", headers={"x-turnwise-cache": "off"}
                )
                seen.append(headers)
            return seen

        _, *asked = await asyncio.gather(put_on(), *(ask_on() for _ in range(4)))
    found = set()
    for headers in (each for seen in asked for each in seen):
        version = int(headers["x-turnwise-policy"].partition("@")[2])
        found.add(version)
        is_odd = version % 2 == 1
        assert headers["x-turnwise-tier"] == ("strong" if is_odd else "small")
        assert headers["x-ratelimit-limit-requests"] == ("100" if is_odd else "200")
    assert len(found) > 2


@pytest.mark.parametrize("kind", ["delta", "whole"])
async def test_what_a_turn_was_charged_goes_by_the_budget_it_began_with(settings, kind):
    near = Paused(ReplyDelta(content="Hello"), *text_reply(" there"))
    async with running(settings, near) as gateway:
        await gateway.admin("PUT", PATH, {**policy("strong"), "budget": {"limit": "100 INR"}})
        asking = asyncio.ensure_future(
            gateway.stream("hello") if kind == "delta" else gateway.chat("hello")
        )
        await near.asked.wait()
        await gateway.admin("PUT", PATH, {**policy("strong"), "budget": {"limit": "9 USD"}})
        near.let_go.set()
        await asking
        _, _, dollars = await gateway.get("/v1/budget")
        await gateway.admin("PUT", PATH, {**policy("strong"), "budget": {"limit": "100 INR"}})
        _, _, rupees = await gateway.get("/v1/budget")
    assert (dollars["reserved_micro"], rupees["reserved_micro"]) == (0, 0)
    assert rupees["settled_micro"] > 0
    assert dollars["settled_micro"] == rupees["settled_micro"] // 80
