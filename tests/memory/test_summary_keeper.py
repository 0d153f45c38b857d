from __future__ import annotations

from datetime import UTC, datetime

import pytest
from redis.asyncio import Redis

from memory import ConversationStore, Draft, Item, Memory, MemoryConfig, Message
from memory.errors import SegmentCorrupt, SummaryRefused
from memory.faithful import is_faithful
from memory.jobs import JobQueue, SummaryJob
from memory.keys import conversation_keys, slug_of
from memory.records import decode_segment
from memory.summary_keeper import Complete, SummaryKeeper


def user(text: str) -> Message:
    return Message("user", text)


def words(text: str) -> int:
    return len(text.split())


class Fixture:
    def __init__(self, redis: Redis, store: ConversationStore, complete: Complete | None) -> None:
        self.failures: list[BaseException] = []
        self.queue = JobQueue(redis, "a", self.failures.append, takeover_s=0)
        self.keeper = SummaryKeeper(redis, self.queue, complete, self.failures.append)
        self.memory = Memory(
            store,
            MemoryConfig(vectors_from_tokens=10),
            summaries=self.keeper,
            on_failure=self.failures.append,
        )
        self.redis = redis

    async def filled(self, n_items: int) -> None:
        opened = await self.memory.open("acme", "chat", create=True)
        texts = [f"My locker number {n} has code {n}X{n} since Monday" for n in range(n_items)]
        await self.memory.append(opened, [user(text) for text in texts])

    async def work(self) -> None:
        await self.queue.prepare()
        while await self.queue.work_once(self.keeper.make):
            pass

    async def segments(self) -> dict[str, str]:
        key = conversation_keys("acme", "chat").segments
        found = await self.redis.hgetall(key)
        return {name.decode(): decode_segment(text) or "" for name, text in found.items()}


@pytest.fixture
def fixture(redis: Redis, store: ConversationStore) -> Fixture:
    return Fixture(redis, store, None)


async def test_full_blocks_get_a_segment_of_their_own_words(fixture: Fixture) -> None:
    await fixture.filled(100)
    await fixture.work()
    segments = await fixture.segments()
    assert set(segments) == {"0-64", "64-96"}
    assert "locker number" in segments["0-64"]
    assert fixture.failures == []


async def test_a_stored_segment_stands_in_the_summary(
    redis: Redis, store: ConversationStore
) -> None:
    async def complete(tenant: str, prompt: str) -> str:
        return f"{tenant} keeps codes of many lockers."

    fixture = Fixture(redis, store, complete)
    await fixture.filled(1000)
    await fixture.work()
    opened = await fixture.memory.open("acme", "chat")
    context = await fixture.memory.build_context(
        opened, [user("hi")], window_tokens=4000, count_tokens=words
    )
    assert "acme keeps codes of many lockers." in context.summary


async def test_an_unfaithful_summary_gives_way_to_quotations(
    redis: Redis, store: ConversationStore
) -> None:
    async def complete(tenant: str, prompt: str) -> str:
        return "The code of every locker is 999999."

    fixture = Fixture(redis, store, complete)
    await fixture.filled(40)
    await fixture.work()
    assert "999999" not in (await fixture.segments())["0-32"]
    assert [type(failure) for failure in fixture.failures] == [SummaryRefused]


async def test_a_summary_past_its_budget_gives_way_to_quotations(
    redis: Redis, store: ConversationStore
) -> None:
    async def complete(tenant: str, prompt: str) -> str:
        return "locker code " * 1000

    fixture = Fixture(redis, store, complete)
    await fixture.filled(40)
    await fixture.work()
    assert "locker code locker code" not in (await fixture.segments())["0-32"]


async def test_no_model_means_quotations(redis: Redis, store: ConversationStore) -> None:
    async def complete(tenant: str, prompt: str) -> None:
        return None

    fixture = Fixture(redis, store, complete)
    await fixture.filled(40)
    await fixture.work()
    assert "locker number" in (await fixture.segments())["0-32"]
    assert fixture.failures == []


