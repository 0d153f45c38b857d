from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np

from memory import Item, Message
from memory.recall import RecallWeights, Signals, Traits, rank
from memory.vectors import TokenVectors

START = datetime(2026, 5, 1, tzinfo=UTC)


def traits_of(*texts: str, gap_before: int | None = None, names: str = "AB") -> Traits:
    traits = Traits()
    for n, text in enumerate(texts):
        late = timedelta(days=1) if gap_before is not None and n >= gap_before else timedelta()
        metadata = {"name": "Asha" if names[n % len(names)] == "A" else "Bala"}
        at = START + timedelta(minutes=n) + late
        traits.add(Item(f"msg_{n}_a", n + 1, Message("user", text), at, metadata=metadata))
    return traits


def order(traits: Traits, lexical: list[float], query: str = "?", **weights: float) -> list[int]:
    none = dict.fromkeys(RecallWeights.__dataclass_fields__, 0.0)
    signals = Signals(np.array(lexical, np.float32))
    documents = np.arange(len(lexical))
    chosen = RecallWeights(**{**none, "lexical": 1.0, **weights})
    return [int(i) for i in rank(documents, query, traits, signals, chosen)]


def test_the_best_match_comes_first() -> None:
    assert order(traits_of("a", "b", "c"), [0.1, 2.0, 1.0]) == [1, 2, 0]


def test_the_answer_to_a_matching_question_rises() -> None:
    traits = traits_of("where do you live?", "in Madurai", "nice", "ok")
    assert order(traits, [1, 0, 0, 0.1], answers=0.5)[:2] == [0, 1]


def test_what_the_named_speaker_said_rises() -> None:
    traits = traits_of("one", "two", "three")
    assert order(traits, [0.5, 0.5, 1], query="what did Bala say?", speaker=1.8)[0] == 1
    assert order(traits, [0.5, 0.5, 1], query="Asha and Bala", speaker=1.8)[0] == 2


def test_items_of_a_session_that_matches_rise() -> None:
    traits = traits_of("a", "b", "c", "d", gap_before=2)
    assert order(traits, [1, 0, 0.1, 0.1], session=0.9) == [0, 1, 2, 3]


def test_items_without_vectors_yet_count_as_average() -> None:
    traits = traits_of("a", "b", "c")
    signals = Signals(np.zeros(3, np.float32), np.array([1.0, 0.0], np.float32))
    ranked = rank(np.arange(3), "?", traits, signals, RecallWeights(session=0))
    assert ranked.tolist() == [0, 2, 1]


def test_what_means_the_same_as_the_best_matches_rises() -> None:
    traits = traits_of("a", "b", "c", "d")
    vectors = TokenVectors(2)
    for row in ([127, 0], [0, 127], [127, 0], [0, 127]):
        vectors.add(np.array([row], np.int8))
    signals = Signals(np.array([1, 0, 0, 0], np.float32), None, vectors)
    ranked = rank(np.arange(4), "?", traits, signals, RecallWeights(echo=0))
    assert ranked.tolist()[:2] == [0, 2]


def test_a_session_counts_by_its_three_best() -> None:
    traits = traits_of(*"abcdefgh", gap_before=5)
    lexical = [0.5, 0.5, 0.5, 0, 0, 1, 0, 0]
    assert order(traits, lexical, session=0.9)[:4] == [5, 0, 1, 2]


def test_nothing_to_rank_is_no_error() -> None:
    assert order(traits_of(), []) == []


def test_words_alone_outweigh_who_said_it() -> None:
    traits = traits_of("one", "two", "three")
    by_words = Signals(np.array([0, 0.5, 1], np.float32))
    ranked = rank(np.arange(3), "what did Bala say?", traits, by_words, RecallWeights())
    assert ranked.tolist()[:2] == [2, 1]
