"""Pace: how many tokens a step may take, so that no step is long.

Owns the target in force and the measured seconds of one prompt row. Knows neither sequences nor
pages.
"""

from __future__ import annotations

_LEAST_STEP = 16
# Whoever leaves, and whoever comes, waits for the step in progress: without a target it takes at
# most this, less than half of the 100 ms in which a cancelled reply must have stopped.
_LONGEST_STEP_S = 0.04
# Of the target; the rest is for the prompt itself.
_STEP_SHARE = 0.25
# Before any prompt was timed.
_FIRST_STEP = 32
_REMEMBERED_S = 60.0


class Pace:
    """Steps bounded by time: shorter ones where first tokens have a target.

    What a newcomer waits for first is the step in progress, so the tightest target heard in the
    last minute holds for all steps, not only for those of the request that named it.
    """

    def __init__(self, step_tokens: int, target_s: float | None) -> None:
        self._most = step_tokens
        self._own_s = target_s
        self._heard_s: float | None = None
        self._until_s = 0.0
        self._row_s = 0.0

    def hear(self, target_s: float | None, now_s: float) -> None:
        """Take the target of a request that came now."""
        if target_s is None:
            return
        if self._heard_s is None or now_s >= self._until_s or target_s <= self._heard_s:
            self._heard_s, self._until_s = target_s, now_s + _REMEMBERED_S

    def ran(self, n_rows: int, took_s: float) -> None:
        """Take the time of a step; one of few rows says little about what a prompt's rows take."""
        if n_rows < _LEAST_STEP:
            return
        row_s = took_s / n_rows
        self._row_s = self._row_s + 0.3 * (row_s - self._row_s) if self._row_s else row_s

    def target_s(self, now_s: float) -> float | None:
        """Return the target in force, None where there is none."""
        heard_s = self._heard_s if now_s < self._until_s else None
        known = [target for target in (heard_s, self._own_s) if target is not None]
        return min(known, default=None)

    def step_tokens(self, now_s: float) -> int:
        """Return the most tokens of the next step."""
        if not self._row_s:
            return min(_FIRST_STEP, self._most)
        target_s = self.target_s(now_s)
        longest_s = _LONGEST_STEP_S
        if target_s is not None:
            longest_s = min(longest_s, target_s * _STEP_SHARE)
        return min(max(_LEAST_STEP, int(longest_s / self._row_s)), self._most)
