"""Fits the second stage's head on sentence vectors, and measures it on sources left out.

Needs the `train` extra for the data's reader alone; the fit is numpy's. Minutes long, nearly all of
them the encoder's.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory.conversation import Message
from memory.embedder import OnnxEmbedder
from router.classifier import OnnxClassifier
from router.correction import logit
from router.curves import Outcomes, apgr
from router.dataset import Example, by_source, read_examples
from router.evaluate import KIN, outcomes_of
from router.second_stage import MOST_CHARS, Head
from router.targets import levels
from router.written import read_written

MOST_ROWS_OF_A_SOURCE = 350
# How hard the head is held to stage one: freer ones rank unseen sets worse still.
_RIDGE = 100.0
_BATCH = 64
Progress = Callable[[float, str], None]
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Encoded:
    """Examples with what both stages know of them, in one order.

    vectors: float32 [examples, dim]; first: stage one's logits [examples]; level: the share of
    small models that fail, [examples].
    """

    examples: list[Example]
    vectors: NDArray[np.float32]
    first: Array
    level: Array


def train_second_stage(
    data_dir: Path,
    out_dir: Path,
    *,
    seed: int = 0,
    embedder: OnnxEmbedder | None = None,
    is_english: bool = True,
    progress: Progress = lambda done, step: None,
) -> dict[str, Any]:
    """Fit the head beside the model of `out_dir`, write it, and return its figures.

    Args:
        data_dir: the data folder; docs/routing-data.md says how it is built.
        out_dir: holds stage one's model, receives the head.
        seed: of what is drawn from each source.
        embedder: the encoder; None takes the bundled one.
        is_english: whether that encoder reads English only.
        progress: told the share that is done.

    Raises:
        ModelFileError: if stage one's model cannot be loaded.
    """
    embedder = embedder or OnnxEmbedder.from_folder()
    classifier = OnnxClassifier.load(out_dir)
    examples = _drawn(
        [*read_examples(data_dir), *read_written(seed)], random.Random(seed), is_english
    )
    vectors = []
    for start in range(0, len(examples), _BATCH):
        part = examples[start : start + _BATCH]
        texts = [" ".join(example.text[:MOST_CHARS].split()) for example in part]
        vectors += [encoding.sentence for encoding in embedder.encode_now(texts)]
        progress(start / len(examples), "encoding")
    encoded = encoded_of(examples, np.array(vectors, np.float32), classifier)
    figures = figures_unseen(encoded)
    may_ship = np.array([example.may_shape_weights for example in examples])
    scale, bias, weights = _fit(encoded, may_ship)
    Head(embedder.revision, is_english, scale, bias, weights.astype(np.float32)).save(out_dir)
    return {"rows": len(examples), "unseen": figures}


def encoded_of(
    examples: list[Example], vectors: NDArray[np.float32], classifier: OnnxClassifier
) -> Encoded:
    """Return the examples with stage one's logits and their levels."""
    first = [logit(classifier.predict([Message("user", e.text)]).score) for e in examples]
    return Encoded(examples, vectors, np.array(first), np.asarray(levels(examples), np.float64))


def figures_unseen(encoded: Encoded) -> dict[str, dict[str, float]]:
    """Return, by set, APGR of stage one and of both stages, the set and its kin left out.

    Only the head leaves them out: stage one keeps what it was fitted on, which favours it.
    """
    figures: dict[str, dict[str, float]] = {}
    sources = np.array([example.source for example in encoded.examples])
    may_ship = np.array([example.may_shape_weights for example in encoded.examples])
    for kin in KIN.values():
        scale, bias, weights = _fit(encoded, may_ship & ~np.isin(sources, kin))
        for source in kin:
            there = np.flatnonzero(sources == source)
            rows = np.array([row for row in there if encoded.examples[row].scores], int)
            members = [encoded.examples[row] for row in rows]
            if not members:
                continue
            outcomes = outcomes_of(members)
            both = scale * encoded.first[rows] + encoded.vectors[rows] @ weights + bias
            figures[source] = {
                "turns": len(members),
                "apgr_stage_one": _apgr(encoded.first[rows], outcomes),
                "apgr_both": _apgr(both, outcomes),
            }
    return figures


def _apgr(logits: Array, outcomes: Outcomes) -> float:
    return round(apgr(np.asarray(logits, np.float32), outcomes), 4)


def _drawn(examples: Sequence[Example], draw: random.Random, is_english: bool) -> list[Example]:
    """Return turns whose level is known, so many of a source that the encoder takes minutes."""
    level = levels(examples)
    chosen = []
    for rows in by_source(list(examples)).values():
        known = [
            int(row)
            for row in rows
            if np.isfinite(level[row])
            and (not is_english or (examples[row].language or "en") == "en")
        ]
        chosen += sorted(draw.sample(known, min(len(known), MOST_ROWS_OF_A_SOURCE)))
    return [examples[row] for row in chosen]


def _fit(encoded: Encoded, is_used: NDArray[np.bool_]) -> tuple[float, float, Array]:
    """Return scale, bias and weights [dim]: a logistic regression held to stage one, by Newton.

    Each source weighs the root of its size.
    """
    rows = np.flatnonzero(is_used & np.isfinite(encoded.level))
    sizes = {s: len(found) for s, found in by_source([encoded.examples[r] for r in rows]).items()}
    weight = np.array([sizes[encoded.examples[row].source] ** -0.5 for row in rows])
    weight /= weight.mean()
    base, level = encoded.first[rows], encoded.level[rows]
    inputs = np.hstack([base[:, None], np.ones((len(rows), 1)), encoded.vectors[rows]])
    values = np.zeros(inputs.shape[1])
    for _ in range(20):
        expected = 1 / (1 + np.exp(-(base + inputs @ values)))
        slope = inputs.T @ (weight * (expected - level)) + _RIDGE * values
        bend = (inputs * (weight * expected * (1 - expected))[:, None]).T @ inputs
        step = np.linalg.solve(bend + _RIDGE * np.eye(len(values)), slope)
        values = values - step
        if np.abs(step).max() < 1e-8:
            break
    return 1 + float(values[0]), float(values[1]), values[2:]
