"""Makes the summary segments of long conversations, off the request path.

Owns when a segment is due, how it is made and what is checked before it counts. A segment is made
from the items it covers. With a `complete` callable a model writes it; a text that holds a value, a
name or a negation its source lacks is thrown away, and sentences of the source stand instead.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence

from memory.context import weight_of
from memory.conversation import Item, Message
from memory.jobs import JobQueue, SummaryJob
from memory.keys import keys_of_slug, slug_of
from memory.lexical import words_of
from memory.quoting import speaker_of, time_said
from memory.records import decode_record
from memory.remembered import Remembered
from memory.store import RedisHandle, script_of
from memory.summarize import segment_ranges, summarise, values_of

SEGMENT_TOKENS = 240
"""The most tokens of a stored segment, by the rough weight that knows no model."""
_SOURCE_CHARACTERS = 24_000
_NAME = re.compile(r"(?<=[\w,;] )[A-Z][a-z]{2,}")
_NEGATIONS = frozenset(
    ["not", "no", "never", "none", "nobody", "cannot", "can't", "don't", "won't", "isn't"]
)

Complete = Callable[[str, str], Awaitable[str]]
"""Tenant and prompt to a text, by the tenant's cheapest allowed model and charged to it."""


class SummaryKeeper:
    """Queues and makes segments.

    Args:
        redis: a handle with `decode_responses=False`.
        queue: the jobs.
        complete: asks a model; None quotes.
    """

    def __init__(
        self, redis: RedisHandle, queue: JobQueue, complete: Complete | None = None
    ) -> None:
        self._redis = redis
        self._queue = queue
        self._complete = complete
        self._commit = script_of(redis, "segment")

    async def run(self) -> None:
        """Make segments until cancelled."""
        await self._queue.run(self.make)

    async def want(self, remembered: Remembered) -> None:
        """Queue the segments a conversation lacks; each is asked for once per process."""
        conversation = remembered.loaded.conversation
        n_whole = len(remembered.items) - len(remembered.items) % 32
        for part in segment_ranges(n_whole):
            key = (part.start, part.stop)
            if key in remembered.segments or key in remembered.asked_segments:
                continue
            remembered.asked_segments.add(key)
            await self._queue.put(
                SummaryJob(conversation.tenant, slug_of(conversation.id), part.start, part.stop)
            )

    async def make(self, job: SummaryJob) -> None:
        """Make one segment and commit it, unless the conversation changed meanwhile."""
        keys = keys_of_slug(job.tenant, job.slug)
        async with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.hmget(keys.meta, "gen", "epoch")
            pipeline.lrange(keys.log, job.start, job.stop - 1)
            (generation, epoch), records = await pipeline.execute()
        if generation is None or len(records) < job.stop - job.start:
            return
        items = [decode_record(record) for record in records]
        text = await self._written(job.tenant, items) or summarise(items, SEGMENT_TOKENS, _weight)
        await self._commit(
            keys=[keys.meta, keys.segments],
            args=[generation, epoch, f"{job.start}-{job.stop}", text],
        )

    async def _written(self, tenant: str, items: Sequence[Item]) -> str | None:
        if self._complete is None:
            return None
        source = "\n".join(f"{speaker_of(item)}: {item.message.text}" for item in items)
        if len(source) > _SOURCE_CHARACTERS:
            return None  # a part of the source would make a summary that claims too much
        first, last = time_said(items[0]), time_said(items[-1])
        text = await self._complete(tenant, _PROMPT.format(first.date(), last.date(), source))
        return text if is_faithful(text, items) else None


_PROMPT = """Summarise this part of a conversation ({} to {}) in at most 150 words. Keep every \
number, date, name, amount and decision exactly as written. Add nothing.

{}"""


def is_faithful(text: str, items: Sequence[Item]) -> bool:
    """Return whether a summary is short enough and holds nothing its source lacks.

    Checked are exact values, capitalised names and negations; a rule that a paraphrase can pass
    and an invention of a fact mostly cannot.
    """
    source = "\n".join(f"{speaker_of(item)} {item.message.text}" for item in items)
    words = set(words_of(source))
    dates = {part for item in items for part in time_said(item).strftime("%Y %-m %-d").split()}
    if not text.strip() or _weight(text) > SEGMENT_TOKENS:
        return False
    if not set(values_of(text)) <= dates.union(values_of(source)):
        return False
    if any(name.casefold() not in words for name in _NAME.findall(text)):
        return False
    negations = _NEGATIONS & set(text.casefold().split())
    return not negations or bool(_NEGATIONS & set(source.casefold().split()))


def _weight(text: str) -> int:
    return weight_of(Message("user", text))
