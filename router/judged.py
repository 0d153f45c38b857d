"""Scored turns whose outcomes are known: one by one, in a file, and by set as arrays.

Owns which sets share a format. Knows neither how a turn was scored nor what is made of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from router.curves import Outcomes
from router.network import Floats

FORMATS: Mapping[str, tuple[str, ...]] = {
    "multiple choice": (
        *("mmlu_pro", "gpqa", "openbook_qa", "commonsense_qa", "arc_challenge", "mmlu"),
    ),
    "worked maths": ("gsm8k", "math", "zeroeval_math-l5"),
    "code": ("mbpp", "human_eval", "zeroeval_crux"),
    "short facts": ("trivia_qa", "natural_qa"),
}
SCORES_FILE = "scores.jsonl"
# Where the best model leads by less than this there is next to nothing to recover: the set has its
# row, but no part in a mean that its noise would rule.
LEAST_GAP = 0.05


@dataclass(frozen=True, slots=True)
class Judged:
    """One turn of a set that the scoring model has not seen, and how two models did on it.

    `weak` is the mean of the set's middling models, `strong` its best one, 0 to 1; `row` counts
    the turns of a set as they stand in the data folder.
    """

    source: str
    row: int
    language: str
    n_chars: int
    score: float
    weak: float
    strong: float


@dataclass(frozen=True, slots=True)
class JudgedSet:
    """The turns of one set as arrays [turns]."""

    name: str
    scores: Floats
    lengths: Floats
    outcomes: Outcomes


def sets_of(judged: Sequence[Judged], *, least_gap: float = 0.0) -> list[JudgedSet]:
    """Return the sets in the order in which they were scored.

    A set whose best model leads its middling ones by no more than `least_gap` is left out.
    """
    by_source: dict[str, list[Judged]] = {}
    for turn in judged:
        by_source.setdefault(turn.source, []).append(turn)
    sets = []
    for source, turns in by_source.items():
        outcomes = Outcomes(
            np.array([turn.weak for turn in turns], np.float32),
            np.array([turn.strong for turn in turns], np.float32),
        )
        if (outcomes.strong - outcomes.weak).mean() > least_gap:
            scores = np.array([turn.score for turn in turns], np.float32)
            lengths = np.array([turn.n_chars for turn in turns], np.float32)
            sets.append(JudgedSet(source, scores, lengths, outcomes))
    return sets


def write_judged(judged: Iterable[Judged], path: Path) -> None:
    """Write one JSON line for each turn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(asdict(turn)) + "\n" for turn in judged), "utf-8")


def read_judged(path: Path) -> list[Judged]:
    """Return what `write_judged` wrote.

    Raises:
        FileNotFoundError, ValueError: it is not there, or is something else.
    """
    try:
        return [Judged(**json.loads(line)) for line in path.read_text("utf-8").splitlines()]
    except TypeError as error:
        raise ValueError(f"{path} holds no scored turns: {error}") from error
