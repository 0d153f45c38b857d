"""Opens the router: the classifier, what was learned beside it, and the second stage if it may be.

Owns what happens when one of their files is missing or wrong: the turn is routed without it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gateway.telemetry import Degradations
from memory.embedding_cache import EmbeddingCache
from router.classifier import MODEL_FOLDER, OnnxClassifier
from router.correction import Correction
from router.errors import ModelFileError
from router.route import Router
from router.second_stage import Head, SecondStage


class CachedVectors:
    """Sentence vectors from the cache that recall shares; one encoder thread behind both."""

    def __init__(self, encodings: EmbeddingCache) -> None:
        self._encodings = encodings

    @property
    def revision(self) -> str:
        """The encoder's revision."""
        return self._encodings.embedder.revision

    def can_read(self, text: str) -> bool:
        """Return whether the encoder knows the text's language well enough to trust it."""
        return self._encodings.embedder.can_read(text)

    async def vector(self, tenant: str, text: str) -> NDArray[np.float32]:
        """Return the vector of a text, float32 [dim], unit length.

        Raises:
            EmbedderBusy: too many callers wait for the encoder.
        """
        return (await self._encodings.encode(tenant, text)).sentence


def open_router(
    encodings: EmbeddingCache | None,
    degradations: Degradations,
    draw: Callable[[], float],
    folder: Path = MODEL_FOLDER,
) -> Router:
    """Return the router of a model folder; without its classifier, turns go to the safe tier."""

    def counted(part: str) -> Callable[[Exception], None]:
        return lambda error: degradations.failed(part, error, "a turn")

    try:
        classifier = OnnxClassifier.load(folder)
    except ModelFileError as error:
        degradations.failed("classifier", error, "start")
        return Router(None, draw=draw)
    correction = second_stage = None
    try:
        correction = Correction.load(folder, classifier.version)
    except ModelFileError as error:
        degradations.failed("correction", error, "start")
    try:
        head = Head.load(folder)
        # An encoder of the deployment's own has no head here: stage one decides alone.
        if head and encodings and head.encoder == encodings.embedder.revision:
            vectors = CachedVectors(encodings)
            second_stage = SecondStage(head, vectors, on_failure=counted("second_stage"))
    except ModelFileError as error:
        degradations.failed("second_stage", error, "start")
    return Router(
        classifier,
        correction=correction,
        second_stage=second_stage,
        draw=draw,
        on_failure=counted("classifier"),
    )