async def test_a_late_job_does_not_revive_a_deleted_conversation(fixture: Fixture) -> None:
    await fixture.filled(40)
    await fixture.memory.delete("acme", "chat")
    await fixture.work()
    assert await fixture.segments() == {}


async def test_two_workers_commit_one_segment(fixture: Fixture, redis: Redis) -> None:
    await fixture.filled(40)
    opened = await fixture.memory.open("acme", "chat")
    assert opened.remembered is not None
    opened.remembered.asked_segments.clear()
    await fixture.keeper.want(opened.remembered)
    await fixture.work()
    assert set(await fixture.segments()) == {"0-32"}
    assert await redis.hget(conversation_keys("acme", "chat").meta, "segments") == b"1"


async def test_a_redaction_throws_covering_segments_away(fixture: Fixture) -> None:
    await fixture.filled(40)
    await fixture.work()
    opened = await fixture.memory.open("acme", "chat")
    await fixture.memory.store.redact("acme", "chat", opened.items[0].id)
    assert await fixture.segments() == {}


async def test_a_corrupt_segment_is_counted_and_made_anew(fixture: Fixture, redis: Redis) -> None:
    await fixture.filled(40)
    await fixture.work()
    whole = await fixture.segments()
    keys = conversation_keys("acme", "chat")
    await redis.hset(keys.segments, "0-32", b"\xff\xfe")
    await redis.hincrby(keys.meta, "segments", 1)
    other = Memory(fixture.memory.store, MemoryConfig(vectors_from_tokens=10))
    opened = await other.open("acme", "chat")
    assert opened.remembered is not None
    assert opened.remembered.segments == {}
    await fixture.keeper.want(opened.remembered)
    await fixture.work()
    assert await fixture.segments() == whole
    assert [type(failure) for failure in fixture.failures] == [SegmentCorrupt]
    await other.close()


async def test_of_two_summaries_that_race_the_first_stands(
    redis: Redis, store: ConversationStore
) -> None:
    n_asked = 0

    async def complete(tenant: str, prompt: str) -> str:
        nonlocal n_asked
        n_asked += 1
        if n_asked == 1:  # while the first thinks, the second does the same job
            await fixture.keeper.make(SummaryJob("acme", slug_of("chat"), 0, 32))
            return "the slow one was here"
        return "the fast one was here"

    fixture = Fixture(redis, store, complete)
    await fixture.filled(40)
    await fixture.work()
    assert await fixture.segments() == {"0-32": "the fast one was here"}
    assert await redis.hget(conversation_keys("acme", "chat").meta, "segments") == b"1"


def test_a_summary_may_hold_nothing_its_source_lacks() -> None:
    at = datetime(2026, 5, 1, tzinfo=UTC)
    draft = Draft(user("I moved to Madurai on 3 June and pay 4,500 rupees to Asha."))
    items = [Item("msg_1_a", 1, draft.message, at)]
    assert is_faithful("In 2026 the user moved to Madurai on 3 June, paying 4,500 to Asha.", items)
    assert not is_faithful("The user moved on 4 June.", items)
    assert not is_faithful("The user moved to Chennai.", items)
    assert not is_faithful("The user never moved.", items)
    assert not is_faithful("  ", items)
    assert not is_faithful("Rahul moved to Madurai.", items)
    assert not is_faithful("The user moved with two friends.", items)


def test_in_scripts_without_capitals_every_word_must_begin_as_one_of_the_source() -> None:
    at = datetime(2026, 5, 1, tzinfo=UTC)
    items = [Item("msg_1_a", 1, user("मैं मदुरै में रहता हूँ और आशा को पैसे देता हूँ"), at)]
    assert is_faithful("मदुरै में रहते हैं, आशा को पैसे", items)
    assert not is_faithful("मदुरै में रहते हैं, राहुल को पैसे", items)
