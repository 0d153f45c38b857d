"""Loads: how busy each model's backend is right now, as routing wants to know it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from router.request import Load


@dataclass(slots=True)
class Loads:
    """Asks each backend that can tell; a model that is missing counts as free and up."""

    sources: dict[str, Callable[[], Load]] = field(default_factory=dict)

    def now(self) -> Mapping[str, Load]:
        """Return the load by catalogue name, from what the backends last heard."""
        return {name: source() for name, source in self.sources.items()}
