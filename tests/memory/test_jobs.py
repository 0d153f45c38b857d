from __future__ import annotations

import pytest
from redis.asyncio import Redis

from memory.jobs import JobQueue, SummaryJob
from memory.keys import JOBS

JOB = SummaryJob("acme", "conv_1", 0, 32)


class Worker:
    def __init__(self, error: Exception | None = None) -> None:
        self.done: list[SummaryJob] = []
        self.error = error

    async def __call__(self, job: SummaryJob) -> None:
        if self.error:
            raise self.error
        self.done.append(job)


@pytest.fixture
def failures() -> list[BaseException]:
    return []


async def queue_of(redis: Redis, name: str, failures: list[BaseException]) -> JobQueue:
    queue = JobQueue(redis, name, failures.append, takeover_s=0)
    await queue.prepare()
    return queue


async def test_a_job_is_done_and_leaves_no_trace(
    redis: Redis, failures: list[BaseException]
) -> None:
    queue, worker = await queue_of(redis, "a", failures), Worker()
    await queue.put(JOB)
    assert await queue.work_once(worker) == 1
    assert await queue.work_once(worker) == 0
    assert worker.done == [JOB]
    assert await redis.xlen(JOBS) == 0


async def test_a_job_of_a_dead_worker_is_taken_over(
    redis: Redis, failures: list[BaseException]
) -> None:
    dead, heir = [await queue_of(redis, name, failures) for name in ("dead", "heir")]
    await dead.put(JOB)
    await redis.xreadgroup("memory", "dead", {JOBS: ">"})  # read, then killed
    worker = Worker()
    assert await heir.work_once(worker) == 1
    assert worker.done == [JOB]


async def test_a_job_that_always_fails_is_given_up(
    redis: Redis, failures: list[BaseException]
) -> None:
    queue, worker = await queue_of(redis, "a", failures), Worker(ValueError("no"))
    await queue.put(JOB)
    for _ in range(10):
        await queue.work_once(worker)
    assert await redis.xlen(JOBS) == 0
    assert 5 <= len(failures) <= 7


async def test_what_is_no_job_is_dropped(redis: Redis, failures: list[BaseException]) -> None:
    queue, worker = await queue_of(redis, "a", failures), Worker()
    await redis.xadd(JOBS, {"nonsense": "1"})
    await queue.work_once(worker)
    assert (worker.done, await redis.xlen(JOBS)) == ([], 0)


async def test_the_group_is_made_once(redis: Redis, failures: list[BaseException]) -> None:
    queue = await queue_of(redis, "a", failures)
    await queue.prepare()
