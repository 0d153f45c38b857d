"""The rules of a backend, kept by every implementation of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from gateway.backends.base import Backend, Call, ReplyDelta, ReplyEnd
from gateway.backends.litellm import LitellmBackend
from gateway.backends.openai import OpenAIBackend, http_session
from gateway.backends.simulated import SimulatedBackend
from gateway.settings import is_installed, keep_litellm_offline
from tests.fakes import FakeUpstream, fake_upstream, whole_stream

# litellm's own use of pydantic, outside our reach.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:litellm.*"),
    pytest.mark.filterwarnings("ignore:Item .* is using the `ReadOnly`:UserWarning"),
]

QUESTION: dict[str, Any] = {"role": "user", "content": "Where is my parcel?"}
TOOL = {
    "type": "function",
    "function": {
        "name": "find_parcel",
        "parameters": {
            "type": "object",
            "properties": {"number": {"type": "string"}},
            "required": ["number"],
        },
    },
}


def a_call(**changes: Any) -> Call:
    call = Call(
        model="fake",
        messages=(QUESTION,),
        params={},
        is_stream=True,
        request_id="req_1",
        scope="scope",
        first_token_s=20.0,
        idle_s=20.0,
        total_s=30.0,
    )
    return replace(call, **changes)


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with fake_upstream() as upstream:
        yield upstream


@pytest.fixture(params=["openai", "simulated", "litellm"])
async def backend(
    request: pytest.FixtureRequest, upstream: FakeUpstream
) -> AsyncIterator[tuple[str, Backend]]:
    kind: str = request.param
    if kind == "litellm" and not is_installed("litellm"):
        pytest.skip("litellm is not installed: pip install 'turnwise[providers]'")
    async with http_session() as session:
        made: dict[str, Callable[[], Backend]] = {
            "openai": lambda: OpenAIBackend("up", upstream.base_url, session=session),
            "simulated": lambda: SimulatedBackend("up", word_delay_s=0.0),
            "litellm": lambda: LitellmBackend(
                "up",
                api_key="none",
                base_url=upstream.base_url,
                keep_offline=keep_litellm_offline,
            ),
        }
        backend = made[kind]()
        try:
            yield kind, backend
        finally:
            await backend.close()


def model_of(kind: str) -> str:
    return "openai/fake" if kind == "litellm" else "fake"


async def events_of(backend: tuple[str, Backend], call: Call) -> list[ReplyDelta | ReplyEnd]:
    kind, it = backend
    return [event async for event in it.stream(replace(call, model=model_of(kind)))]


@pytest.mark.parametrize("is_stream", [True, False])
async def test_a_reply_is_deltas_and_then_exactly_one_end(
    backend: tuple[str, Backend], is_stream: bool
) -> None:
    *deltas, end = await events_of(backend, a_call(is_stream=is_stream))
    assert isinstance(end, ReplyEnd)
    assert deltas and all(isinstance(delta, ReplyDelta) for delta in deltas)


@pytest.mark.parametrize("is_stream", [True, False])
async def test_every_choice_has_text_and_one_finish_reason_last(
    backend: tuple[str, Backend], is_stream: bool
) -> None:
    *deltas, _ = await events_of(backend, a_call(is_stream=is_stream))
    assert [d.finish_reason for d in deltas if isinstance(d, ReplyDelta)][-1] == "stop"
    assert "".join(d.content or "" for d in deltas if isinstance(d, ReplyDelta)).strip()
    assert sum(1 for d in deltas if isinstance(d, ReplyDelta) and d.finish_reason) == 1


@pytest.mark.parametrize("is_stream", [True, False])
async def test_usage_is_told_at_the_end(backend: tuple[str, Backend], is_stream: bool) -> None:
    *_, end = await events_of(backend, a_call(is_stream=is_stream))
    assert isinstance(end, ReplyEnd)
    assert end.usage is not None
    assert end.usage.input_tokens > 0
    assert end.usage.output_tokens > 0


async def test_the_call_is_left_as_it_was(backend: tuple[str, Backend]) -> None:
    params = {"tools": [TOOL], "stop": ["END"], "stream_options": {"include_usage": False}}
    before = repr((params, QUESTION))
    await events_of(backend, a_call(params=params))
    assert repr((params, QUESTION)) == before


async def test_closing_after_the_first_delta_is_quiet(backend: tuple[str, Backend]) -> None:
    kind, it = backend
    async with aclosing(it.stream(a_call(model=model_of(kind)))) as events:
        async for _ in events:
            break


async def test_closing_twice_is_quiet(backend: tuple[str, Backend]) -> None:
    await backend[1].close()
    await backend[1].close()


async def test_a_required_tool_call_arrives_with_its_name_and_arguments(
    backend: tuple[str, Backend], upstream: FakeUpstream
) -> None:
    call = {"index": 0, "id": "call_1", "type": "function"}
    first = {**call, "function": {"name": "find_parcel", "arguments": ""}}
    rest = {"index": 0, "function": {"arguments": '{"number": "7"}'}}
    upstream.answer = lambda body: whole_stream({"tool_calls": [first]}, {"tool_calls": [rest]})
    params = {"tools": [TOOL], "tool_choice": "required"}
    *deltas, _ = await events_of(backend, a_call(params=params))
    pieces = [
        piece
        for delta in deltas
        if isinstance(delta, ReplyDelta)
        for piece in delta.fields.get("tool_calls", ())
    ]
    assert "".join(piece["function"].get("name") or "" for piece in pieces) == "find_parcel"
    assert '"number"' in "".join(piece["function"].get("arguments") or "" for piece in pieces)
