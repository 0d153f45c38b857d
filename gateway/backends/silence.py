"""SilenceWatch: ends a streamed answer that has stopped coming."""

from __future__ import annotations

import asyncio

import aiohttp

from gateway.backends.base import Call


class SilenceWatch:
    """Closes a response that stays silent for too long, at the price of a clock reading per chunk.

    One timer, moved only when it fires: a timeout context around every read would cost more than
    the read itself. `expired_after_s` is how long the silence was, None until it was too long.
    """

    def __init__(self, response: aiohttp.ClientResponse, call: Call, started_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._response = response
        self._idle_s = call.idle_s
        self._end_s = started_s + call.total_s
        self._first_s = started_s + call.first_token_s
        self._heard_s = started_s
        self._is_waiting = False
        self._started_s = started_s
        self.has_begun = False
        self.expired_after_s: float | None = None
        self._timer = self._loop.call_at(
            min(self._first_s, self._end_s, self._loop.time() + call.idle_s), self._look
        )

    def waits(self) -> None:
        """Note that a read begins: from here the upstream's silence counts."""
        self._is_waiting = True
        self._heard_s = self._loop.time()

    def heard(self) -> None:
        """Note that something came; the time until the next read is the caller's own."""
        self._is_waiting = False

    def close(self) -> None:
        """Stop watching."""
        self._timer.cancel()

    def _look(self) -> None:
        now_s = self._loop.time()
        deadline_s = self._end_s
        if self._is_waiting:
            silent_s = self._heard_s + self._idle_s if self.has_begun else self._first_s
            deadline_s = min(deadline_s, silent_s)
        if now_s < deadline_s:
            self._timer = self._loop.call_at(min(deadline_s, now_s + self._idle_s), self._look)
            return
        since_s = self._heard_s if self.has_begun and deadline_s < self._end_s else self._started_s
        self.expired_after_s = round(deadline_s - since_s, 3)
        self._response.close()
