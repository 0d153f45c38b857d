from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web

from gateway.backends.base import Call, ReplyDelta, ReplyEnd
from gateway.backends.openai import OpenAIBackend, http_session
from gateway.backends.retry import Retry
from gateway.backends.retry_after import retry_after_s
from gateway.errors import (
    BackendBroken,
    BackendError,
    BackendOverloaded,
    BackendRejected,
    BackendTimeout,
    BackendUnavailable,
)
from policies.usage import Usage
from tests.fakes import (
    CHUNK,
    FakeUpstream,
    chunk,
    completion,
    event,
    fake_upstream,
    whole_stream,
)

CALL = Call(
    model="gpt",
    messages=({"role": "user", "content": "Hi"},),
    params={"temperature": 0.5},
    is_stream=True,
    request_id="req_1",
    scope="scope-of-tenant",
    first_token_s=20.0,
    idle_s=20.0,
    total_s=30.0,
)
WHOLE = replace(CALL, is_stream=False)


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with fake_upstream() as upstream:
        yield upstream


@pytest.fixture
async def backend(upstream: FakeUpstream) -> AsyncIterator[OpenAIBackend]:
    async with http_session(connect_s=1.0) as session:
        yield OpenAIBackend("up", upstream.base_url, session=session, api_key="sk-up")


async def events_of(backend: OpenAIBackend, call: Call = CALL) -> list[ReplyDelta | ReplyEnd]:
    return [each async for each in backend.stream(call)]


async def failure_of(backend: OpenAIBackend, call: Call = CALL) -> BackendError:
    with pytest.raises(BackendError) as caught:
        await events_of(backend, call)
    return caught.value


def answering(status: int, body: Any, **headers: str) -> web.Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return web.json_response(body, status=status, headers=names)


async def test_a_stream_becomes_deltas_and_an_end(
    backend: OpenAIBackend, upstream: FakeUpstream
) -> None:
    assert await events_of(backend) == [
        ReplyDelta(0, "Hel"),
        ReplyDelta(0, "lo"),
        ReplyDelta(0, finish_reason="stop"),
        ReplyEnd(Usage(7, 3), model="fake"),
    ]


async def test_a_whole_answer_is_one_delta_for_each_choice(
    backend: OpenAIBackend, upstream: FakeUpstream
) -> None:
    choices = [
        {"index": i, "message": {"content": f"{i}"}, "finish_reason": "length"} for i in (0, 1)
    ]
    upstream.answer = lambda body: completion(choices=choices, system_fingerprint="fp")
    assert await events_of(backend, WHOLE) == [
        ReplyDelta(0, "0", finish_reason="length"),
        ReplyDelta(1, "1", finish_reason="length"),
        ReplyEnd(Usage(7, 3), model="fake", system_fingerprint="fp"),
    ]


async def test_usage_is_always_asked_for_and_the_key_is_sent(
    backend: OpenAIBackend, upstream: FakeUpstream
) -> None:
    await events_of(backend, replace(CALL, params={"stream_options": {"include_usage": False}}))
    await events_of(backend, WHOLE)
    assert upstream.bodies == [
        {
            "model": "gpt",
            "messages": [{"role": "user", "content": "Hi"}],
            "stream": True,
            "stream_options": {"include_usage": True},
        },
        {"model": "gpt", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0.5},
    ]
    assert [headers["authorization"] for headers in upstream.headers] == ["Bearer sk-up"] * 2
    assert "x-turnwise-scope" not in upstream.headers[0]


async def test_only_our_own_engine_learns_the_scope(upstream: FakeUpstream) -> None:
    async with http_session() as session:
        backend = OpenAIBackend("up", upstream.base_url, session=session, sends_scope=True)
        await events_of(backend)
    assert upstream.headers[0]["x-turnwise-scope"] == "scope-of-tenant"


async def test_our_own_engine_learns_the_policys_target(upstream: FakeUpstream) -> None:
    async with http_session() as session:
        backend = OpenAIBackend("up", upstream.base_url, session=session, sends_scope=True)
        await events_of(backend, replace(CALL, target_ttft_ms=800))
    assert upstream.headers[0]["x-turnwise-target-ttft-ms"] == "800"


async def test_a_stream_survives_any_chunking_comments_and_crlf(
    backend: OpenAIBackend, upstream: FakeUpstream
) -> None:
    data = b": hello\r\n\r\nevent: x\r\n" + b"".join(whole_stream()).replace(b"\n", b"\r\n")
    for size in (1, 7, 1000):
        pieces = [data[i : i + size] for i in range(0, len(data), size)]
        upstream.answer = lambda body, pieces=pieces: pieces
        deltas = await events_of(backend)
        assert "".join(d.content or "" for d in deltas if isinstance(d, ReplyDelta)) == "Hello"


