"""Summaries by a model: only where the policy says so, charged to the tenant, checked."""

from dataclasses import replace

import pytest

from memory.keys import conversation_keys
from memory.records import decode_segment
from tests.fakes import until
from tests.integration.conftest import ScriptedBackend, running, text_reply

POLICY = """
routing: {{tiers: {{small: [local-small], strong: [strong]}}, thresholds: {{strong: 0.5}},
          boundary: {boundary}}}
memory: {{summary: {summary}, retention_days: 30}}
"""
FAITHFUL = "the user keeps many lockers and their codes"


async def summary_of(gateway, redis):
    """Return the first segment of a long conversation, once it is made."""
    items = [
        {"role": "user", "content": f"My locker {n} has the code {n}X{n}. {'It is quiet. ' * 9}"}
        for n in range(32)
    ]
    await gateway.post("/v1/conversations", {"id": "long"})
    await gateway.post("/v1/conversations/long/items", {"items": items})
    key = conversation_keys("demo", "long").segments
    await until(lambda: redis.hexists(key, "0-32"))
    return decode_segment(await redis.hget(key, "0-32"))


@pytest.fixture
def with_policy(settings, tmp_path):
    def change(summary, boundary="any"):
        folder = tmp_path / "policies"
        folder.mkdir(exist_ok=True)
        text = POLICY.format(summary=summary, boundary=boundary)
        (folder / "own.yaml").write_text(text, encoding="utf-8")
        tenants = {id: replace(each, policy="own") for id, each in settings.tenants.items()}
        return replace(settings, tenants=tenants, policy_dirs=(folder, *settings.policy_dirs))

    return change


async def test_a_model_writes_where_the_policy_says_so_and_the_tenant_pays(with_policy, redis):
    near = ScriptedBackend(*text_reply(FAITHFUL))
    async with running(with_policy("abstractive", "on_premises"), near) as gateway:
        assert await summary_of(gateway, redis) == FAITHFUL
        assert len(near.calls) == 1
        assert gateway.far.calls == []
        await gateway.services.books.catch_up("demo")
        _, _, costs = await gateway.get("/v1/costs?tz=UTC&group_by=kind")
        (row,) = costs["rows"]
        assert (row["kind"], row["requests"]) == ("summary", 0)
        assert row["cost_micro"] > 0


@pytest.mark.parametrize("answer", ["Rahul has locker 99.", "", "code " * 2000])
async def test_what_the_source_does_not_say_gives_way_to_quotations(with_policy, redis, answer):
    near = ScriptedBackend(*text_reply(answer))
    async with running(with_policy("abstractive"), near) as gateway:
        assert "My locker" in await summary_of(gateway, redis)
        assert len(near.calls) == 1


@pytest.mark.parametrize("summary", ["true", "extractive"])
async def test_no_model_is_asked_unless_the_policy_says_so(with_policy, redis, summary):
    async with running(with_policy(summary)) as gateway:
        assert "My locker" in await summary_of(gateway, redis)
        assert gateway.near.calls == gateway.far.calls == []


async def test_a_model_that_fails_gives_way_to_quotations(with_policy, redis):
    async with running(with_policy("abstractive"), ScriptedBackend(OSError("down"))) as gateway:
        assert "My locker" in await summary_of(gateway, redis)


async def test_a_summary_stays_inside_the_boundary_of_every_rule(with_policy, redis, tmp_path):
    """Whatever is said in the conversation: one of its turns may have been a case for the rule."""
    settings = with_policy("abstractive")
    text = (
        POLICY.format(summary="abstractive", boundary="any")
        .replace("small: [local-small], strong: [strong]", "small: [strong], strong: [local-small]")
        .replace("boundary: any}", "rules: [{when: {pii: true}, boundary: on_premises}]}")
    )
    (tmp_path / "policies" / "own.yaml").write_text(text, encoding="utf-8")
    near = ScriptedBackend(*text_reply(FAITHFUL))
    async with running(settings, near) as gateway:
        assert await summary_of(gateway, redis) == FAITHFUL
        assert len(near.calls) == 1
        assert gateway.far.calls == []
