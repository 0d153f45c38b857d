"""Chooses a policy's threshold for a target, and says how the choice fares on sources not seen.

A target is a share of strong turns (a cost) or a share of the gap between weak and strong that is
recovered (a quality). Sets count alike, however many turns they have.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from memory.conversation import message_from_wire
from router.judged import JudgedSet
from router.network import Floats
from router.route import TurnClassifier

Aim = Literal["strong_share", "quality"]
_DIGITS = 4


@dataclass(frozen=True, slots=True)
class Target:
    """What a threshold should reach: `value` is a share from 0 to 1."""

    aim: Aim
    value: float

    def __post_init__(self) -> None:
        if not 0 <= self.value <= 1:
            raise ValueError(f"a target is a share from 0 to 1, not {self.value}")


@dataclass(frozen=True, slots=True)
class Effect:
    """What a threshold does on one set: share of strong turns, mean outcome, gap recovered.

    A coin that sends the same share to the strong model recovers that share of the gap.
    """

    threshold: float
    strong_share: float
    quality: float
    recovered: float


def threshold_for_share(scores: Sequence[float] | Floats, strong_share: float) -> float:
    """Return the threshold at which this share of the scored turns goes to the strong tier.

    Raises:
        ValueError: if there are no scores, or the share is not between 0 and 1.
    """
    if not len(scores) or not 0 <= strong_share <= 1:
        raise ValueError("a share from 0 to 1 and at least one score are needed")
    if strong_share == 0:
        return 1.0
    return round(float(np.quantile(np.asarray(scores), 1 - strong_share)), _DIGITS)


def threshold_for(sets: Sequence[JudgedSet], target: Target) -> float:
    """Return the highest threshold that reaches the target on the mean of the sets.

    Raises:
        ValueError: if there are no sets.
    """
    if not sets:
        raise ValueError("scored turns of at least one set are needed")
    grid = np.round(np.unique(np.concatenate([each.scores for each in sets])), _DIGITS)[::-1]
    for threshold in grid:
        effects = [effect_of(each, float(threshold)) for each in sets]
        if target.aim == "quality":
            reached = np.mean([effect.recovered for effect in effects])
        else:
            reached = np.mean([effect.strong_share for effect in effects])
        if reached >= target.value:
            return float(threshold) if target.value > 0 else 1.0
    return 0.0


def effect_of(each: JudgedSet, threshold: float) -> Effect:
    """Return what a threshold does to the turns of a set."""
    is_strong = np.round(each.scores, 6) >= threshold
    weak, strong = each.outcomes.weak, each.outcomes.strong
    quality = float(np.where(is_strong, strong, weak).mean())
    gap = float((strong - weak).mean())
    return Effect(threshold, float(is_strong.mean()), quality, (quality - float(weak.mean())) / gap)


def effects_unseen(sets: Sequence[JudgedSet], target: Target) -> dict[str, Effect]:
    """Return, by set, the effect of a threshold that was chosen on all the other sets."""
    return {
        held.name: effect_of(held, threshold_for([s for s in sets if s is not held], target))
        for held in sets
        if len(sets) > 1
    }


def policy_lines(thresholds: Mapping[str, float]) -> str:
    """Return the lines to put into a policy's document."""
    values = ", ".join(f"{tier}: {value:g}" for tier, value in thresholds.items())
    return f"routing:\n  thresholds: {{{values}}}"


def scores_of_file(path: Path, classifier: TurnClassifier) -> list[float]:
    """Return the score of each conversation of a file of JSON lines with `messages`.

    Raises:
        ValueError: if a line is no such object; it names the line.
    """
    return list(_scores(path, classifier))


def _scores(path: Path, classifier: TurnClassifier) -> Iterable[float]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                messages = [message_from_wire(wire) for wire in json.loads(line)["messages"]]
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path}:{number}: messages are expected ({error})") from error
            yield classifier.predict(messages).score
