"""Recorded turns with outcomes, and the correction that is fitted on them.

Owns what is learned from a deployment: how often its cheapest tier really fails, by score, task and
language. Of a recorded turn only its decision is read: numbers and labels, never text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.correction import Correction, logit
from router.labels import LANGUAGES, TASKS
from router.reasons import Reason

FEWEST_TURNS = 200
# A turn drawn with one chance in twenty stands for twenty; rarer ones would rule the fit alone.
MOST_WEIGHT = 20.0
# How hard the fit is held to no correction at all: as if this many turns had spoken for it.
_PRIOR_TURNS = 20.0
_N_FOLDS = 5
# Reasons by which the score alone chose the tier: any other choice says nothing of its chance.
_BY_SCORE = frozenset({Reason.SCORE.value, Reason.CARRIED.value, Reason.EXPLORE.value})

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RecordedTurn:
    """A turn that the cheapest tier answered, as it was decided, and what became of it.

    `failed` runs from 0 (just right) to 1 (useless); `propensity` is the chance with which the
    cheapest tier was drawn.
    """

    score: float
    task: str | None
    language: str | None
    failed: float
    propensity: float


@dataclass(frozen=True, slots=True)
class Fitted:
    """A correction with its worth: weighted log loss a turn, on turns left out of the fit."""

    correction: Correction
    turns: int
    loss_before: float
    loss_after: float

    @property
    def helps(self) -> bool:
        """Whether the corrected score foretells failures better than the score as it is."""
        return self.loss_after < self.loss_before


def recorded_turn(
    decision: Mapping[str, Any], tier: str, outcome: float, classifier: str
) -> RecordedTurn | None:
    """Return what a recorded decision teaches about the cheapest tier, None where nothing.

    Only turns that the cheapest tier answered because of their score count: how it would have
    done on others nobody knows, which is what exploration is for. `classifier` is the model that
    is being corrected; scores of another one are on another scale.
    """
    candidates = decision["candidates"]
    if decision["score"] is None or decision["reason"] not in _BY_SCORE:
        return None
    if tier != candidates[0]["tier"] or tier != decision["tier"]:
        return None
    if decision["classifier"].partition("/")[0] != classifier:
        return None
    labels = decision["labels"]
    return RecordedTurn(
        score=decision["inputs"].get("stage_one_score", decision["score"]),
        task=labels["task"],
        language=labels["language"],
        failed=1.0 - outcome,
        propensity=decision["propensity"],
    )


def fit_correction(turns: Sequence[RecordedTurn], classifier: str, *, seed: int = 0) -> Fitted:
    """Return the correction fitted on recorded turns, each weighed by one over its propensity.

    The weights make the turns stand for all that might have come to the cheapest tier, not only
    for those that did. Source: D. Horvitz and D. Thompson, A generalization of sampling without
    replacement from a finite universe (1952).

    Raises:
        ValueError: if there are fewer than FEWEST_TURNS.
    """
    if len(turns) < FEWEST_TURNS:
        raise ValueError(f"{len(turns)} turns teach too little, {FEWEST_TURNS} are needed")
    inputs = np.array([_inputs_of(turn) for turn in turns])
    base = np.array([logit(turn.score) for turn in turns])
    failed = np.array([turn.failed for turn in turns])
    weight = np.array([min(1 / turn.propensity, MOST_WEIGHT) for turn in turns])
    fold = np.random.default_rng(seed).permutation(len(turns)) % _N_FOLDS
    corrected = np.zeros(len(turns))
    for left_out in range(_N_FOLDS):
        kept, held = fold != left_out, fold == left_out
        values = _fit(inputs[kept], base[kept], failed[kept], weight[kept])
        corrected[held] = base[held] + inputs[held] @ values
    return Fitted(
        correction=_correction_of(_fit(inputs, base, failed, weight), classifier),
        turns=len(turns),
        loss_before=_loss(base, failed, weight),
        loss_after=_loss(corrected, failed, weight),
    )


def _inputs_of(turn: RecordedTurn) -> list[float]:
    tasks = [float(turn.task == task) for task in TASKS]
    return [logit(turn.score), 1.0, *tasks, *(float(turn.language == each) for each in LANGUAGES)]


def _fit(inputs: Array, base: Array, failed: Array, weight: Array) -> Array:
    """Return what to add to the base logit: a logistic regression held to zero, by Newton."""
    values = np.zeros(inputs.shape[1])
    for _ in range(50):
        expected = 1 / (1 + np.exp(-(base + inputs @ values)))
        slope = inputs.T @ (weight * (expected - failed)) + _PRIOR_TURNS * values
        bend = (inputs * (weight * expected * (1 - expected))[:, None]).T @ inputs
        step = np.linalg.solve(bend + _PRIOR_TURNS * np.eye(len(values)), slope)
        values = values - step
        if np.abs(step).max() < 1e-9:
            break
    return values


def _loss(logits: Array, failed: Array, weight: Array) -> float:
    each = np.logaddexp(0, logits) - failed * logits
    return float((weight * each).sum() / weight.sum())


def _correction_of(values: Array, classifier: str) -> Correction:
    rounded = [round(float(value), 6) for value in values]
    tasks, languages = rounded[2 : 2 + len(TASKS)], rounded[2 + len(TASKS) :]
    return Correction(
        classifier=classifier,
        scale=round(1 + rounded[0], 6),
        offset=rounded[1],
        tasks={name: value for name, value in zip(TASKS, tasks, strict=True) if value},
        languages={name: value for name, value in zip(LANGUAGES, languages, strict=True) if value},
    )
