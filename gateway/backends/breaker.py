"""BreakingBackend: stops asking a backend that keeps failing, and tries it again now and then."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Literal

from gateway.backends.base import Backend, Call, ReplyDelta, ReplyEnd
from gateway.errors import (
    BackendError,
    BackendOverloaded,
    BackendRejected,
    BackendUnavailable,
)
from gateway.health import State
from router.request import Load

BreakerState = Literal["closed", "open", "half_open"]
log = logging.getLogger("turnwise.backends")
_LONGEST_S = 60.0


class BackendBreaker:
    """Counts failures in a row; opens after some, then admits one trial at a time.

    Each trial that fails doubles the wait for the next, up to a minute. Overload opens it for as
    long as the upstream itself asked to be left alone.

    Args:
        name: the backend, for messages.
        max_failures: failures in a row that open it.
        open_s: the first wait before a trial, in seconds.
        monotonic_s: the clock.
    """

    def __init__(
        self,
        name: str,
        *,
        max_failures: int = 5,
        open_s: float = 2.0,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._max_failures = max_failures
        self._first_open_s = self._open_s = open_s
        self._monotonic_s = monotonic_s
        self._n_failures = 0
        self._open_until_s: float | None = None
        self._is_trying = False

    @property
    def state(self) -> BreakerState:
        """What the next call would meet."""
        if self._open_until_s is None:
            return "closed"
        is_due = self._monotonic_s() >= self._open_until_s and not self._is_trying
        return "half_open" if is_due else "open"

    @property
    def is_open(self) -> bool:
        """Whether the next call would be refused."""
        return self.state == "open"

    def enter(self) -> bool:
        """Return whether the call that begins now is the trial.

        Raises:
            BackendUnavailable: the breaker is open.
        """
        state = self.state
        if state == "open":
            wait_s = max(0.0, (self._open_until_s or 0.0) - self._monotonic_s())
            text = f"{self.name} keeps failing; it is tried again in {wait_s:.1f} s."
            raise BackendUnavailable(self.name, text, retry_after_s=wait_s)
        self._is_trying = state == "half_open"
        return self._is_trying

    def began(self) -> None:
        """Note that an answer has begun: the outage is over, unless the next call fails."""
        if self._open_until_s is not None:
            log.warning("%s answers again", self.name)
            self._open_until_s = None

    def worked(self) -> None:
        """Note a call that the backend answered to its end."""
        self.began()
        self._n_failures, self._open_s = 0, self._first_open_s

    def failed(self, error: BackendError, *, is_trial: bool) -> None:
        """Note a call that failed by the backend's fault."""
        asked_s = error.retry_after_s if isinstance(error, BackendOverloaded) else None
        self._n_failures += 1
        if is_trial:
            self._open_s = min(self._open_s * 2, _LONGEST_S)
        elif self._open_until_s is not None or self._n_failures < self._max_failures:
            return
        else:
            log.error("%s keeps failing and is left alone: %s", self.name, error)
        wait_s = max(self._open_s, min(asked_s or 0.0, _LONGEST_S))
        self._open_until_s = self._monotonic_s() + wait_s

    def leave(self, *, is_trial: bool) -> None:
        """Note that a call is over, whatever came of it."""
        if is_trial:
            self._is_trying = False


class BreakingBackend:
    """A backend behind a breaker; itself a backend.

    A rejected request is an answer, and a caller who leaves says nothing about the backend's
    health. An answer ends an outage with its first event, and the count of failures with its last.
    """

    def __init__(self, backend: Backend, breaker: BackendBreaker) -> None:
        self.backend = backend
        self.breaker = breaker

    async def close(self) -> None:
        """Close the backend."""
        await self.backend.close()

    async def health(self) -> State:
        """Return the backend's own state where it has one; an open breaker degrades."""
        own: Callable[[], Awaitable[State]] | None = getattr(self.backend, "health", None)
        state: State = "ready" if own is None else await own()
        return "degraded" if state == "ready" and self.breaker.is_open else state

    def load(self) -> Load:
        """Return the backend's load as it knows it; an open breaker means down."""
        if self.breaker.is_open:
            return Load(is_up=False)
        own: Callable[[], Load] | None = getattr(self.backend, "load", None)
        return Load() if own is None else own()

    async def stream(self, call: Call) -> AsyncGenerator[ReplyDelta | ReplyEnd, None]:
        """Yield the backend's events; see `Backend`."""
        breaker = self.breaker
        is_trial = breaker.enter()
        has_begun = False
        try:
            async with aclosing(self.backend.stream(call)) as events:
                async for event in events:
                    if isinstance(event, ReplyEnd):
                        breaker.worked()
                    elif not has_begun:
                        has_begun = True
                        breaker.began()
                    yield event
        except BackendRejected:
            breaker.worked()
            raise
        except BackendError as error:
            breaker.failed(error, is_trial=is_trial)
            raise
        finally:
            breaker.leave(is_trial=is_trial)
