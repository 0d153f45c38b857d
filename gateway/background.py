"""Background: the tasks of one process, held until they are done."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any, Self

log = logging.getLogger("turnwise.background")
_FINISH_S = 10.0


class Background:
    """Runs periodic work and work that outlives its caller; an async context manager.

    Leaving it ends the periodic work and waits up to 10 s for the rest.
    """

    def __init__(self) -> None:
        self._group = asyncio.TaskGroup()
        self._periodic: list[asyncio.Task[None]] = []
        self._kept: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        """Open the group that holds the tasks."""
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the periodic work, finish the kept work."""
        for task in self._periodic:
            task.cancel()
        if self._kept:
            _, late = await asyncio.wait(self._kept, timeout=_FINISH_S)
            for task in late:
                task.cancel()
        await self._group.__aexit__(None, None, None)

    def keep(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Return a task that goes on when its caller is cancelled; its failure is its awaiter's."""
        # Not in the group: there, one failed turn would end everybody's periodic work.
        task = asyncio.get_running_loop().create_task(work)
        self._kept.add(task)
        task.add_done_callback(self._kept.discard)
        return task

    def every(self, seconds: float, name: str, work: Callable[[], Awaitable[Any]]) -> None:
        """Do the work again and again, that long apart; failures are logged once a change."""

        async def repeat() -> None:
            is_failing = False
            while True:
                await asyncio.sleep(seconds)
                try:
                    await work()
                except Exception as error:  # noqa: BLE001 - one bad round must not end the rounds
                    if not is_failing:
                        log.error("%s is failing: %s: %s", name, type(error).__name__, error)
                    is_failing = True
                else:
                    if is_failing:
                        log.warning("%s works again", name)
                    is_failing = False

        self._periodic.append(self._group.create_task(repeat()))
