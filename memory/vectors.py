"""The token vectors of a conversation, and late interaction over them.

Owns the arrays and the arithmetic. Knows no encoder and no Redis; document `i` is the item of
`seq` i + 1, as in the lexical index.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from memory.columns import Column, product
from memory.embedder import Encoding

_EXACT_DOCUMENTS = 1500
"""Up to here every document is compared in full; above, only the best by their mean vector."""
_CANDIDATES = 200
_SAMPLE = 128
_BEFORE, _AFTER = 0.7, 0.5


class TokenVectors:
    """int8 vectors of documents added in order; one thread may add while another scores.

    Args:
        dimensions: the reduced dimension of the encoder.
    """

    def __init__(self, dimensions: int) -> None:
        self._flat = Column(np.int8, dimensions)
        self._means = Column(np.float32, dimensions)
        self._stops = Column(np.intp)
        self._empty = np.zeros((1, dimensions), np.int8)

    def __len__(self) -> int:
        return len(self._stops)

    def add(self, tokens: NDArray[np.int8]) -> None:
        """Add the next document: int8 [n, dimensions]; a document without tokens is kept empty."""
        rows = tokens if len(tokens) else self._empty
        mean = rows.astype(np.float32).mean(0)
        self._flat.extend(rows)
        self._means.append(mean / max(float(np.linalg.norm(mean)), 1e-6))
        self._stops.append(len(self._flat))  # last: it says that the document is complete

    @property
    def means(self) -> NDArray[np.float32]:
        """The mean vector of each document: float32 [n, dimensions], unit length or zero."""
        n = len(self._stops)
        means: NDArray[np.float32] = self._means.values[:n]
        return means

    def row(self, number: int) -> NDArray[np.int8]:
        """Return the vectors of one document, as they were added or one row of zeros."""
        stops = self._stops.values
        start = stops[number - 1] if number else 0
        rows: NDArray[np.int8] = self._flat.values[start : stops[number]]
        return rows

    def scores(
        self,
        query: Encoding,
        also: NDArray[np.intp] | None = None,
        among: NDArray[np.intp] | None = None,
    ) -> NDArray[np.float32]:
        """Return how much each document answers the query's tokens: float32 [n], at least 0.

        Each query token takes its best match in a document (MaxSim), less the mean of its matches
        over the conversation, so that words which match everywhere say nothing. Half of it comes
        from the document or, weakened, a neighbour. Source: Khattab and Zaharia 2020 (ColBERT),
        section 3.2; the centring and the neighbours are ours.

        Args:
            query: the query's encoding.
            also: documents to compare in full in any case.
            among: documents to compare in full, and none but an even sample beside them.
        """
        stops = self._stops.values
        flat, means = self._flat.values, self._means.values[: len(stops)]
        if not len(stops) or not len(query.tokens):
            return np.zeros(len(stops), np.float32)
        starts = np.concatenate([[0], stops[:-1]])
        tokens = query.tokens.T.astype(np.float32) / np.float32(127 * 127)
        chosen = _chosen(means, tokens, also) if among is None else _and_sample(among, len(stops))
        best = _best_matches(flat, starts, stops, chosen, tokens)
        sample = chosen % max(1, len(stops) // _SAMPLE) == 0
        centred = np.maximum(best - best[sample].mean(0), 0)
        return _with_neighbours(centred, chosen, len(stops))


def _chosen(
    means: NDArray[np.float32], tokens: NDArray[np.float32], also: NDArray[np.intp] | None
) -> NDArray[np.intp]:
    """Return ascending documents to compare in full: all, or the best and an even sample."""
    n = len(means)
    if n <= _EXACT_DOCUMENTS:
        return np.arange(n)
    # A product with ones: numpy's own sums over short rows are several times slower.
    near = np.maximum(product(means, tokens), 0) @ np.ones(tokens.shape[1], np.float32)
    best = np.argpartition(-near, _CANDIDATES)[:_CANDIDATES]
    around = best if also is None else np.concatenate([best, also])
    around = np.concatenate([around - 1, around, around + 1])
    return _and_sample(around[(around >= 0) & (around < n)], n)


def _and_sample(documents: NDArray[np.intp], n: int) -> NDArray[np.intp]:
    """Return the documents and an even sample of all n, ascending."""
    return np.unique(np.concatenate([documents, np.arange(0, n, max(1, n // _SAMPLE))]))


def _best_matches(
    flat: NDArray[np.int8],
    starts: NDArray[np.intp],
    stops: NDArray[np.intp],
    documents: NDArray[np.intp],
    tokens: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Return the best match of each query token in each document: [documents, tokens]."""
    if len(documents) == len(stops):
        rows, offsets = flat[: stops[-1]], starts
    else:
        lengths = stops[documents] - starts[documents]
        offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        within = np.arange(int(lengths.sum())) - np.repeat(offsets, lengths)
        rows = flat.take(np.repeat(starts[documents], lengths) + within, axis=0)
    best: NDArray[np.float32] = np.maximum.reduceat(product(rows, tokens), offsets, axis=0)
    return best


def _with_neighbours(
    matches: NDArray[np.float32], documents: NDArray[np.intp], n: int
) -> NDArray[np.float32]:
    follows = np.diff(documents, prepend=-2) == 1
    lent = np.zeros_like(matches)
    lent[1:] = _BEFORE * matches[:-1] * follows[1:, None]
    after = np.zeros_like(matches)
    after[:-1] = _AFTER * matches[1:] * follows[1:, None]
    total = matches.sum(1) + np.maximum(matches, np.maximum(lent, after)).sum(1)
    scores = np.zeros(n, np.float32)
    scores[documents] = total
    return scores
