"""A numpy column that grows, and products of matrices that stay on one thread."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_ONE_THREAD_PRODUCTS = 262_144
"""Up to this many multiplications OpenBLAS keeps to the calling thread. Source: its
interface/gemm.c, SMP_THRESHOLD_MIN times GEMM_MULTITHREAD_THRESHOLD. Above it wakes others, which
costs tens of milliseconds on a box whose cores are busy serving."""


class Column:
    """Rows of one shape, appended in place; what was taken before stays as it was.

    Args:
        dtype: of the numbers.
        width: numbers in a row; 0 makes rows plain numbers.
    """

    __slots__ = ("_n", "_rows")

    def __init__(self, dtype: DTypeLike, width: int = 0) -> None:
        self._rows: NDArray[Any] = np.zeros((64, width) if width else 64, dtype)
        self._n = 0

    def __len__(self) -> int:
        return self._n

    def append(self, row: Any) -> None:
        """Add a row."""
        self.extend([row])

    def extend(self, rows: Any) -> None:
        """Add rows; another thread that reads meanwhile sees all of them or none."""
        stop = self._n + len(rows)
        if stop > len(self._rows):
            grown = np.zeros((max(stop, 2 * len(self._rows)), *self._rows.shape[1:]), self.dtype)
            grown[: self._n] = self._rows[: self._n]
            self._rows = grown
        self._rows[self._n : stop] = rows
        self._n = stop

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the numbers."""
        return self._rows.dtype

    @property
    def values(self) -> NDArray[Any]:
        """The rows there are; not to be written to."""
        n = self._n  # first: arrays taken after it hold at least that many rows
        return self._rows[:n]


def product(rows: NDArray[Any], columns: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return rows @ columns as float32 [n, k], computed on the calling thread.

    Args:
        rows: [n, d], of any number type; converted piece by piece.
        columns: float32 [d, k].
    """
    out = np.empty((len(rows), columns.shape[1]), np.float32)
    step = max(1, _ONE_THREAD_PRODUCTS // max(1, columns.size))
    for start in range(0, len(rows), step):
        piece = rows[start : start + step]
        np.matmul(piece.astype(np.float32, copy=False), columns, out=out[start : start + step])
    return out
