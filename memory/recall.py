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
from memory.echoes import echoes
from memory.quoting import speaker_of, time_said
from memory.vectors import TokenVectors

SESSION_GAP_S = 3600.0
"""A silence of this length ends a session."""


_SESSION_BEST = 3
_EXEMPLARS = 5
_ECHOED = 200
_WORDS_ALONE = 2.0
"""Where nothing is known of meaning, words count for more, or the priors would decide."""


@dataclass(frozen=True, slots=True)
class RecallWeights:
    """How much each signal counts; the two searches are scaled to 0..1 first.

    The sum of the two searches is an item's relevance. `likeness` goes to items that mean what the
    five most relevant ones mean (pseudo-relevance feedback: Rocchio 1971), `echo` to those that
    match the rarest tokens of these five; `answers` lends an item
    part of the relevance of a question just before it; `question` is taken from items that only
    ask; `speaker` goes to items of the one speaker whom the query names; `session` lends an item
    part of the mean relevance of its session's three best; `date` goes to what was said around a
    date the query names. Chosen with one conversation left out at a time; see docs/memory.md.
    """

    lexical: float = 1.0
    meaning: float = 2.2
    likeness: float = 0.6
    echo: float = 0.6
    answers: float = 0.25
    question: float = 0.35
    speaker: float = 0.6
    session: float = 0.35
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

    `vectors` are those of the conversation; they may be of fewer documents than there are.
    """

    lexical: NDArray[np.float32]
    meaning: NDArray[np.float32] | None = None
    vectors: TokenVectors | None = None


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
    if signals.meaning is None:
        relevance = _WORDS_ALONE * relevance
    else:
        relevance = relevance + weights.meaning * _scaled(_known(signals.meaning, documents))
    asks, sessions = traits.asks(documents), traits.sessions(documents)
    score = relevance - weights.question * asks
    score[1:] += weights.answers * (relevance * asks)[:-1] * (sessions[1:] == sessions[:-1])
    score += weights.session * _session_relevance(relevance, sessions)
    score += weights.speaker * traits.named(documents, query)
    score += weights.date * nearness(traits.days(documents), dates_in(query))
    if signals.vectors is not None:
        score += _feedback(signals.vectors, documents, relevance, weights)
    return _best(score, len(score) if most is None else most)


def _best(scores: NDArray[np.float32], k: int) -> NDArray[np.intp]:
    """Return the positions of the k highest scores, highest first, the earlier of equal ones."""
    if k < len(scores):
        # Most scores are the lowest one, and numpy's partition is slow among equals.
        above = np.flatnonzero(scores > scores.min())
        if len(above) > k:
            above = above[scores[above] >= np.partition(scores[above], -k)[-k]]
        elif len(above) < k:
            above = np.flatnonzero(scores >= np.partition(scores, -k)[-k])
        best: NDArray[np.intp] = above[np.argsort(-scores[above], kind="stable")][:k]
        return best
    return np.argsort(-scores, kind="stable")


def _known(values: NDArray[np.float32], documents: NDArray[np.intp]) -> NDArray[np.float32]:
    """Return values of the documents; those not encoded yet count as the average one."""
    known = documents < len(values)
    scores = np.full(len(documents), values.mean() if len(values) else 0, np.float32)
    scores[known] = values[documents[known]]
    return scores


def _feedback(
    vectors: TokenVectors,
    documents: NDArray[np.intp],
    relevance: NDArray[np.float32],
    weights: RecallWeights,
) -> NDArray[np.float32]:
    """Return what documents gain by saying what the most relevant ones say: float32 [n]."""
    among = _best(relevance, _ECHOED)
    among = among[documents[among] < len(vectors)]
    best = among[:_EXEMPLARS]
    if not len(best):
        return np.zeros(len(documents), np.float32)
    weight = relevance[best] - relevance[best].min() + np.float32(0.1)
    centre = (vectors.means[documents[best]] * weight[:, None]).sum(0)
    likeness = _known(product(vectors.means, centre[:, None])[:, 0], documents)
    echo = echoes(vectors, documents[best], relevance[best], documents[among])
    return weights.likeness * _scaled(likeness) + weights.echo * _scaled(_known(echo, documents))


def _session_relevance(
    relevance: NDArray[np.float32], sessions: NDArray[np.intp]
) -> NDArray[np.float32]:
    """Return for each item the mean relevance of its session's three best."""
    starts = np.flatnonzero(np.diff(sessions, prepend=-1))
    left, sums = relevance.copy(), np.zeros(len(starts), np.float32)
    lengths = np.diff(starts, append=len(sessions))
    for place in range(_SESSION_BEST):  # take the best away, time after time: no sort is needed
        best = np.maximum.reduceat(left, starts)
        sums += np.where(lengths > place, best, 0)
        taken = np.flatnonzero(left == best[sessions])
        left[taken[np.diff(sessions[taken], prepend=-1) > 0]] = -np.inf
    means = sums / np.minimum(lengths, _SESSION_BEST)
    of_items: NDArray[np.float32] = means[sessions].astype(np.float32)
    return of_items


def _scaled(values: NDArray[np.float32]) -> NDArray[np.float32]:
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    if high <= low:
        return np.zeros_like(values)
    scaled: NDArray[np.float32] = (values - low) / (high - low)
    return scaled
