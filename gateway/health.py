"""Health: what readiness looks at."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

State = Literal["ready", "starting", "degraded", "down"]
_CHECK_S = 1.0


@dataclass(slots=True)
class Health:
    """Named checks, each answering its state.

    A check that is `starting` or `down` makes the whole not ready; `degraded` means that turns are
    answered without it.
    """

    checks: dict[str, Callable[[], Awaitable[State]]] = field(default_factory=dict)

    async def report(self) -> tuple[bool, Mapping[str, State]]:
        """Return whether traffic is welcome, and the state of each check."""
        names = list(self.checks)
        states = await asyncio.gather(*(self._ask(self.checks[name]) for name in names))
        report = dict(zip(names, states, strict=True))
        return all(state in ("ready", "degraded") for state in states), report

    @staticmethod
    async def _ask(check: Callable[[], Awaitable[State]]) -> State:
        try:
            async with asyncio.timeout(_CHECK_S):
                return await check()
        except Exception:  # noqa: BLE001 - whatever a check fails with, the answer is the same
            return "down"
