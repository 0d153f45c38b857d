"""Which earlier items matter for the turn at hand, best first.

Fuses search by words with search by meaning (where an encoder is there) and small priors. Knows
items and scores, neither tokens nor Redis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memory.conversation import Item
from memory.lexical import LexicalIndex
from memory.quoting import speaker_of


@dataclass(frozen=True, slots=True)
class RecallWeights:
    """How much each signal counts in the fused score; every signal is scaled to 0..1 first."""

    lexical: float = 1.0
    meaning: float = 1.0
    speaker: float = 0.05
    recency: float = 0.02


def rank(
    items: Sequence[Item],
    query: str,
    index: LexicalIndex,
    weights: RecallWeights,
    meaning: NDArray[np.float32] | None = None,
) -> list[Item]:
    """Return the items, the most relevant to the query first.

    Args:
        items: items of the conversation, ascending; item `seq` is document `seq - 1`.
        query: the user's words.
        index: holds at least these items.
        weights: how the signals are fused.
        meaning: similarity of each document to the query, float32 [n]; None without an encoder.
    """
    n = len(items)
    documents = np.fromiter((item.seq - 1 for item in items), np.intp, n)
    score = weights.lexical * _scaled(index.scores(query)[documents])
    if meaning is not None:
        score = score + weights.meaning * _scaled(meaning[documents])
    score = score + weights.recency * np.linspace(0, 1, n, dtype=np.float32)
    lowered = query.casefold()
    speakers = [speaker_of(item).casefold() for item in items]
    named = {s for s in set(speakers) if s in lowered}
    if named and len(named) < len(set(speakers)):
        score = score + weights.speaker * np.array([s in named for s in speakers], np.float32)
    return [items[i] for i in np.argsort(-score, kind="stable")]


def _scaled(values: NDArray[np.float32]) -> NDArray[np.float32]:
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    if high <= low:
        return np.zeros_like(values)
    scaled: NDArray[np.float32] = (values - low) / (high - low)
    return scaled
