"""What a turn costs, seen from every place that tells it."""

from __future__ import annotations

import asyncio
import csv
import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest

from gateway.app import utc_now
from gateway.backends.base import ReplyDelta
from gateway.errors import BackendBroken
from policies.catalog import DatedPrice, ModelCatalog, Price
from policies.usage import Usage
from tests.synthetic_books import fill

from .conftest import ScriptedBackend, running, text_reply

pytestmark = pytest.mark.usefixtures("redis")


async def exported(gateway, **query):
    names = "&".join(f"{name}={value}" for name, value in query.items())
    url = f"{gateway.url}/v1/costs/export?{names}"
    async with gateway.client.get(url, headers=gateway.auth()) as response:
        assert response.status == 200
        return list(csv.DictReader(io.StringIO(await response.text())))


async def test_savings_add_up_over_routing_cache_and_failures(settings):
    usage = Usage(input_tokens=1000, output_tokens=200)
    broken = ScriptedBackend(ReplyDelta(content="Hel"), BackendBroken("near", "It broke."))
    async with running(settings, broken, ScriptedBackend(*text_reply("Hello", usage=usage))) as g:
        await g.chat("one")  # the small model breaks after it was paid for, the strong one answers
        g.near.script = text_reply("Hello", usage=usage)
        await g.chat("two")
        await g.chat("two")  # from the cache
        status, _, saved = await g.get("/v1/savings")
        _, _, costs = await g.get("/v1/costs?group_by=kind")
    assert status == 200
    parts = {part["name"]: part["cost_micro"] for part in saved["parts"]}
    assert sum(parts.values()) == saved["baseline"]["cost_micro"] - saved["actual"]["cost_micro"]
    assert saved["actual"]["cost_micro"] == costs["total"]["cost_micro"]
    # The strong model asks 10 and 20 USD per million tokens, a dollar is 80 rupees.
    one = 80 * (1000 * 10 + 200 * 20)
    assert saved["baseline"] == {"name": "strong", "cost_micro": 3 * one}
    assert parts["cache"] == one
    assert parts["routing"] == one - 80 * (1000 * 1 + 200 * 2)
    assert parts["failed_attempts"] < 0


async def test_savings_against_the_cheap_model_can_be_negative(settings):
    usage = Usage(input_tokens=1000, output_tokens=200)
    async with running(settings, far=ScriptedBackend(*text_reply("Hi", usage=usage))) as gateway:
        await gateway.chat(model="strong")
        _, _, saved = await gateway.get("/v1/savings?baseline=cheap")
        assert saved["saved_micro"] == 80 * (1000 + 400) - 80 * (10_000 + 4000) < 0
        status, _, error = await gateway.get("/v1/savings?baseline=none")
    assert (status, error["error"]["param"]) == (400, "baseline")


async def test_api_csv_and_focus_tell_the_same_sum(settings):
    async with running(settings) as gateway:
        for number, tags in enumerate(("a,b", "=1+1", "")):
            await gateway.chat(f"q{number}", headers={"x-turnwise-tags": tags})
        _, _, costs = await gateway.get("/v1/costs")
        plain = await exported(gateway, group_by="model,end_user")
        focus = await exported(gateway, format="focus")
        tagged = await exported(gateway, group_by="tag")
    whole = costs["total"]["cost_micro"]
    assert whole > 0
    assert sum(int(row["cost_micro"]) for row in plain) == whole
    assert sum(Decimal(row["BilledCost"]) for row in focus) * 1_000_000 == whole
    assert {row["BillingCurrency"] for row in focus} == {"INR"}
    assert {row["tag"] for row in tagged} == {"a", "b", "'=1+1", ""}


