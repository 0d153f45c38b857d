"""The token vectors of a conversation, and late interaction over them.

Owns the arrays and the arithmetic. Knows no encoder and no Redis; document `i` is the item of
`seq` i + 1, as in the lexical index.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory.embedder import Encoding

_EXACT_DOCUMENTS = 2000
"""Up to here every document is compared in full; above, only the best by their mean vector."""
_CANDIDATES = 800
_BEFORE, _AFTER = 0.7, 0.5


class TokenVectors:
    """int8 vectors of documents added in order.

    Args:
        dimensions: the reduced dimension of the encoder.
    """

    def __init__(self, dimensions: int) -> None:
        self._flat = np.zeros((256, dimensions), np.int8)
        self._means = np.zeros((64, dimensions), np.float32)
        self._starts: list[int] = [0]

    def __len__(self) -> int:
        return len(self._starts) - 1

    @property
    def dimensions(self) -> int:
        """The length of one vector."""
        return int(self._flat.shape[1])

    def add(self, tokens: NDArray[np.int8]) -> None:
        """Add the next document: int8 [n, dimensions]; a document without tokens is kept empty."""
        start, number = self._starts[-1], len(self)
        stop = start + max(1, len(tokens))
        if stop > len(self._flat):
            self._flat = _grown(self._flat, stop)
        if number >= len(self._means):
            self._means = _grown(self._means, number + 1)
        self._flat[start:stop] = 0
        if len(tokens):
            self._flat[start:stop] = tokens
            mean = tokens.astype(np.float32).mean(0)
            self._means[number] = mean / max(float(np.linalg.norm(mean)), 1e-6)
        self._starts.append(stop)

    def scores(self, query: Encoding, also: NDArray[np.intp] | None = None) -> NDArray[np.float32]:
        """Return how much each document answers the query's tokens: float32 [n], at least 0.

        Each query token takes its best match in a document (MaxSim), less the mean of its matches
        over the conversation, so that words which match everywhere say nothing. Half of it comes
        from the document or, weakened, a neighbour. Source: Khattab and Zaharia 2020 (ColBERT),
        section 3.2; the centring and the neighbours are ours.

        Args:
            query: the query's encoding.
            also: documents to compare in full in any case.
        """
        held = self._snapshot()
        if not held.n or not len(query.tokens):
            return np.zeros(held.n, np.float32)
        tokens = query.tokens.astype(np.float32) / np.float32(127 * 127)
        chosen = _chosen(held, tokens, also)
        best = _best_matches(held, chosen, tokens)
        centred = np.maximum(best - best.mean(0), 0)
        return _with_neighbours(centred, chosen, held.n)

    def row(self, number: int) -> NDArray[np.int8]:
        """Return the vectors of one document, as they were added or one row of zeros."""
        return self._flat[self._starts[number] : self._starts[number + 1]]

    def _snapshot(self) -> _Snapshot:
        """Take what is complete, so that another thread may add meanwhile.

        The count is read first: arrays taken after it hold at least that many documents.
        """
        n = len(self)
        return _Snapshot(n, np.asarray(self._starts[: n + 1], np.intp), self._flat, self._means)


@dataclass(frozen=True, slots=True)
class _Snapshot:
    n: int
    starts: NDArray[np.intp]
    flat: NDArray[np.int8]
    means: NDArray[np.float32]


def _chosen(
    held: _Snapshot, tokens: NDArray[np.float32], also: NDArray[np.intp] | None
) -> NDArray[np.intp]:
    n = held.n
    if n <= _EXACT_DOCUMENTS:
        return np.arange(n)
    near = held.means[:n] @ tokens.mean(0)
    best = np.argpartition(-near, _CANDIDATES)[:_CANDIDATES]
    around = best if also is None else np.concatenate([best, also])
    around = np.concatenate([around - 1, around, around + 1])
    return np.unique(around[(around >= 0) & (around < n)])


def _best_matches(
    held: _Snapshot, documents: NDArray[np.intp], tokens: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the best match of each query token in each document: [documents, tokens]."""
    starts = held.starts
    if len(documents) == held.n:
        flat, offsets = held.flat[: starts[-1]], starts[:-1]
    else:
        lengths = starts[documents + 1] - starts[documents]
        offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        within = np.arange(int(lengths.sum())) - np.repeat(offsets, lengths)
        flat = held.flat[np.repeat(starts[documents], lengths) + within]
    best: NDArray[np.float32] = np.maximum.reduceat(
        flat.astype(np.float32) @ tokens.T, offsets, axis=0
    )
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


def _grown(array: NDArray[Any], rows: int) -> NDArray[Any]:
    grown = np.zeros((max(rows, 2 * len(array)), array.shape[1]), array.dtype)
    grown[: len(array)] = array
    return grown
