from __future__ import annotations

import pytest

from gateway.backends.base import Call, ReplyDelta, ReplyEnd
from gateway.backends.breaker import BackendBreaker, BreakingBackend
from gateway.errors import (
    BackendBroken,
    BackendError,
    BackendOverloaded,
    BackendRejected,
    BackendUnavailable,
)
from gateway.http_errors import http_error_of
from tests.fakes import FakeBackend

CALL = Call("m", (), {}, True, "req_1", "s", 1.0, 1.0, 1.0)
DOWN = BackendUnavailable("up", "down")


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def fake() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def backend(fake: FakeBackend, clock: Clock) -> BreakingBackend:
    return BreakingBackend(
        fake, BackendBreaker("up", max_failures=3, open_s=2.0, monotonic_s=clock)
    )


async def ask(backend: BreakingBackend) -> list[ReplyDelta | ReplyEnd]:
    return [event async for event in backend.stream(CALL)]


async def fail(backend: BreakingBackend, n_times: int) -> None:
    for _ in range(n_times):
        with pytest.raises(BackendError):
            await ask(backend)


async def test_events_pass_through(backend: BreakingBackend) -> None:
    assert len(await ask(backend)) == 3


async def test_failures_in_a_row_open_it_and_the_backend_is_left_alone(
    backend: BreakingBackend, fake: FakeBackend
) -> None:
    fake.script = [DOWN]
    await fail(backend, 5)
    assert len(fake.calls) == 3
    assert backend.breaker.state == "open"
    assert not backend.load().is_up


async def test_a_success_in_between_starts_the_count_again(
    backend: BreakingBackend, fake: FakeBackend
) -> None:
    good, fake.script = fake.script, [DOWN]
    await fail(backend, 2)
    fake.script = good
    await ask(backend)
    fake.script = [DOWN]
    await fail(backend, 2)
    assert backend.breaker.state == "closed"


async def test_one_trial_is_made_when_the_wait_is_over(
    backend: BreakingBackend, fake: FakeBackend, clock: Clock
) -> None:
    good, fake.script = fake.script, [DOWN]
    await fail(backend, 3)
    clock.now_s = 2.0
    fake.script = good
    trial = backend.stream(CALL)
    fake.script = [0.0, *good]  # type: ignore[list-item]
    breaker = backend.breaker
    assert breaker.state == "half_open"
    is_trial = breaker.enter()
    assert is_trial
    with pytest.raises(BackendUnavailable):
        breaker.enter()
    breaker.leave(is_trial=True)
    await trial.aclose()
    await ask(backend)
    assert breaker.state == "closed"


async def test_each_failed_trial_doubles_the_wait(
    backend: BreakingBackend, fake: FakeBackend, clock: Clock
) -> None:
    fake.script = [DOWN]
    await fail(backend, 3)
    clock.now_s = 2.0
    await fail(backend, 1)
    clock.now_s = 5.9
    assert backend.breaker.state == "open"
    clock.now_s = 6.0
    assert backend.breaker.state == "half_open"


async def test_overload_keeps_it_open_as_long_as_the_upstream_asked(
    backend: BreakingBackend, fake: FakeBackend, clock: Clock
) -> None:
    fake.script = [BackendOverloaded("up", "busy", retry_after_s=30)]
    await fail(backend, 3)
    clock.now_s = 29.0
    assert backend.breaker.state == "open"
    clock.now_s = 30.0
    assert backend.breaker.state == "half_open"


async def test_rejected_requests_say_nothing_about_health(
    backend: BreakingBackend, fake: FakeBackend
) -> None:
    fake.script = [BackendRejected("up", "bad", status=400)]
    await fail(backend, 9)
    assert backend.breaker.state == "closed"


async def test_answers_that_break_in_the_middle_count_as_failures(
    backend: BreakingBackend, fake: FakeBackend
) -> None:
    fake.script = [ReplyDelta(0, "Hel"), BackendBroken("up", "cut")]
    await fail(backend, 3)
    assert backend.breaker.state == "open"


async def test_a_caller_who_leaves_is_nobodys_failure(
    backend: BreakingBackend, fake: FakeBackend
) -> None:
    for _ in range(5):
        events = backend.stream(CALL)
        await anext(events)
        await events.aclose()
    assert fake.n_closed_early == 5
    assert backend.breaker.state == "closed"


async def test_an_open_breaker_says_when_it_may_be_tried_again(
    backend: BreakingBackend, fake: FakeBackend
) -> None:
    fake.script = [DOWN]
    await fail(backend, 3)
    with pytest.raises(BackendError) as refused:
        await ask(backend)
    assert http_error_of(refused.value).headers == {"retry-after": "2"}
