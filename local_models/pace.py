"""Pace: how many tokens a step may take for first tokens to come within their target.

Owns the target in force and the measured seconds of one row. Knows neither sequences nor pages.
"""

from __future__ import annotations

_LEAST_STEP = 32
# Of the target; the rest is for the prompt itself.
_STEP_SHARE = 0.25
_REMEMBERED_S = 60.0


class Pace:
    """Short steps where first tokens matter, long ones where nobody asked for that.

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

    def ran(self, row_s: float) -> None:
        """Take the time that each row of a step took."""
        self._row_s = self._row_s + 0.1 * (row_s - self._row_s) if self._row_s else row_s

    def target_s(self, now_s: float) -> float | None:
        """Return the target in force, None where there is none."""
        heard_s = self._heard_s if now_s < self._until_s else None
        known = [target for target in (heard_s, self._own_s) if target is not None]
        return min(known, default=None)

    def step_tokens(self, now_s: float) -> int:
        """Return the most tokens of the next step."""
        target_s = self.target_s(now_s)
        if target_s is None or not self._row_s:
            return self._most
        wanted = int(target_s * _STEP_SHARE / self._row_s)
        return min(max(_LEAST_STEP, wanted), self._most)
