from __future__ import annotations

import numpy as np

from memory import vectors
from memory.columns import Column, product
from memory.embedder import Encoding
from memory.vectors import TokenVectors


def tokens(*rows: tuple[int, ...]) -> np.ndarray:
    return np.array(rows, np.int8).reshape(len(rows), 4)


def query(*rows: tuple[int, ...]) -> Encoding:
    return Encoding(np.zeros(4, np.float32), tokens(*rows))


EAST, NORTH, UP = (127, 0, 0, 0), (0, 127, 0, 0), (0, 0, 127, 0)


def test_the_document_that_holds_the_querys_tokens_scores_best() -> None:
    held = TokenVectors(4)
    for rows in ([UP], [EAST, UP], [UP], [NORTH, EAST], [UP]):
        held.add(tokens(*rows))
    scores = held.scores(query(EAST, NORTH))
    assert int(scores.argmax()) == 3
    assert scores[4] > scores[0]  # what follows a match has part of its score


def test_documents_without_tokens_keep_their_number() -> None:
    held = TokenVectors(4)
    held.add(tokens())
    held.add(tokens(EAST))
    held.add(tokens())
    assert int(held.scores(query(EAST)).argmax()) == 1
    assert len(held) == 3


def test_a_token_that_matches_everywhere_says_nothing() -> None:
    held = TokenVectors(4)
    for _ in range(3):
        held.add(tokens(UP))
    assert np.allclose(held.scores(query(UP)), 0)


def test_long_conversations_are_ranked_as_if_compared_in_full(monkeypatch) -> None:
    random = np.random.default_rng(0)
    held = TokenVectors(16)
    for _ in range(500):
        rows = random.normal(size=(random.integers(1, 9), 16))
        rows *= 127 / np.linalg.norm(rows, axis=1, keepdims=True)
        held.add(rows.round().astype(np.int8))
    asked = Encoding(np.zeros(16, np.float32), held.row(301)[:5])
    exact = held.scores(asked)
    monkeypatch.setattr(vectors, "_EXACT_DOCUMENTS", 10)
    monkeypatch.setattr(vectors, "_CANDIDATES", 200)
    assert int(held.scores(asked).argmax()) == int(exact.argmax())


def test_nothing_held_or_asked_scores_nothing() -> None:
    held = TokenVectors(4)
    assert held.scores(query(EAST)).tolist() == []
    held.add(tokens(EAST))
    assert held.scores(query()).tolist() == [0]


def test_a_product_of_many_rows_equals_the_plain_one() -> None:
    random = np.random.default_rng(0)
    rows = random.integers(-127, 127, (3000, 64)).astype(np.int8)
    columns = random.normal(size=(64, 12)).astype(np.float32)
    assert np.allclose(product(rows, columns), rows.astype(np.float32) @ columns, atol=1e-2)


def test_a_column_keeps_what_was_taken_before_it_grew() -> None:
    column = Column(np.float32)
    column.append(1)
    before = column.values
    column.extend(range(1000))
    assert before.tolist() == [1]
    assert len(column) == 1001
