"""Correction: what recorded outcomes of a deployment change about the score; a few numbers.

Owns the file beside the model and how it bends a prediction. How it is fitted stands in
`recorded.py`; numpy is all that is needed here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

from router.errors import ModelFileError
from router.labels import Labels, Prediction

CORRECTION_FILE = "correction.json"
_NEAREST = 1e-6  # of a probability to 0 and 1: its logit stays finite
_NO_LABELS = Labels()


@dataclass(frozen=True, slots=True)
class Correction:
    """The logit of the corrected score: scale times the score's logit, plus offset, plus labels'.

    `tasks` and `languages` add to the logit by label; a label that is missing adds nothing.
    `classifier` is the version of the model that was corrected: another one needs its own.
    """

    classifier: str
    scale: float = 1.0
    offset: float = 0.0
    tasks: Mapping[str, float] = field(default_factory=dict)
    languages: Mapping[str, float] = field(default_factory=dict)

    @property
    def version(self) -> str:
        """What tells this correction from any other: a hash of its numbers."""
        return sha256(self.to_json().encode()).hexdigest()[:8]

    def of(self, prediction: Prediction) -> Prediction:
        """Return the prediction with its score and uncertainty corrected."""
        value = self.scale * logit(prediction.score) + self.offset
        value += self.tasks.get(prediction.labels.task or "", 0.0)
        value += self.languages.get(prediction.labels.language or "", 0.0)
        score = 1 / (1 + math.exp(-value))
        return rescored(prediction, score)

    def to_json(self) -> str:
        """Return the text of the file, the same for the same numbers."""
        return json.dumps(
            {
                "classifier": self.classifier,
                "scale": self.scale,
                "offset": self.offset,
                "tasks": dict(self.tasks),
                "languages": dict(self.languages),
            },
            indent=1,
            sort_keys=True,
        )

    @classmethod
    def load(cls, folder: Path, classifier: str) -> Correction | None:
        """Return the correction in a model folder, None where none is or it is another model's.

        Raises:
            ModelFileError: the file is no correction.
        """
        path = folder / CORRECTION_FILE
        try:
            text = path.read_text("utf-8")
        except FileNotFoundError:
            return None
        try:
            found = cls(**json.loads(text))
            found.of(Prediction(0.5, _NO_LABELS))
        except (TypeError, ValueError, AttributeError) as error:
            raise ModelFileError(f"{path} is no correction: {error}") from error
        return found if found.classifier == classifier else None


def rescored(prediction: Prediction, score: float) -> Prediction:
    """Return the prediction with another score, keeping what the classifier itself said."""
    first = prediction.stage_one_score
    return replace(
        prediction,
        score=score,
        uncertainty=1 - abs(2 * score - 1),
        stage_one_score=prediction.score if first is None else first,
    )


def logit(probability: float) -> float:
    """Return the log odds of a probability, bounded."""
    probability = min(max(probability, _NEAREST), 1 - _NEAREST)
    return math.log(probability / (1 - probability))
