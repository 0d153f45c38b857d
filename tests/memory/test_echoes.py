from __future__ import annotations

import numpy as np

from memory.echoes import echoes
from memory.vectors import TokenVectors

N_DIMENSIONS = 12
COMMON, RARE = 11, 10


def vectors_of(*documents: list[int]) -> TokenVectors:
    """Return vectors of documents given as numbers of unlike tokens."""
    vectors = TokenVectors(N_DIMENSIONS)
    for tokens in documents:
        vectors.add(127 * np.eye(N_DIMENSIONS, dtype=np.int8)[tokens])
    return vectors


def test_what_shares_a_rare_token_with_the_best_match_rises_most() -> None:
    vectors = vectors_of([COMMON, RARE], *[[COMMON]] * 6, [COMMON, RARE], *[[COMMON]] * 6)
    scores = echoes(vectors, np.array([0]), np.ones(1, np.float32), np.arange(len(vectors)))
    assert np.argsort(-scores, kind="stable")[:2].tolist() == [0, 7]


def test_the_more_relevant_match_lends_its_tokens_first() -> None:
    vectors = vectors_of([0, 1, 2, 3, 4, 5, 6, 7], [RARE], *[[COMMON]] * 6, [RARE])
    equal = echoes(vectors, np.array([0, 1]), np.ones(2, np.float32), np.arange(9))
    second = echoes(vectors, np.array([0, 1]), np.array([0.01, 1], np.float32), np.arange(9))
    assert equal[-1] == 0 < second[-1]


def test_best_matches_without_tokens_lend_nothing() -> None:
    vectors = vectors_of([], [RARE], [COMMON])
    scores = echoes(vectors, np.array([0]), np.ones(1, np.float32), np.arange(3))
    assert scores.tolist() == [0, 0, 0]
