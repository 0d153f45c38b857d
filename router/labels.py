"""What the classifier says of a turn: closed sets of labels, and the scores beside them.

Owns the label names, which rules of a policy, records and dashboards rely on. Knows no policy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

LANGUAGES = ("en", "hi", "hi-Latn", "ta", "te", "bn", "mr", "und")
TASKS = ("chat", "question", "command", "support", "instruction", "math", "reasoning", "code")
DOMAINS = ("general", "math", "science", "technology", "humanities", "business", "health", "law")


@dataclass(frozen=True, slots=True)
class Labels:
    """Facts of a turn that rules may ask for; None is unknown, and triggers restricting rules.

    `language` is one of LANGUAGES, `task` of TASKS, `domain` of DOMAINS; `difficulty` runs from 0
    to 1; `pii` says that an identifier of a person was recognised, `unsafe` that harm is
    asked for.
    """

    language: str | None = None
    task: str | None = None
    domain: str | None = None
    difficulty: float | None = None
    pii: bool | None = None
    unsafe: bool | None = None

    def to_wire(self) -> dict[str, Any]:
        """Return the labels as `POST /v1/route` shows them."""
        return {
            "language": self.language,
            "task": self.task,
            "domain": self.domain,
            "difficulty": None if self.difficulty is None else round(self.difficulty, 4),
            "pii": self.pii,
            "unsafe": self.unsafe,
        }


@dataclass(frozen=True, slots=True)
class Prediction:
    """The classifier's answer for one turn.

    `score` is the calibrated probability that the cheapest tier is not good enough;
    `needs_context` the probability that the turn means nothing without the one before it;
    `uncertainty` runs from 0 (sure) to 1 (a coin toss); `is_carried` says that the score is
    that of an earlier question which this turn continues; `stage` is 2 where the sentence
    encoder had its say. `stage_one_score` is the classifier's own score where a correction or the
    second stage changed it. All probabilities are 0 to 1.
    """

    score: float
    labels: Labels
    needs_context: float = 0.0
    uncertainty: float = 0.0
    is_carried: bool = False
    stage: int = 1
    stage_one_score: float | None = None
