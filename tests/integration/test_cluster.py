"""The whole gateway over HTTP on a real Redis Cluster of three nodes: memory and money."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from redis import Redis

from gateway.settings import RedisSettings, Settings
from tests.integration.conftest import Gateway, running
from tests.redis_cluster import redis_cluster


@pytest.fixture
async def on_cluster(
    settings: Settings, tmp_path: Path
) -> AsyncIterator[tuple[Gateway, list[int]]]:
    with redis_cluster(tmp_path) as ports:
        named = RedisSettings(url=f"redis://127.0.0.1:{ports[1]}", is_cluster=True)
        async with running(replace(settings, redis=named)) as gateway:
            yield gateway, ports


@pytest.mark.slow
async def test_memory_and_money_work_on_a_cluster(
    on_cluster: tuple[Gateway, list[int]],
) -> None:
    gateway, ports = on_cluster

    async def talk(n: int) -> None:
        for key in (None, "other-key-0123456789"):
            for text in (f"first {n}", f"second {n}"):
                name = {"x-turnwise-conversation-id": f"talk-{n}"}
                status, headers, _ = await gateway.chat(text, key=key, headers=name)
                assert (status, headers.get("x-turnwise-degraded")) == (200, None)

    await asyncio.gather(*(talk(n) for n in range(12)))  # names enough to lie on every node
    assert all(Redis(port=port).dbsize() > 0 for port in ports)
    for n in range(12):
        _, _, page = await gateway.get(f"/v1/conversations/talk-{n}/items?order=asc")
        assert [item["seq"] for item in page["data"]] == [1, 2, 3, 4]
        assert page["data"][2]["content"] == f"second {n}"
    assert len(gateway.near.calls[-1].messages) > 1  # the second turn was asked with the first

    _, _, costs = await gateway.get("/v1/costs")
    _, _, budget = await gateway.get("/v1/budget")
    assert costs["total"]["requests"] == 24
    assert costs["total"]["cost_micro"] > 0
    assert budget["reserved_micro"] == 0
    status, _, ready = await gateway.get("/readyz")
    assert (status, ready["status"]) == (200, "ready")


@pytest.mark.slow
async def test_limits_budgets_caches_and_keys_of_idempotency_work_on_a_cluster(
    on_cluster: tuple[Gateway, list[int]],
) -> None:
    gateway, _ = on_cluster
    await gateway.chat("hours?")
    _, headers, _ = await gateway.chat("hours?")
    assert headers["x-turnwise-cache"] == "exact"
    once = {"Idempotency-Key": "k", "x-turnwise-cache": "off"}
    answers = [await gateway.chat("once", headers=once) for _ in range(2)]
    assert answers[0][2] == answers[1][2]
    assert len(gateway.near.calls) == 2
    policy = {
        "routing": {
            "tiers": {"small": ["local-small"], "strong": ["strong"]},
            "thresholds": {"strong": 0.55},
        },
        "limits": {"requests_per_minute": 5},
        "budget": {"limit": "0.6 INR", "period": "month"},
    }
    await gateway.admin("PUT", "/admin/tenants/demo/policy", policy)
    asked = [gateway.chat(f"question {n}", max_completion_tokens=64) for n in range(8)]
    assert {status for status, _, _ in await asyncio.gather(*asked)} == {200, 429}
    _, _, state = await gateway.get("/v1/budget")
    assert state["settled_micro"] + state["reserved_micro"] <= state["limit_micro"]
    _, _, gone = await gateway.admin("DELETE", "/admin/tenants/demo/end-users/nobody")
    assert "error" not in gone