async def test_an_export_comes_day_by_day_with_one_head_and_the_whole_sum(settings):
    async with running(settings) as gateway:
        fill(gateway.services.database, "demo", now=utc_now(), days=9, per_day=12)
        today = utc_now().astimezone(ZoneInfo("Asia/Kolkata")).date()
        span = f"from={today - timedelta(days=9)}&to={today}"
        _, _, costs = await gateway.get(f"/v1/costs?{span}&group_by=day,model,end_user")
        path = f"{gateway.url}/v1/costs/export?{span}&group_by=day,model,end_user"
        async with gateway.client.get(path, headers=gateway.auth()) as response:
            n_parts = response.headers["x-parts"]
            text = await response.text()
    rows = list(csv.DictReader(io.StringIO(text)))
    keys = ("day", "model", "end_user", "cost_micro")
    assert n_parts == "10"
    assert text.count("cost_micro") == 1
    assert [[row[key] for key in keys] for row in rows] == [
        [str(row[key]) for key in keys] for row in costs["rows"]
    ]


async def test_a_turn_costs_the_same_streamed_or_not(settings):
    usage = Usage(input_tokens=1200, output_tokens=80, cached_input_tokens=300)
    async with running(settings, ScriptedBackend(*text_reply("Hi", usage=usage))) as gateway:
        _, whole, _ = await gateway.chat("same", headers={"x-turnwise-cache": "off"})
        _, streamed, _ = await gateway.stream("same", headers={"x-turnwise-cache": "off"})
        turns = [await gateway.turn(each["x-request-id"]) for each in (whole, streamed)]
    assert turns[0]["cost_micro"] == turns[1]["cost_micro"] > 0
    assert turns[0]["usage"] == turns[1]["usage"]


@pytest.mark.parametrize("n_chunks", range(1, 7))
async def test_a_caller_gone_after_any_chunk_is_billed_what_was_delivered(settings, n_chunks):
    pieces = [f"word{number} " for number in range(6)]
    script = [step for piece in pieces for step in (ReplyDelta(content=piece), 0.05)]
    async with running(settings, ScriptedBackend(*script, *text_reply("end"))) as gateway:
        body = {
            "model": "auto:fast",
            "stream": True,
            "messages": [{"role": "user", "content": "hello"}],
        }
        request = gateway.client.post(
            f"{gateway.url}/v1/chat/completions", json=body, headers=gateway.auth()
        )
        async with request as response:
            seen = ""
            async for line in response.content:
                seen += line.decode()
                if seen.count("word") >= n_chunks:
                    break
            response.close()
        turn = await _ended(gateway, response.headers["x-request-id"])
        _, _, budget = await gateway.get("/v1/budget")
    (attempt,) = turn["attempts"]
    count = gateway.services.models["local-small"].count
    assert (turn["status"], attempt["status"]) == ("cancelled", "cancelled")
    assert attempt["usage"]["completion_tokens"] >= count("".join(pieces[:n_chunks]))
    assert attempt["cost_micro"] > 0
    assert budget["reserved_micro"] == 0


async def _ended(gateway, request_id):
    for _ in range(100):
        turn = await gateway.turn(request_id)
        if turn.get("status") not in (None, "pending"):
            return turn
        await asyncio.sleep(0.05)
    raise AssertionError(f"the turn never ended: {turn}")


async def test_the_budget_tells_its_days_and_where_it_leads(settings):
    async with running(settings) as gateway:
        await gateway.chat("hello")
        _, _, budget = await gateway.get("/v1/budget")
    assert budget["burn_down"][-1]["total_micro"] == budget["settled_micro"] > 0
    assert budget["forecast"]["expected_micro"] >= budget["settled_micro"]


async def test_an_answer_costs_the_price_of_its_day(settings):
    today = datetime.now(UTC).date()
    spec = settings.catalog["local-small"]
    dated = DatedPrice(today, None, Price(Decimal(5), None, None, Decimal(7)))
    catalog = ModelCatalog({**settings.catalog, spec.name: replace(spec, dated_prices=(dated,))})
    answer = ScriptedBackend(*text_reply("Hi", usage=Usage(1000, 100)))
    async with running(replace(settings, catalog=catalog), answer) as gateway:
        _, headers, _ = await gateway.chat()
        turn = await gateway.turn(headers["x-request-id"])
    assert turn["cost_micro"] == 80 * (5 * 1000 + 7 * 100)
