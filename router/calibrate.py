"""Chooses a policy's thresholds: for a share of strong turns, or for a share of the quality gap."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from memory.conversation import message_from_wire
from router.curves import Outcomes, recovered
from router.network import Floats
from router.route import TurnClassifier


def threshold_for_share(scores: Sequence[float], strong_share: float) -> float:
    """Return the threshold at which this share of the scored turns goes to the strong tier.

    Raises:
        ValueError: if there are no scores, or the share is not between 0 and 1.
    """
    if not len(scores) or not 0 <= strong_share <= 1:
        raise ValueError("a share from 0 to 1 and at least one score are needed")
    if strong_share == 0:
        return 1.0
    return round(float(np.quantile(np.asarray(scores), 1 - strong_share)), 4)


def threshold_for_quality(scores: Floats, outcomes: Outcomes, gap_recovered: float) -> float:
    """Return the highest threshold that recovers this share of the gap between weak and strong.

    Raises:
        ValueError: if there are no scores, or the share is not between 0 and 1.
    """
    if not len(scores) or not 0 <= gap_recovered <= 1:
        raise ValueError("a share from 0 to 1 and at least one score are needed")
    curve = recovered(scores, outcomes)
    n_strong = int(np.argmax(curve >= gap_recovered))
    if n_strong == 0:
        return 1.0
    return round(float(np.sort(scores)[::-1][n_strong - 1]), 4)


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
