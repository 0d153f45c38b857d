"""Makes the summary segments of long conversations, off the request path.

Owns when a segment is due, how it is made and what is checked before it counts. A segment is made
from the items it covers. With a `complete` callable a model may write it; a text that is too long
or not faithful to its source is thrown away, and sentences of the source stand instead.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from memory.context import weight_of
from memory.conversation import Item, Message
from memory.errors import SegmentCorrupt, SummaryRefused
from memory.faithful import is_faithful
from memory.jobs import JobQueue, SummaryJob
from memory.keys import keys_of_slug, slug_of
from memory.quoting import speaker_of, time_said
from memory.records import decode_record, decode_segment, encode_segment
from memory.remembered import Remembered
from memory.scripts import RedisHandle, script_of
from memory.summarize import BLOCK_ITEMS, segment_ranges, summarise

SEGMENT_TOKENS = 240
"""The most tokens of a stored segment, by the rough weight that knows no model."""
_SOURCE_CHARACTERS = 24_000

Complete = Callable[[str, str], Awaitable[str | None]]
"""Tenant and prompt to a text, by the tenant's cheapest allowed model and charged to it; None where
the tenant's policy asks for no model, or none could answer."""

_PROMPT = """Summarise this part of a conversation ({} to {}) in at most 150 words. Keep every \
number, date, name, amount and decision exactly as written. Add nothing. Write in the language of \
the conversation.

{}"""


class SummaryKeeper:
    """Queues and makes segments.

    Args:
        redis: a handle with `decode_responses=False`.
        queue: the jobs.
        complete: asks a model; None quotes.
        on_failure: told of segments found corrupt and of texts that were thrown away.
    """

    def __init__(
        self,
        redis: RedisHandle,
        queue: JobQueue,
        complete: Complete | None = None,
        on_failure: Callable[[BaseException], None] = lambda _: None,
    ) -> None:
        self._redis = redis
        self._queue = queue
        self._complete = complete
        self._on_failure = on_failure
        self._commit = script_of(redis, "segment")

    async def run(self) -> None:
        """Make segments until cancelled."""
        await self._queue.run(self.make)

    async def want(self, remembered: Remembered) -> None:
        """Queue the segments a conversation lacks; each is asked for once per process."""
        conversation = remembered.loaded.conversation
        n_whole = len(remembered.items) - len(remembered.items) % BLOCK_ITEMS
        for part in segment_ranges(n_whole):
            key = (part.start, part.stop)
            if key in remembered.segments or key in remembered.asked_segments:
                continue
            remembered.asked_segments.add(key)
            await self._queue.put(
                SummaryJob(conversation.tenant, slug_of(conversation.id), part.start, part.stop)
            )

    async def make(self, job: SummaryJob) -> None:
        """Make one segment and commit it, unless it is there or the conversation changed."""
        keys = keys_of_slug(job.tenant, job.slug)
        name = f"{job.start}-{job.stop}"
        async with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.hmget(keys.meta, "gen", "epoch")
            pipeline.lrange(keys.log, job.start, job.stop - 1)
            pipeline.hget(keys.segments, name)
            (generation, epoch), records, standing = await pipeline.execute()
        if generation is None or len(records) < job.stop - job.start:
            return
        if standing is not None:
            if decode_segment(standing) is not None:
                return
            self._on_failure(SegmentCorrupt(name))
        items = [decode_record(record) for record in records]
        text = await self._written(job.tenant, items) or summarise(items, SEGMENT_TOKENS, _weight)
        await self._commit(
            keys=[keys.meta, keys.segments],
            args=[generation, epoch, name, encode_segment(text), standing or b""],
        )

    async def _written(self, tenant: str, items: Sequence[Item]) -> str | None:
        """Return a model's summary, None where there is none that may stand."""
        if self._complete is None:
            return None
        source = "\n".join(
            f"{speaker_of(item)}: {item.message.text}" for item in items if item.message.text
        )
        if len(source) > _SOURCE_CHARACTERS:
            return None  # a part of the source would make a summary that claims too much
        first, last = time_said(items[0]), time_said(items[-1])
        text = await self._complete(tenant, _PROMPT.format(first.date(), last.date(), source))
        if text is None:
            return None
        text = text.strip()
        if _weight(text) > SEGMENT_TOKENS or not is_faithful(text, items):
            self._on_failure(SummaryRefused(f"{len(text)} characters for {len(items)} items"))
            return None
        return text


def _weight(text: str) -> int:
    return weight_of(Message("user", text))