async def test_deltas_that_arrive_together_say_that_more_follows(
    backend: OpenAIBackend, upstream: FakeUpstream
) -> None:
    first, *rest = whole_stream(*[{"content": "x"}] * 4)
    upstream.answer = lambda body: [first + rest[0] + rest[1], b"".join(rest[2:])]
    upstream.pause_s = 0.05
    *deltas, _ = await events_of(backend)
    assert [d.has_more for d in deltas if isinstance(d, ReplyDelta)] == [
        *(True, False),
        *(True, True, False),
    ]


async def test_what_came_before_an_error_in_one_piece_is_not_lost(
    backend: OpenAIBackend, upstream: FakeUpstream
) -> None:
    head = b"".join(whole_stream()[:2])
    upstream.answer = lambda body: [head + event({"error": {"message": "died"}})]
    events = []
    with pytest.raises(BackendBroken):
        async for each in backend.stream(CALL):
            events.append(each)
    assert events == [ReplyDelta(0, "Hel")]


async def test_further_fields_of_a_delta_pass_through(
    backend: OpenAIBackend, upstream: FakeUpstream
) -> None:
    upstream.answer = lambda body: whole_stream({"reasoning_content": "hm", "content": None})
    first, *_ = await events_of(backend)
    assert first == ReplyDelta(0, None, {"reasoning_content": "hm"})


async def test_usage_keeps_cached_and_reasoning_tokens_busy_time_and_cost(
    backend: OpenAIBackend, upstream: FakeUpstream
) -> None:
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 50,
        "prompt_tokens_details": {"cached_tokens": 80},
        "completion_tokens_details": {"reasoning_tokens": 30},
        "busy_s": 0.25,
        "cost": 0.00012,
    }
    upstream.answer = lambda body: completion(usage=usage)
    *_, end = await events_of(backend, WHOLE)
    assert isinstance(end, ReplyEnd)
    assert end.usage == Usage(100, 50, cached_input_tokens=80, reasoning_tokens=30)
    assert (end.busy_s, end.provider_cost_usd) == (0.25, "0.00012")


async def test_usage_that_was_never_told_is_unknown(
    backend: OpenAIBackend, upstream: FakeUpstream
) -> None:
    upstream.answer = lambda body: [event(chunk({"content": "x"}, "stop")), event(b"[DONE]")]
    *_, end = await events_of(backend)
    assert end == ReplyEnd(None, model="fake")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, BackendRejected),
        (422, BackendRejected),
        (401, BackendUnavailable),
        (403, BackendUnavailable),
        (404, BackendUnavailable),
        (408, BackendUnavailable),
        (429, BackendOverloaded),
        (529, BackendOverloaded),
        (500, BackendUnavailable),
        (503, BackendUnavailable),
    ],
)
@pytest.mark.parametrize("call", [CALL, WHOLE])
async def test_a_status_says_whose_fault_it_was(
    backend: OpenAIBackend, upstream: FakeUpstream, status: int, kind: type[Exception], call: Call
) -> None:
    upstream.answer = lambda body: answering(status, {"error": {"message": "no"}})
    failure = await failure_of(backend, call)
    assert type(failure) is kind
    assert (failure.backend, failure.status) == ("up", status)


async def test_a_rejection_carries_the_upstreams_own_words(
    backend: OpenAIBackend, upstream: FakeUpstream
) -> None:
    error = {"message": "too hot", "param": "temperature", "code": "bad_value", "type": "x"}
    upstream.answer = lambda body: answering(400, {"error": error})
    failure = await failure_of(backend)
    assert isinstance(failure, BackendRejected)
    assert (str(failure), failure.param, failure.code) == ("too hot", "temperature", "bad_value")


async def test_what_an_upstream_says_about_our_key_stays_with_us(
    backend: OpenAIBackend, upstream: FakeUpstream
) -> None:
    error = {"message": "Incorrect API key provided: sk-up"}
    upstream.answer = lambda body: answering(401, {"error": error})
    assert "sk-up" not in str(await failure_of(backend))


async def test_overload_tells_how_long_to_wait(
    backend: OpenAIBackend, upstream: FakeUpstream
) -> None:
    upstream.answer = lambda body: answering(429, {"error": "busy"}, retry_after="7")
    failure = await failure_of(backend)
    assert isinstance(failure, BackendOverloaded)
    assert failure.retry_after_s == 7


