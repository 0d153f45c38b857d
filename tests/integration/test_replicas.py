"""Two gateways on one Redis and one database: a change of one is the other's too."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from .conftest import ADMIN_KEY, running

pytestmark = pytest.mark.usefixtures("redis")
POLICY = """
routing:
  tiers: {small: [local-small], strong: [strong]}
  thresholds: {strong: 0.5}
  ceiling: %s
"""
PATH = "/admin/tenants/demo/policy"


@contextlib.asynccontextmanager
async def two_gateways(settings):
    async with running(settings) as one, running(settings) as two:
        for gateway in (one, two):
            await gateway.services.replicas.poll()
        yield one, two


async def put(gateway, text, path=PATH, **headers):
    auth = {"authorization": f"Bearer {ADMIN_KEY}", **headers}
    async with gateway.client.put(gateway.url + path, data=text, headers=auth) as response:
        return response.status, await response.json()


async def test_a_policy_is_live_on_every_replica_when_the_put_that_waits_returns(settings):
    async with two_gateways(settings) as (one, two):
        status, body = await put(one, POLICY % "small", f"{PATH}?wait=live")
        names = {one.services.replicas.name, two.services.replicas.name}
        assert (status, set(body["live_on"]), body["behind"]) == (200, names, [])
        _, headers, _ = await two.chat(model="auto:best")
    assert headers["x-turnwise-tier"] == "small"
    assert headers["x-turnwise-policy"] == "default@1"


async def test_a_process_is_waited_for_from_the_moment_it_serves(settings, monkeypatch):
    monkeypatch.setattr("gateway.app.POLL_S", 60.0)
    async with running(settings) as one, running(settings) as two:
        following = await one.services.replicas.following()
    known = {*following.live_on, *following.behind}
    assert known == {one.services.replicas.name, two.services.replicas.name}


async def test_a_revoked_key_is_refused_by_the_other_replica_once_all_follow(settings):
    async with two_gateways(settings) as (one, two):
        made = (await one.admin("POST", "/admin/tenants/demo/keys", {"name": "app"}))[2]
        assert (await two.get("/v1/models", key=made["key"]))[0] == 200
        assert (await one.admin("DELETE", f"/admin/keys/{made['id']}"))[0] == 200
        assert (await one.services.replicas.wait_live()).behind == ()
        assert (await two.get("/v1/models", key=made["key"]))[0] == 401


async def test_of_two_administrators_who_read_the_same_version_one_is_told(settings):
    async with two_gateways(settings) as (one, two):
        etag = (await one.admin("GET", PATH))[1]["etag"]
        answers = await asyncio.gather(
            *(put(gateway, POLICY % "strong", **{"if-match": etag}) for gateway in (one, two) * 5)
        )
        assert sorted(status for status, _ in answers) == [200] + [412] * 9
        _, _, versions = await two.admin("GET", f"{PATH}/versions")
    assert len(versions["data"]) == 1


async def test_what_changed_between_two_versions_is_told_field_by_field(settings):
    async with running(settings) as gateway:
        await put(gateway, POLICY % "small")
        await put(gateway, POLICY % "strong")
        _, _, found = await gateway.admin("GET", f"{PATH}/diff?from=1&to=2")
    assert found["data"] == [{"field": "routing.ceiling", "before": "small", "after": "strong"}]


async def test_an_override_in_the_past_is_refused(settings):
    async with running(settings) as gateway:
        status, body = await put(gateway, POLICY % "small", f"{PATH}?until=2020-01-01T00:00:00Z")
    assert (status, body["error"]["param"]) == (400, "until")


async def test_a_proposed_policy_is_replayed_over_recorded_turns(settings):
    async with running(settings) as gateway:
        for number in range(3):
            await gateway.chat(f"question {number}", model="auto:best")
        await gateway.chat("hello", model="auto:fast")
        auth = {"authorization": f"Bearer {ADMIN_KEY}"}
        url = f"{gateway.url}{PATH}/replay"
        async with gateway.client.post(url, data=POLICY % "small", headers=auth) as response:
            status, found = response.status, await response.json()
        _, _, live = await gateway.admin("GET", PATH)
    assert status == 200, found
    assert (found["n_turns"], found["n_changed"], found["n_skipped"]) == (4, 3, 0)
    assert found["tiers_before"] == {"small": 1, "strong": 3}
    assert found["tiers_after"] == {"small": 4}
    # Ten input tokens and one output token each: a tenth of the price at the small model.
    one = 80 * (10 * 10 + 1 * 20)
    assert found["cost_before_micro"] == 3 * one + one // 10
    assert found["cost_after_micro"] == 4 * one // 10
    assert live["version"] == 0
