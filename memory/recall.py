"""Which earlier items matter for the turn at hand, best first.

Fuses search by words with search by meaning (where an encoder is there) and small priors. Knows
items and scores, neither tokens nor Redis.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memory.columns import Column
from memory.conversation import Item
from memory.dates import dates_in, nearness
from memory.quoting import speaker_of, time_said

_SESSION_GAP_S = 3600.0


@dataclass(frozen=True, slots=True)
class RecallWeights:
    """How much each signal counts; the two searches are scaled to 0..1 first.

    `before` and `after` lend an item part of its neighbours' scores, `answers` part of the score
    of a question just before it; `question` is taken from items that only ask; `speaker` goes to
    items of the one speaker whom the query names; `session` lends an item part of the mean of its
    session's three best; `date` goes to what was said around a date the query names;
    `length` is taken from an item for each e-fold of its length, as it leaves less room for others.
    Measured in benchmarks/memory.
    """

    lexical: float = 1.0
    meaning: float = 2.0
    before: float = 0.1
    after: float = 0.07
    answers: float = 0.15
    question: float = 0.1
    speaker: float = 0.2
    session: float = 0.3
    date: float = 0.25
    length: float = 0.1


class Traits:
    """What recall wants to know of each item beside its words, kept as the items come."""

    def __init__(self) -> None:
        self._times = Column(np.float64)
        self._speakers = Column(np.int32)
        self._asks = Column(np.float32)
        self._lengths = Column(np.float32)
        self._names: dict[str, int] = {}

    def add(self, item: Item) -> None:
        """Add the next item."""
        self._times.append(time_said(item).timestamp())
        self._speakers.append(self._names.setdefault(speaker_of(item).casefold(), len(self._names)))
        self._lengths.append(np.log(40 + len(item.message.text)))
        self._asks.append(item.message.text.rstrip().endswith(("?", "\u061f", "\uff1f")))

    def lengths(self, documents: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return the natural logarithm of each document's characters: float32 [n]."""
        return self._lengths.values[documents]

    def asks(self, documents: NDArray[np.intp]) -> NDArray[np.float32]:
        """Mark the documents that end in a question: float32 [n]."""
        return self._asks.values[documents]

    def sessions(self, documents: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the session number of each document; a silence of an hour begins a new one."""
        times = self._times.values[documents]
        gaps = np.abs(np.diff(times, prepend=times[:1])) > _SESSION_GAP_S
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
    """Scores of every document of a conversation: float32 [n]; `meaning` None without vectors."""

    lexical: NDArray[np.float32]
    meaning: NDArray[np.float32] | None = None


def rank(
    documents: NDArray[np.intp],
    query: str,
    traits: Traits,
    signals: Signals,
    weights: RecallWeights,
) -> NDArray[np.intp]:
    """Return positions in `documents`, the most relevant to the query first.

    Args:
        documents: ascending document numbers (an item's `seq` less one) to choose from.
        query: the user's words.
        traits: of at least these documents.
        signals: scores of at least these documents.
        weights: how the signals are fused.
    """
    if not len(documents):
        return np.zeros(0, np.intp)
    score = weights.lexical * _scaled(signals.lexical[documents])
    if signals.meaning is not None:
        score = score + weights.meaning * _scaled(_known(signals.meaning, documents))
    asks = traits.asks(documents)
    answers = _shifted(score * asks)
    score = score + weights.before * _shifted(score) + weights.after * _shifted(score, -1)
    score = score + weights.answers * answers - weights.question * asks
    score = score + weights.speaker * traits.named(documents, query)
    score = score + weights.date * nearness(traits.days(documents), dates_in(query))
    score = score - weights.length * traits.lengths(documents)
    score = score + weights.session * _session_scores(score, traits.sessions(documents))
    order: NDArray[np.intp] = np.argsort(-score, kind="stable")
    return order


def _known(meaning: NDArray[np.float32], documents: NDArray[np.intp]) -> NDArray[np.float32]:
    """Return scores of the documents; those not encoded yet count as the average one."""
    known = documents < len(meaning)
    scores = np.full(len(documents), meaning.mean() if len(meaning) else 0, np.float32)
    scores[known] = meaning[documents[known]]
    return scores


def _shifted(values: NDArray[np.float32], by: int = 1) -> NDArray[np.float32]:
    shifted = np.zeros_like(values)
    if by > 0:
        shifted[by:] = values[:-by]
    else:
        shifted[:by] = values[-by:]
    return shifted


def _session_scores(score: NDArray[np.float32], sessions: NDArray[np.intp]) -> NDArray[np.float32]:
    """Return for each item the mean of its session's three best scores."""
    n_sessions = int(sessions.max()) + 1
    best = np.zeros(n_sessions, np.float32)
    order = np.lexsort((-score, sessions))
    starts = np.searchsorted(sessions[order], np.arange(n_sessions))
    for number, start in enumerate(starts):
        stop = starts[number + 1] if number + 1 < n_sessions else len(order)
        best[number] = score[order[start : min(start + 3, stop)]].mean()
    of_items: NDArray[np.float32] = best[sessions]
    return of_items


def _scaled(values: NDArray[np.float32]) -> NDArray[np.float32]:
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    if high <= low:
        return np.zeros_like(values)
    scaled: NDArray[np.float32] = (values - low) / (high - low)
    return scaled
