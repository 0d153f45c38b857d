"""Retry: whether a request that failed before its first byte is worth sending once more, and when.

Once more and no third time: behind it stand the turn's other models, and a breaker that counts.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp

from gateway.errors import BackendError, BackendOverloaded, BackendUnavailable

_LONGEST_ASKED_S = (
    2.0  # an upstream that asks for more time is left alone, others may answer sooner
)
_JITTER_S = 0.25
_PASSING = (502, 503)
# Their cause does not pass by itself.
_LASTING = (aiohttp.ClientConnectorDNSError, aiohttp.ClientSSLError)


@dataclass(frozen=True, slots=True)
class Retry:
    """When an upstream is asked again.

    Only what it has not begun to work on: a connection that was refused, or a status that says so.
    Waits are spread at random, so that callers who failed together do not come back together.
    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.

    Args:
        on_retry: told the name of a backend that is asked again.
        draw: a random number in [0, 1).
    """

    on_retry: Callable[[str], None]
    draw: Callable[[], float] = random.random

    def pause_s(self, error: Exception, left_s: float) -> float | None:
        """Return how long to wait before the second request, None where none is worth it.

        Args:
            error: what became of the first, a BackendError or aiohttp's own.
            left_s: the time in which an answer must begin.
        """
        asked_s = error.retry_after_s if isinstance(error, BackendError) else None
        match error:
            case BackendOverloaded():
                may_pass = asked_s is not None and asked_s <= _LONGEST_ASKED_S
            case BackendUnavailable():
                may_pass = error.status in _PASSING
            case _:
                is_refused = isinstance(error, aiohttp.ClientConnectorError)
                may_pass = is_refused and not isinstance(error, _LASTING)
        pause_s = (asked_s or 0.0) + self.draw() * _JITTER_S
        return pause_s if may_pass and pause_s < left_s else None