def test_retry_after_is_seconds_milliseconds_or_a_date() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert retry_after_s({"retry-after": "1.5"}, now) == 1.5
    assert retry_after_s({"retry-after-ms": "1500", "retry-after": "9"}, now) == 1.5
    assert retry_after_s({"retry-after": "Thu, 01 Jan 2026 00:01:00 GMT"}, now) == 60
    assert retry_after_s({"retry-after": "soon"}, now) is None
    assert retry_after_s({}, now) is None


@pytest.mark.parametrize(
    "events",
    [
        whole_stream()[:-3],  # neither finish_reason nor [DONE]
        [*whole_stream()[:-3], event(b"[DONE]")],  # [DONE], but the choice never finished
        [event(b"[DONE]")],
        [],
    ],
)
async def test_a_stream_without_its_end_is_broken(
    backend: OpenAIBackend, upstream: FakeUpstream, events: list[bytes]
) -> None:
    upstream.answer = lambda body: events
    assert isinstance(await failure_of(backend), BackendBroken)


async def test_a_stream_that_finished_its_choices_may_lack_the_done_marker(
    backend: OpenAIBackend, upstream: FakeUpstream
) -> None:
    upstream.answer = lambda body: whole_stream()[:-1]
    *_, end = await events_of(backend)
    assert isinstance(end, ReplyEnd)


async def test_a_connection_cut_in_mid_stream_is_broken(
    backend: OpenAIBackend, upstream: FakeUpstream
) -> None:
    upstream.answer = lambda body: whole_stream()[:3]
    upstream.is_cut = True
    assert isinstance(await failure_of(backend), BackendBroken)


@pytest.mark.parametrize(("n_before", "kind"), [(0, BackendOverloaded), (3, BackendBroken)])
async def test_an_error_inside_a_stream_is_raised(
    backend: OpenAIBackend, upstream: FakeUpstream, n_before: int, kind: type[Exception]
) -> None:
    error = event({"error": {"message": "engine overloaded", "code": 429}})
    upstream.answer = lambda body: [*whole_stream()[:n_before], error]
    assert type(await failure_of(backend)) is kind


@pytest.mark.parametrize(
    "data", [b"data: {not json\n\n", b"data: 7\n\n", event({**CHUNK, "choices": [3]})]
)
async def test_nonsense_in_a_stream_is_broken(
    backend: OpenAIBackend, upstream: FakeUpstream, data: bytes
) -> None:
    upstream.answer = lambda body: [*whole_stream()[:2], data]
    assert isinstance(await failure_of(backend), BackendBroken)


@pytest.mark.parametrize("body", [{}, {"choices": []}, completion(choices=[{"index": 0}])])
async def test_nonsense_in_a_whole_answer_is_broken(
    backend: OpenAIBackend, upstream: FakeUpstream, body: dict[str, Any]
) -> None:
    upstream.answer = lambda _: body
    assert isinstance(await failure_of(backend, WHOLE), BackendBroken)


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with http_session() as session:
        backend = OpenAIBackend("up", f"http://127.0.0.1:{port}/v1", session=session)
        failure = await failure_of(backend)
    assert type(failure) is BackendUnavailable
    assert str(failure) == "up refuses connections."


async def test_silence_before_the_first_token_is_a_timeout(
    backend: OpenAIBackend, upstream: FakeUpstream
) -> None:
    async def never(body: Any) -> None:
        await asyncio.sleep(60)

    upstream.answer = never
    assert isinstance(await failure_of(backend, replace(CALL, first_token_s=0.05)), BackendTimeout)
    assert isinstance(await failure_of(backend, replace(WHOLE, total_s=0.05)), BackendTimeout)


@pytest.mark.parametrize("limits", [{"idle_s": 0.1}, {"total_s": 0.1}])
async def test_silence_in_mid_stream_and_a_stream_that_never_ends_are_timeouts(
    backend: OpenAIBackend, upstream: FakeUpstream, limits: dict[str, float]
) -> None:
    upstream.answer = lambda body: whole_stream(*[{"content": "x"}] * 9)
    upstream.pause_s = 30.0 if "idle_s" in limits else 0.05
    events = []
    with pytest.raises(BackendTimeout):
        async for each in backend.stream(replace(CALL, **limits)):
            events.append(each)
    assert not any(isinstance(each, ReplyEnd) for each in events)


async def test_a_slow_reader_is_not_the_upstreams_silence(
    backend: OpenAIBackend, upstream: FakeUpstream
) -> None:
    n_events = 0
    async for _ in backend.stream(replace(CALL, idle_s=0.1)):
        n_events += 1
        await asyncio.sleep(0.15)
    assert n_events == 4


