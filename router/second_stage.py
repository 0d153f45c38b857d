"""Stage two: the sentence encoder's word on turns whose score is close to a threshold.

Owns when it is asked, how long it may take, and its head: one linear layer over a sentence vector.
The vector comes from whoever was handed in, most likely a cache that recall shares.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from router.correction import logit, rescored
from router.errors import ModelFileError
from router.labels import Prediction
from router.request import RouteRequest
from router.table import RoutingTable

HEAD_FILE = "second_stage.json"
# Stage one is unsure this close to a threshold.
UNSURE_BAND = 0.1
# The encoder takes about 0.1 ms a token: a text is read at its beginning.
MOST_CHARS = 600
# A stage that is later than this is not waited for.
TIMEOUT_S = 0.15

Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Head:
    """logit(score) = scale * logit(stage one) + weights . vector + bias; weights float32 [dim].

    `encoder` is the revision of the encoder whose vectors it was fitted on; `is_english` says that
    it reads nothing else, so that turns in other languages stop at stage one.
    """

    encoder: str
    is_english: bool
    scale: float
    bias: float
    weights: Vector

    def score(self, stage_one: float, vector: Vector) -> float:
        """Return the score of a turn from stage one's and its vector, float32 [dim]."""
        value = self.scale * logit(stage_one) + float(self.weights @ vector) + self.bias
        return 1 / (1 + math.exp(-value))

    def save(self, folder: Path) -> None:
        """Write the head beside the model."""
        numbers = [round(float(value), 5) for value in self.weights]
        about = {
            "encoder": self.encoder,
            "is_english": self.is_english,
            "scale": round(self.scale, 5),
            "bias": round(self.bias, 5),
        }
        (folder / HEAD_FILE).write_text(json.dumps({**about, "weights": numbers}) + "\n", "utf-8")

    @classmethod
    def load(cls, folder: Path) -> Head | None:
        """Return the head of a model folder, None where there is none.

        Raises:
            ModelFileError: the file is no head.
        """
        path = folder / HEAD_FILE
        if not path.exists():
            return None
        try:
            found = json.loads(path.read_text("utf-8"))
            weights = np.array(found.pop("weights"), np.float32)
            head = cls(**found, weights=weights)
            head.score(0.5, np.zeros_like(weights))
        except (OSError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise ModelFileError(f"{path} is no head of the second stage: {error}") from error
        return head


class SentenceVectors(Protocol):
    """Where sentence vectors come from."""

    @property
    def revision(self) -> str:
        """The encoder's revision."""
        ...

    def can_read(self, text: str) -> bool:
        """Return whether the encoder knows the text's language well enough to trust it."""
        ...

    async def vector(self, tenant: str, text: str) -> Vector:
        """Return the vector of a text, float32 [dim], unit length."""
        ...


class SecondStage:
    """Asks the encoder about unsure turns; safe to share between turns.

    Args:
        head: fitted on vectors of this encoder.
        vectors: the encoder, behind its cache and its own worker thread.
        on_failure: told of each failure and lateness; stage one's score then stands.

    Raises:
        ModelFileError: if the head belongs to another encoder.
    """

    def __init__(
        self,
        head: Head,
        vectors: SentenceVectors,
        *,
        timeout_s: float = TIMEOUT_S,
        on_failure: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        if head.encoder != vectors.revision:
            raise ModelFileError(
                f"The second stage was fitted on {head.encoder}, the encoder is {vectors.revision}."
            )
        self._head = head
        self._vectors = vectors
        self._timeout_s = timeout_s
        self._on_failure = on_failure

    async def asked(
        self, tenant: str, request: RouteRequest, prediction: Prediction, table: RoutingTable
    ) -> Prediction:
        """Return the prediction with the second stage's score where that could change the tier."""
        if not self._is_needed(request, prediction, table):
            return prediction
        text = next((m.text for m in reversed(request.messages) if m.role == "user"), "")[
            :MOST_CHARS
        ]
        if not text.strip() or not self._vectors.can_read(text):
            return prediction
        try:
            async with asyncio.timeout(self._timeout_s):
                vector = await self._vectors.vector(tenant, text)
            score = self._head.score(prediction.score, vector)
        except Exception as error:  # noqa: BLE001 - whatever breaks in it, stage one has answered
            self._on_failure(error)
            return prediction
        return replace(rescored(prediction, score), stage=2)

    def _is_needed(
        self, request: RouteRequest, prediction: Prediction, table: RoutingTable
    ) -> bool:
        if request.requested != "auto" or request.is_tool_loop or prediction.is_carried:
            return False
        if self._head.is_english and prediction.labels.language != "en":
            return False
        return any(abs(prediction.score - value) < UNSURE_BAND for _, value in table.thresholds)
