"""Background work that survives a crash: a queue on a Redis stream with a consumer group.

A job is done once or more, never less: it leaves the stream only after its handler returned, and
a job whose worker died is taken over. Handlers therefore commit by compare-and-set. Jobs name a
conversation by its key, never by the caller's own name, and carry no text.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from redis.exceptions import RedisError, ResponseError

from memory.keys import JOBS

_GROUP = "memory"
_MAX_STREAM = 100_000
_MAX_DELIVERIES = 5


@dataclass(frozen=True, slots=True)
class SummaryJob:
    """Summarise the items of positions `start` to before `stop` of a conversation's log."""

    tenant: str
    slug: str
    start: int
    stop: int


class JobQueue:
    """Summary jobs of all tenants.

    Args:
        redis: a handle with `decode_responses=False`.
        consumer: names this process; unique.
        on_failure: told of what a handler raised and of jobs that are given up.
        takeover_s: a job that a worker holds longer without finishing goes to another one.
        poll_s: pause between looks at an empty queue.
    """

    def __init__(
        self,
        redis: Any,
        consumer: str,
        on_failure: Callable[[BaseException], None],
        *,
        takeover_s: float = 60.0,
        poll_s: float = 0.5,
    ) -> None:
        self._redis = redis
        self._consumer = consumer
        self._on_failure = on_failure
        self._takeover_ms = round(takeover_s * 1000)
        self._poll_s = poll_s

    async def put(self, job: SummaryJob) -> None:
        """Queue a job; past a hundred thousand the oldest is dropped and made when next missed."""
        fields = {
            "tenant": job.tenant,
            "slug": job.slug,
            "start": str(job.start),
            "stop": str(job.stop),
        }
        await self._redis.xadd(JOBS, fields, maxlen=_MAX_STREAM, approximate=True)

    async def run(self, handle: Callable[[SummaryJob], Awaitable[None]]) -> None:
        """Work until cancelled."""
        is_ready = False
        while True:
            try:
                if not is_ready:
                    await self.prepare()
                    is_ready = True
                n_done = await self.work_once(handle)
            except (RedisError, OSError, TimeoutError) as error:
                self._on_failure(error)
                is_ready, n_done = False, 0
            if not n_done:
                await asyncio.sleep(self._poll_s)

    async def prepare(self) -> None:
        """Make stream and group where they are missing."""
        try:
            await self._redis.xgroup_create(JOBS, _GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    async def work_once(self, handle: Callable[[SummaryJob], Awaitable[None]]) -> int:
        """Take over what dead workers left, else read new jobs; return how many were taken."""
        _, taken, *_ = await self._redis.xautoclaim(
            JOBS, _GROUP, self._consumer, min_idle_time=self._takeover_ms, count=4
        )
        for entry_id, fields in taken:
            if await self._is_hopeless(entry_id):
                self._on_failure(RuntimeError(f"given up after {_MAX_DELIVERIES} deliveries"))
                await self._finish(entry_id)
            else:
                await self._do(entry_id, fields, handle)
        if taken:
            return len(taken)
        read = await self._redis.xreadgroup(_GROUP, self._consumer, {JOBS: ">"}, count=4)
        entries = _entries(read)
        for entry_id, fields in entries:
            await self._do(entry_id, fields, handle)
        return len(entries)

    async def _do(
        self,
        entry_id: bytes,
        fields: dict[bytes, bytes] | None,
        handle: Callable[[SummaryJob], Awaitable[None]],
    ) -> None:
        job = _job_of(fields)
        if job is not None:
            try:
                await handle(job)
            except (RedisError, OSError, TimeoutError):
                raise
            except Exception as error:  # noqa: BLE001  (counted; the job stays for another try)
                self._on_failure(error)
                return
        await self._finish(entry_id)

    async def _finish(self, entry_id: bytes) -> None:
        async with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.xack(JOBS, _GROUP, entry_id)
            pipeline.xdel(JOBS, entry_id)
            await pipeline.execute()

    async def _is_hopeless(self, entry_id: bytes) -> bool:
        found = await self._redis.xpending_range(JOBS, _GROUP, entry_id, entry_id, 1)
        return bool(found) and found[0]["times_delivered"] > _MAX_DELIVERIES


def _entries(read: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """Return entries of an XREADGROUP reply in either protocol's shape."""
    if not read:
        return []
    if isinstance(read, dict):
        (batches,) = read.values()
        return [entry for batch in batches for entry in batch]
    return list(read[0][1])


def _job_of(fields: dict[bytes, bytes] | None) -> SummaryJob | None:
    """Return None for an entry that was trimmed or is no job of this version."""
    try:
        return SummaryJob(
            tenant=(fields or {})[b"tenant"].decode(),
            slug=(fields or {})[b"slug"].decode(),
            start=int((fields or {})[b"start"]),
            stop=int((fields or {})[b"stop"]),
        )
    except (KeyError, ValueError):
        return None