async def test_closing_the_generator_aborts_the_upstream(
    backend: OpenAIBackend, upstream: FakeUpstream
) -> None:
    upstream.answer = lambda body: whole_stream(*[{"content": "x"}] * 1000)
    upstream.pause_s = 0.01
    async with aclosing(backend.stream(CALL)) as events:
        await anext(events)
    async with asyncio.timeout(10):
        await upstream.left.wait()


async def test_cancelling_the_reader_aborts_the_upstream(
    backend: OpenAIBackend, upstream: FakeUpstream
) -> None:
    upstream.answer = lambda body: whole_stream(*[{"content": "x"}] * 1000)
    upstream.pause_s = 0.01
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(events_of(backend))
        await upstream.asked.wait()
        reading.cancel()
    async with asyncio.timeout(10):
        await upstream.left.wait()


async def test_a_connection_is_used_again_after_a_whole_stream(
    backend: OpenAIBackend, upstream: FakeUpstream
) -> None:
    ports = set()
    for _ in range(3):
        await events_of(backend)
        connector = backend._session.connector
        assert connector is not None
        ports.add(len(connector._conns))
    assert ports == {1}


@pytest.fixture
def retried() -> list[str]:
    return []


@pytest.fixture
async def patient(upstream: FakeUpstream, retried: list[str]) -> AsyncIterator[OpenAIBackend]:
    retry = Retry(retried.append, draw=lambda: 0.01)
    async with http_session(connect_s=1.0) as session:
        yield OpenAIBackend("up", upstream.base_url, session=session, retry=retry)


@pytest.mark.parametrize("call", [CALL, WHOLE])
@pytest.mark.parametrize(
    ("status", "headers"),
    [(502, {}), (503, {}), (503, {"retry_after_ms": "5"}), (429, {"retry_after_ms": "5"})],
)
async def test_a_failure_that_may_pass_is_asked_again_once_and_counted(
    patient: OpenAIBackend,
    upstream: FakeUpstream,
    retried: list[str],
    call: Call,
    status: int,
    headers: dict[str, str],
) -> None:
    upstream.answer = lambda body: (
        answering(status, {"error": "not now"}, **headers) if len(upstream.bodies) == 1 else None
    )
    assert isinstance((await events_of(patient, call))[-1], ReplyEnd)
    assert (len(upstream.bodies), retried) == (2, ["up"])


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (400, {}),
        (401, {}),
        (500, {}),
        (504, {}),
        (429, {}),
        (429, {"retry_after": "7"}),
        (503, {"retry_after": "7"}),
    ],
)
async def test_a_failure_that_stays_or_takes_long_to_pass_is_not_asked_again(
    patient: OpenAIBackend,
    upstream: FakeUpstream,
    retried: list[str],
    status: int,
    headers: dict[str, str],
) -> None:
    upstream.answer = lambda body: answering(status, {"error": "no"}, **headers)
    await failure_of(patient)
    assert (len(upstream.bodies), retried) == (1, [])


async def test_a_second_failure_stands(
    patient: OpenAIBackend, upstream: FakeUpstream, retried: list[str]
) -> None:
    upstream.answer = lambda body: answering(503, {"error": "no"})
    assert (await failure_of(patient)).status == 503
    assert (len(upstream.bodies), retried) == (2, ["up"])


async def test_a_wait_past_the_deadline_is_not_begun(
    patient: OpenAIBackend, upstream: FakeUpstream, retried: list[str]
) -> None:
    upstream.answer = lambda body: answering(429, {"error": "busy"}, retry_after="1.9")
    failure = await failure_of(patient, replace(CALL, first_token_s=1.5))
    assert isinstance(failure, BackendOverloaded)
    assert retried == []


async def test_a_refused_connection_is_tried_again(retried: list[str]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with http_session() as session:
        retry = Retry(retried.append, draw=lambda: 0.01)
        url = f"http://127.0.0.1:{port}/v1"
        backend = OpenAIBackend("up", url, session=session, retry=retry)
        assert type(await failure_of(backend)) is BackendUnavailable
    assert retried == ["up"]


async def test_an_answer_that_broke_after_it_began_is_not_asked_again(
    patient: OpenAIBackend, upstream: FakeUpstream, retried: list[str]
) -> None:
    upstream.answer, upstream.is_cut = lambda body: [event(chunk({"content": "a"}))], True
    await failure_of(patient)
    assert (len(upstream.bodies), retried) == (1, [])
