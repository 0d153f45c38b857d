"""Usage of every provider we know: answers as their servers give them, and the buckets of each."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web

from gateway.backends.base import Backend, Call, ReplyEnd
from gateway.backends.litellm import LitellmBackend
from gateway.backends.openai import OpenAIBackend, http_session
from gateway.backends.usage import usage_from_wire
from gateway.settings import is_installed, keep_litellm_offline
from policies.catalog import Price
from policies.usage import Rates, Usage, cost_of

# litellm's own use of pydantic, outside our reach.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:litellm.*"),
    pytest.mark.filterwarnings("ignore:Items? .* (is|are) using the `ReadOnly`:UserWarning"),
    pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning"),
]
FOLDER = Path(__file__).parent.parent / "data" / "usage"
GOLDEN = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(FOLDER.glob("*.json"))}
PRICE = Price(Decimal(3), Decimal("0.3"), Decimal("3.75"), Decimal(15))  # USD per million tokens
PRICE_OF = {
    "input": PRICE.input_usd_per_mtok,
    "cached_input": PRICE.cached_input_usd_per_mtok,
    "cache_write": PRICE.cache_write_usd_per_mtok,
    "output": PRICE.output_usd_per_mtok,
    "reasoning": PRICE.output_usd_per_mtok,
}
RATES = Rates({"INR": [(date(2026, 1, 1), Decimal(80))]})


def disjoint(usage: Usage) -> dict[str, int]:
    """Return counts of which no token is in two."""
    cached, written = usage.cached_input_tokens, usage.cache_write_tokens
    return {
        "input": usage.input_tokens - cached - written,
        "cached_input": cached,
        "cache_write": written,
        "output": usage.output_tokens - usage.reasoning_tokens,
        "reasoning": usage.reasoning_tokens,
    }


def events_of(stream: list[Any]) -> bytes:
    """Return the stream as its server frames it: Anthropic names its events."""
    lines = []
    for payload in stream:
        if isinstance(payload, str):
            lines.append(f"data: {payload}\n\n".encode())
            continue
        name = f"event: {payload['type']}\n" if "type" in payload else ""
        lines.append(name.encode() + b"data: " + orjson.dumps(payload) + b"\n\n")
    return b"".join(lines)


class Provider:
    """Answers every POST with one file's answer, whole or streamed as it is asked."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self._answer = answer

    async def handle(self, request: web.Request) -> web.Response:
        body = orjson.loads(await request.read())
        if not (body.get("stream") or "streamGenerateContent" in request.path):
            return web.json_response(self._answer["whole"])
        return web.Response(
            body=events_of(self._answer["stream"]), content_type="text/event-stream"
        )


@pytest.fixture(params=GOLDEN)
async def answer_and_backend(
    request: pytest.FixtureRequest,
) -> AsyncIterator[tuple[dict[str, Any], Backend]]:
    answer = GOLDEN[request.param]
    if answer["kind"] == "litellm" and not is_installed("litellm"):
        pytest.skip("litellm is not installed: pip install 'turnwise[providers]'")
    app = web.Application()
    app.router.add_post("/{path:.*}", Provider(answer).handle)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with http_session() as session:
            backend: Backend
            if answer["kind"] == "openai":
                backend = OpenAIBackend("up", f"{url}/v1", session=session)
            else:
                backend = LitellmBackend(
                    "up", api_key="none", base_url=url, keep_offline=keep_litellm_offline
                )
            yield answer, backend
            await backend.close()
    finally:
        await runner.cleanup()


async def end_of(backend: Backend, model: str, *, is_stream: bool) -> ReplyEnd:
    call = Call(
        model=model,
        messages=({"role": "user", "content": "Hi"},),
        params={},
        is_stream=is_stream,
        request_id="req_1",
        scope="s",
        first_token_s=30.0,
        idle_s=30.0,
        total_s=30.0,
    )
    events = [event async for event in backend.stream(call)]
    assert isinstance(events[-1], ReplyEnd)
    return events[-1]


async def test_every_provider_fills_the_same_disjoint_buckets_streamed_or_not(
    answer_and_backend: tuple[dict[str, Any], Backend],
) -> None:
    answer, backend = answer_and_backend
    ends = [
        await end_of(backend, answer["model"], is_stream=is_stream) for is_stream in (False, True)
    ]
    for end in ends:
        assert end.usage is not None
        assert disjoint(end.usage) == answer["disjoint_tokens"]
        assert not end.usage.is_estimated
    assert ends[0].provider_cost_usd == ends[1].provider_cost_usd


async def test_every_token_of_a_provider_is_priced_once_streamed_or_not(
    answer_and_backend: tuple[dict[str, Any], Backend],
) -> None:
    answer, backend = answer_and_backend
    by_hand = sum(
        (PRICE_OF[name] or 0) * count for name, count in answer["disjoint_tokens"].items()
    )
    for is_stream in (False, True):
        end = await end_of(backend, answer["model"], is_stream=is_stream)
        assert end.usage is not None
        cost = cost_of(
            end.usage, PRICE, currency="INR", rates=RATES, at=datetime(2026, 11, 25, tzinfo=UTC)
        )
        assert cost is not None
        # USD per million tokens are millionths of a dollar per token.
        assert (cost.usd_micro, cost.micro) == (round(by_hand), round(by_hand * 80))


@pytest.mark.parametrize(
    "wire",
    [
        None,
        {},
        {"prompt_tokens": 5},
        {"prompt_tokens": -1, "completion_tokens": 3},
        {"prompt_tokens": 1.5, "completion_tokens": 3},
        {"prompt_tokens": True, "completion_tokens": 3},
    ],
)
def test_usage_that_is_missing_or_makes_no_sense_is_unknown(wire: Any) -> None:
    assert usage_from_wire(wire) is None


def test_more_cached_tokens_than_input_are_mended_and_marked() -> None:
    wire = {
        "prompt_tokens": 10,
        "completion_tokens": 2,
        "prompt_tokens_details": {"cached_tokens": 30},
    }
    usage = usage_from_wire(wire)
    assert usage is not None
    assert (usage.input_tokens, usage.cached_input_tokens, usage.is_estimated) == (10, 10, True)


@pytest.mark.parametrize("details", [[], "many", 3])
def test_details_of_another_shape_are_ignored(details: Any) -> None:
    wire = {"prompt_tokens": 10, "completion_tokens": 2, "prompt_tokens_details": details}
    assert usage_from_wire(wire) == Usage(10, 2)
