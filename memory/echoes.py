"""What the best matches say that little else says, asked again: feedback by token vectors.

A question over several items finds one of them by its own words and the others by that one's. Knows
token vectors and documents, no items and no text.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from memory.columns import product
from memory.embedder import Encoding
from memory.vectors import TokenVectors

_TOKENS = 8
_SAME = 0.8
_SAMPLE = 128


def echoes(
    vectors: TokenVectors,
    best: NDArray[np.intp],
    relevance: NDArray[np.float32],
    among: NDArray[np.intp],
) -> NDArray[np.float32]:
    """Return how much documents answer the rarest tokens of the best ones: float32 [n].

    Source: Wang et al. 2021, Pseudo-relevance feedback for multiple representation dense retrieval
    (ColBERT-PRF); rarity is measured against the documents' means instead of clusters.

    Args:
        vectors: of the conversation.
        best: documents that have vectors, the most relevant ones.
        relevance: of each of them; float32 [len(best)], above 0.
        among: documents to look at; the score of others is 0 or comes by chance.
    """
    query = Encoding(np.zeros(0, np.float32), _rarest(vectors, best, relevance))
    return vectors.scores(query, among=among)


def _rarest(
    vectors: TokenVectors, best: NDArray[np.intp], relevance: NDArray[np.float32]
) -> NDArray[np.int8]:
    """Return up to eight token vectors, unlike each other: int8 [k, dimensions]."""
    rows = [vectors.row(int(document)) for document in best]
    tokens = np.concatenate(rows)
    units = tokens.astype(np.float32) / np.float32(127)
    means = vectors.means[:: max(1, len(vectors) // _SAMPLE)]
    common = np.square(np.maximum(product(means, units.T), 0)).mean(0)
    worth = np.repeat(relevance, [len(row) for row in rows]) / np.maximum(common, 1e-6)
    kept: list[int] = []
    for i in np.argsort(-worth * units.any(1), kind="stable"):  # documents without tokens last
        if len(kept) == _TOKENS or not units[i].any():
            break
        if not kept or float((units[kept] @ units[i]).max()) < _SAME:
            kept.append(int(i))
    return tokens[kept]
