"""EngineStats: counters and rolling windows of one engine; readable from any thread.

Owns the numbers behind /stats and /metrics. Knows sequences and work, not text.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from local_models.sequence import Sequence

if TYPE_CHECKING:
    from local_models.scheduler import Scheduler, Work

_WINDOW_S = 30.0
_PREFILL_WINDOW_S = 10.0
_KEPT = 2048


def percentile(values: Iterable[float], share: float) -> float | None:
    """Return the value below which that share lies (nearest rank), None of nothing."""
    ordered = sorted(values)
    if not ordered:
        return None
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class EngineStats:
    """Written by the engine's thread; readers see values at most one step old."""

    def __init__(self, clock_s: Callable[[], float]) -> None:
        self._clock_s = clock_s
        self.started_s = clock_s()
        self.busy_s = 0.0
        self.n_steps = 0
        self.prompt_tokens = 0
        self.reused_tokens = 0
        self.reply_tokens = 0
        self.drafted_tokens = 0
        self.accepted_tokens = 0
        self.finished: dict[str, int] = {}
        self.ttft_s: deque[float] = deque(maxlen=_KEPT)
        self.inter_token_s: deque[float] = deque(maxlen=_KEPT)
        self.histograms = {
            "ttft": Histogram((0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)),
            "inter_token": Histogram((0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)),
        }
        self._prefills: deque[tuple[float, float]] = deque(maxlen=256)
        self._steps: deque[tuple[float, float, int, int]] = deque(maxlen=_KEPT)

    def chose(self, sequence: Sequence, n_tokens: int, now_s: float) -> None:
        """Count tokens that a sequence gained just now."""
        self.reply_tokens += n_tokens
        if sequence.first_token_s is None:
            sequence.first_token_s = now_s
            self.reused_tokens += sequence.n_reused
            self.ttft_s.append(now_s - sequence.arrived_s)
            self.histograms["ttft"].add(now_s - sequence.arrived_s)
            if sequence.admitted_s is not None:
                self._prefills.append((now_s, now_s - sequence.admitted_s))
        elif sequence.last_token_s is not None:
            gap_s = (now_s - sequence.last_token_s) / n_tokens
            self.inter_token_s.append(gap_s)
            self.histograms["inter_token"].add(gap_s)
        sequence.last_token_s = now_s

    def ended(self, sequence: Sequence) -> None:
        """Count a terminal event."""
        reason = str(sequence.finish)
        self.finished[reason] = self.finished.get(reason, 0) + 1
        self.drafted_tokens += sequence.n_drafted
        self.accepted_tokens += sequence.n_accepted

    def stepped(self, work: list[Work], took_s: float) -> None:
        """Count one step of the model."""
        self.n_steps += 1
        self.busy_s += took_s
        n_prompt = sum(w.n_tokens for w in work if w.n_tokens > 1)
        n_reply = sum(1 for w in work if w.samples)
        self.prompt_tokens += n_prompt
        self._steps.append((self._clock_s(), took_s, n_prompt, n_reply))

    def rates(self) -> tuple[float, float]:
        """Return prompt tokens and reply tokens per busy second, over the last half minute."""
        since = self._clock_s() - _WINDOW_S
        recent = [step for step in list(self._steps) if step[0] >= since] or list(self._steps)[-64:]
        busy = sum(step[1] for step in recent)
        if not busy:
            return 0.0, 0.0
        return sum(s[2] for s in recent) / busy, sum(s[3] for s in recent) / busy

    def predicted_wait_s(self, scheduler: Scheduler) -> float:
        """Return how long a request that comes now will wait for its first step, in seconds.

        With a slot free that is the step in progress; else the time in which enough running
        sequences end, if they go on at the present rate for half of what they may still take.
        """
        recent = list(self._steps)[-16:]
        step_s = sum(s[1] for s in recent) / len(recent) if recent else 0.0
        running, n_waiting = list(scheduler.running), scheduler.n_waiting
        if not n_waiting and len(running) < scheduler.config.max_running:
            return step_s if running else 0.0
        left = sorted((s.max_tokens - len(s.tokens)) / 2 for s in running)
        if not left:
            return step_s
        rounds, at = divmod(n_waiting, len(left))
        return step_s * (left[at] + rounds * (sum(left) / len(left)) + 1)

    def predicted_ttft_s(self, scheduler: Scheduler) -> float:
        """Return how long a request that comes now will wait for its first token, in seconds.

        The wait for its first step, and from there what others needed in the last few seconds.
        Older figures are left out: a busy hour must not keep turns away from an idle engine.
        """
        since = self._clock_s() - _PREFILL_WINDOW_S
        recent = [took_s for at_s, took_s in list(self._prefills) if at_s >= since]
        return self.predicted_wait_s(scheduler) + (percentile(recent, 0.5) or 0.0)

    def snapshot(self, scheduler: Scheduler) -> dict[str, Any]:
        """Return the figures of GET /stats."""
        pool = scheduler.pool
        prompt_rate, reply_rate = self.rates()
        now = self._clock_s()
        since = now - _WINDOW_S
        recent = [step for step in list(self._steps) if step[0] >= since]
        return {
            "queue": scheduler.n_waiting,
            "running": len(scheduler.running),
            "max_running": scheduler.config.max_running,
            "predicted_wait_s": round(self.predicted_wait_s(scheduler), 4),
            "predicted_ttft_s": round(self.predicted_ttft_s(scheduler), 4),
            "step_tokens": scheduler.step_tokens,
            "tokens_per_s": round(reply_rate, 2),
            "prompt_tokens_per_s": round(prompt_rate, 2),
            "busy_share": round(min(1.0, sum(s[1] for s in recent) / _WINDOW_S), 4),
            "pages": {
                "total": pool.n_pages,
                "free": pool.n_free,
                "cached": pool.n_idle,
                "used": pool.n_held,
                "page_tokens": pool.page_tokens,
            },
            "ttft_s": _percentiles(self.ttft_s),
            "inter_token_s": _percentiles(self.inter_token_s),
            "preemptions": scheduler.n_preemptions,
            "prompt_tokens": self.prompt_tokens,
            "reused_tokens": self.reused_tokens,
            "reply_tokens": self.reply_tokens,
            "drafted_tokens": self.drafted_tokens,
            "accepted_tokens": self.accepted_tokens,
            "finished": dict(self.finished),
            "steps": self.n_steps,
            "busy_s": round(self.busy_s, 4),
            "idle_s": round(max(0.0, now - self.started_s - self.busy_s), 4),
        }


class Histogram:
    """Cumulative buckets in Prometheus' sense."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        at = next((i for i, bound in enumerate(self.bounds) if value <= bound), len(self.bounds))
        self.counts[at] += 1
        self.total += value


def _percentiles(values: deque[float]) -> dict[str, float | None]:
    kept = list(values)
    return {f"p{share}": percentile(kept, share / 100) for share in (50, 95, 99)}
