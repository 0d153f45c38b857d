"""The column of steps: tokens that make word problems longer to solve, and no others."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn")

from router.steps import steps_of_tokens


def test_a_token_of_long_solutions_weighs_more_than_one_that_is_everywhere():
    draw = np.random.default_rng(0)
    each = [draw.integers(0, 4, 10) for _ in range(300)]
    ids = [tokens.astype(np.int32) for tokens in each]
    level = np.array([(tokens == 3).sum() for tokens in ids], np.float32)
    column = steps_of_tokens(ids, level, vocabulary_size=6).column
    assert column[3] > 0.1 + column[:3].max()
    assert column[4:].tolist() == [0, 0]


def test_without_word_problems_the_column_says_nothing():
    steps = steps_of_tokens([], np.zeros(0, np.float32), vocabulary_size=3)
    assert steps.column.tolist() == [0, 0, 0]
    assert steps.spread == 1
