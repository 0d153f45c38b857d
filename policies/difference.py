"""The difference between two policy documents, field by field. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Change:
    """One field that differs; None is a field that is not there."""

    field: str
    before: Any
    after: Any


def difference(before: Any, after: Any, field: str = "") -> list[Change]:
    """Return what differs between two parsed documents, in the order of their fields.

    Lists are compared as wholes: the order of models and rules is what they mean.
    """
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        names = dict.fromkeys([*before, *after])
        return [
            change
            for name in names
            for change in difference(
                before.get(name), after.get(name), f"{field}.{name}" if field else str(name)
            )
        ]
    return [] if before == after else [Change(field, before, after)]
