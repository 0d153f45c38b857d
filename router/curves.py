"""Cost against quality: what a score is worth when it decides who gets the strong model. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from router.network import Floats

N_RESAMPLES = 500


@dataclass(frozen=True, slots=True)
class Outcomes:
    """How a weak and a strong model did on the same turns, 0 to 1 each; both float32 [turns]."""

    weak: Floats
    strong: Floats


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with the bounds that hold 95 % of its bootstrap resamples."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def recovered(scores: Floats, outcomes: Outcomes) -> Floats:
    """Return the performance gap recovered as the share of strong calls grows from 0 to 1.

    Turns go to the strong model in falling order of score. Float32 [turns + 1]: 0 at the left, 1
    at the right. Source: I. Ong and others, RouteLLM (2024), section 3.
    """
    order = np.argsort(-scores, kind="stable")
    gains = (outcomes.strong - outcomes.weak)[order]
    total = gains.sum()
    curve = np.concatenate([[0.0], np.cumsum(gains)])
    return np.asarray(curve / total if total else curve, dtype=np.float32)


def apgr(scores: Floats, outcomes: Outcomes) -> float:
    """Return the mean performance gap recovered over all shares: 0.5 is what chance gives."""
    curve = recovered(scores, outcomes)
    return float((curve[:-1] + curve[1:]).mean() / 2)


def apgr_interval(scores: Floats, outcomes: Outcomes, *, seed: int = 0) -> Interval:
    """Return APGR with its interval over resampled turns."""
    draw = np.random.default_rng(seed)
    values = []
    for _ in range(N_RESAMPLES):
        rows = draw.integers(0, len(scores), len(scores))
        sample = Outcomes(outcomes.weak[rows], outcomes.strong[rows])
        if (sample.strong - sample.weak).sum() > 0:
            values.append(apgr(scores[rows], sample))
    low, high = np.percentile(values, [2.5, 97.5]) if values else (float("nan"),) * 2
    return Interval(apgr(scores, outcomes), float(low), float(high))


def quality_at(is_strong: NDArray[np.bool_], outcomes: Outcomes) -> float:
    """Return the mean outcome when the marked turns go to the strong model."""
    return float(np.where(is_strong, outcomes.strong, outcomes.weak).mean())


def shuffled_quality(
    is_strong: NDArray[np.bool_], outcomes: Outcomes, *, seed: int = 0
) -> Interval:
    """Return what the same number of strong calls gives when they fall on turns by chance."""
    draw = np.random.default_rng(seed)
    values = [quality_at(draw.permutation(is_strong), outcomes) for _ in range(N_RESAMPLES)]
    low, high = np.percentile(values, [2.5, 97.5])
    return Interval(float(np.mean(values)), float(low), float(high))
