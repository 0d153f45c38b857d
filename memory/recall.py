"""Which earlier items matter for the turn at hand, best first.

Fuses search by words with search by meaning (where an encoder is there) and small priors. Knows
items and scores, neither tokens nor Redis.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memory.columns import Column, product
from memory.conversation import Item
from memory.dates import dates_in, nearness
from memory.quoting import speaker_of, time_said

SESSION_GAP_S = 3600.0
"""A silence of this length ends a session."""


_SESSION_BEST = 3
_EXEMPLARS = 5


@dataclass(frozen=True, slots=True)
class RecallWeights:
    """How much each signal counts; the two searches are scaled to 0..1 first.

    The sum of the two searches is an item's relevance. `likeness` goes to items that mean what the
    five most relevant ones mean (pseudo-relevance feedback: Rocchio 1971); `answers` lends an item
    part of the relevance of a question just before it; `question` is taken from items that only
    ask; `speaker` goes to items of the one speaker whom the query names; `session` lends an item
    part of the mean relevance of its session's three best; `date` goes to what was said around a
    date the query names. Chosen with one conversation left out at a time; see docs/memory.md.
    """

    lexical: float = 1.0
    meaning: float = 2.2
    likeness: float = 0.6
    answers: float = 0.25
    question: float = 0.35
    speaker: float = 0.4
    session: float = 0.5
    date: float = 1.6


class Traits:
    """What recall wants to know of each item beside its words, kept as the items come."""

    def __init__(self) -> None:
        self._times = Column(np.float64)
        self._speakers = Column(np.int32)
        self._asks = Column(np.float32)
        self._names: dict[str, int] = {}

    def add(self, item: Item) -> None:
        """Add the next item."""
        self._times.append(time_said(item).timestamp())
        self._speakers.append(self._names.setdefault(speaker_of(item).casefold(), len(self._names)))
        self._asks.append(item.message.text.rstrip().endswith(("?", "\u061f", "\uff1f")))

    def asks(self, documents: NDArray[np.intp]) -> NDArray[np.float32]:
        """Mark the documents that end in a question: float32 [n]."""
        return self._asks.values[documents]

    def sessions(self, documents: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return ascending session numbers from 0; a silence of an hour begins a new session."""
        times = self._times.values[documents]
        gaps = np.abs(np.diff(times, prepend=times[:1])) > SESSION_GAP_S
        numbers: NDArray[np.intp] = np.cumsum(gaps)
        return numbers

    def days(self, documents: NDArray[np.intp]) -> NDArray[np.datetime64]:
        """Return the day each document was said on: datetime64[D] [n]."""
        return self._times.values[documents].astype("datetime64[s]").astype("datetime64[D]")

    def named(self, documents: NDArray[np.intp], query: str) -> NDArray[np.float32]:
        """Mark what was said by the one speaker whom the query names; none where it names all."""
        lowered = query.casefold()
        numbers = [number for name, number in self._names.items() if name in lowered]
        if not numbers or len(numbers) == len(self._names):
            return np.zeros(len(documents), np.float32)
        speakers = self._speakers.values[documents]
        return np.isin(speakers, numbers).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Signals:
    """Scores of every document of a conversation: float32 [n]; `meaning` None without vectors.

    `means` holds the mean vector of each document that has vectors: float32 [m, dim], unit length.
    """

    lexical: NDArray[np.float32]
    meaning: NDArray[np.float32] | None = None
    means: NDArray[np.float32] | None = None


def rank(
    documents: NDArray[np.intp],
    query: str,
    traits: Traits,
    signals: Signals,
    weights: RecallWeights,
    most: int | None = None,
) -> NDArray[np.intp]:
    """Return positions in `documents`, the most relevant to the query first.

    Args:
        documents: ascending document numbers (an item's `seq` less one) to choose from.
        query: the user's words.
        traits: of at least these documents.
        signals: scores of at least these documents.
        weights: how the signals are fused.
        most: how many positions are wanted; None for all.
    """
    if not len(documents):
        return np.zeros(0, np.intp)
    relevance = weights.lexical * _scaled(signals.lexical[documents])
    if signals.meaning is not None:
        relevance = relevance + weights.meaning * _scaled(_known(signals.meaning, documents))
    asks, sessions = traits.asks(documents), traits.sessions(documents)
    score = relevance - weights.question * asks
    score[1:] += weights.answers * (relevance * asks)[:-1] * (sessions[1:] == sessions[:-1])
    score += weights.session * _session_relevance(relevance, sessions)
    score += weights.speaker * traits.named(documents, query)
    score += weights.date * nearness(traits.days(documents), dates_in(query))
    if signals.means is not None:
        score += weights.likeness * _scaled(_likeness(signals.means, documents, relevance))
    return _best(score, len(score) if most is None else most)


def _best(scores: NDArray[np.float32], k: int) -> NDArray[np.intp]:
    """Return the positions of the k highest scores, highest first, the earlier of equal ones."""
    if k < len(scores):
        among = np.flatnonzero(scores >= np.partition(scores, -k)[-k])
        best: NDArray[np.intp] = among[np.argsort(-scores[among], kind="stable")][:k]
        return best
    return np.argsort(-scores, kind="stable")


def _known(values: NDArray[np.float32], documents: NDArray[np.intp]) -> NDArray[np.float32]:
    """Return values of the documents; those not encoded yet count as the average one."""
    known = documents < len(values)
    scores = np.full(len(documents), values.mean() if len(values) else 0, np.float32)
    scores[known] = values[documents[known]]
    return scores


def _likeness(
    means: NDArray[np.float32], documents: NDArray[np.intp], relevance: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return how near each document's mean is to that of the most relevant documents."""
    best = _best(relevance, _EXEMPLARS)
    best = best[documents[best] < len(means)]
    weight = relevance[best] - relevance[best].min(initial=np.inf) + np.float32(0.1)
    centre = (means[documents[best]] * weight[:, None]).sum(0)
    return _known(product(means, centre[:, None])[:, 0], documents)


def _session_relevance(
    relevance: NDArray[np.float32], sessions: NDArray[np.intp]
) -> NDArray[np.float32]:
    """Return for each item the mean relevance of its session's three best."""
    order = np.lexsort((-relevance, sessions))
    starts = np.flatnonzero(np.diff(sessions, prepend=-1))
    is_best = np.arange(len(order)) - starts[sessions] < _SESSION_BEST
    sums = np.add.reduceat(np.where(is_best, relevance[order], 0), starts)
    means = sums / np.add.reduceat(is_best.astype(np.float32), starts)
    of_items: NDArray[np.float32] = means[sessions].astype(np.float32)
    return of_items


def _scaled(values: NDArray[np.float32]) -> NDArray[np.float32]:
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    if high <= low:
        return np.zeros_like(values)
    scaled: NDArray[np.float32] = (values - low) / (high - low)
    return scaled
