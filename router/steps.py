"""What each token says of the steps that a word problem takes: a linear model of counted tokens.

Owns one column of the token table. It is fitted on word problems alone and read by their head
alone: on other formats such a column ranked left-out sets worse than the network without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from router.network import Floats

_RIDGE = 100.0


@dataclass(frozen=True, slots=True)
class Steps:
    """A column of the table, float32 [vocabulary], and what its sum over a problem looks like."""

    column: Floats
    mean: float
    spread: float


def steps_of_tokens(ids: Sequence[NDArray[np.int32]], level: Floats, vocabulary_size: int) -> Steps:
    """Return what tokens say of the level of word problems; nothing where there are too few.

    Args:
        ids: token ids of each problem.
        level: float32 [problems], finite.
        vocabulary_size: how many rows the table has.
    """
    from scipy.sparse import csr_matrix  # type: ignore[import-untyped]  # it ships no types
    from sklearn.linear_model import Ridge

    if len(ids) < 2 or not np.ptp(level):
        return Steps(np.zeros(vocabulary_size, np.float32), 0.0, 1.0)
    starts = np.cumsum([0, *map(len, ids)])
    tokens = np.concatenate(ids)
    counts = csr_matrix((np.ones(len(tokens)), tokens, starts), (len(ids), vocabulary_size))
    counts.sum_duplicates()
    model = Ridge(alpha=_RIDGE, solver="sparse_cg").fit(
        counts, (level - level.mean()) / level.std()
    )
    sums = counts @ model.coef_
    return Steps(model.coef_.astype(np.float32), float(sums.mean()), max(float(sums.std()), 1e-6))
