"""Checks that a dated table of the configuration, prices or exchange rates, holds on every day.

Knows days and where rows stand in the file; knows no amounts.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Protocol

from policies.document import Document, DocumentError, Path

_DAY = timedelta(days=1)


class DatedRow(Protocol):
    """A row that holds from one day to another, both included; without an end, to the next row."""

    @property
    def since(self) -> date:
        """Its first day."""
        ...

    @property
    def to(self) -> date | None:
        """Its last day, None where the next row ends it."""
        ...


def table_errors(
    rows: Sequence[DatedRow], document: Document, path: Path, today: date, *, may_end: bool
) -> list[DocumentError]:
    """Return where rows overlap, leave days out, or end before they begin.

    Args:
        rows: as they stand in the file.
        document: the file.
        path: of the table in it.
        today: a day that must be covered.
        may_end: whether something else counts before the first row and after the last one.
    """
    in_order = sorted(enumerate(rows), key=lambda row: row[1].since)
    errors = [
        document.error((*path, index, "to"), str(row.to), f"not before its first day, {row.since}")
        for index, row in in_order
        if row.to is not None and row.to < row.since
    ]
    for (_, row), (index, following) in zip(in_order, in_order[1:], strict=False):
        place, value = (*path, index, "from"), str(following.since)
        if following.since == row.since or (row.to is not None and following.since <= row.to):
            errors.append(document.error(place, value, "no two rows hold on the same day"))
        elif row.to is not None and following.since > row.to + _DAY:
            missing = f"{row.to + _DAY} to {following.since - _DAY}"
            errors.append(document.error(place, value, f"every day has a row: {missing} has none"))
    first, last = in_order[0], in_order[-1]
    if not may_end and first[1].since > today:
        allowed = f"every day has a row: today, {today}, has none"
        errors.append(document.error((*path, first[0], "from"), str(first[1].since), allowed))
    if not may_end and last[1].to is not None:
        allowed = "every day has a row: the newest one has no end"
        errors.append(document.error((*path, last[0], "to"), str(last[1].to), allowed))
    return errors
