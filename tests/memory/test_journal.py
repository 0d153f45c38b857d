from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisGone

from memory import ConversationStore, Memory, Message
from memory.errors import JournalFull
from memory.journal import Journal, JournalEntry
from memory.opened import blank


def user(text: str) -> Message:
    return Message("user", text)


def entry(text: str, name: str = "chat") -> JournalEntry:
    return JournalEntry("acme", name, [{"m": user(text).to_wire(), "d": {}}], f"k-{text}", 1, True)


def left_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def cut(path: Path, n_bytes: int) -> None:
    path.write_bytes(path.read_bytes()[:-n_bytes])


class Replays:
    def __init__(self) -> None:
        self.texts: list[str] = []

    async def __call__(self, entry: JournalEntry) -> None:
        self.texts += [draft.message.text for draft in entry.messages()]


class FlakyStore(ConversationStore):
    """A store whose Redis can be away, before or after it did what was asked."""

    is_away = False
    loses_answer = False

    async def append_all(self, *args, **options):
        if self.is_away:
            raise RedisGone("away")
        done = await super().append_all(*args, **options)
        if self.loses_answer:
            raise TimeoutError
        return done


@pytest.fixture
def flaky(redis: Redis, store: ConversationStore) -> FlakyStore:
    return FlakyStore(redis, store._clock, store._new_id)


async def texts(store: ConversationStore, name: str = "chat") -> list[str]:
    page = await store.items("acme", name, limit=100, order="asc")
    return [item.message.text for item in page.items]


async def test_entries_are_replayed_once_and_in_order(tmp_path: Path) -> None:
    journal, replays = Journal(tmp_path, "a"), Replays()
    for text in ("one", "two", "three"):
        await journal.write(entry(text))
    assert await journal.replay(replays) == 3
    assert await journal.replay(replays) == 0
    assert replays.texts == ["one", "two", "three"]
    await journal.close()
    assert left_in(tmp_path) == []


async def test_entries_of_a_dead_process_are_replayed(tmp_path: Path) -> None:
    dead, replays = Journal(tmp_path, "dead"), Replays()
    await dead.write(entry("left behind"))
    await dead.close()
    heir = Journal(tmp_path, "heir")
    assert await heir.replay(replays) == 1
    assert replays.texts == ["left behind"]
    assert left_in(tmp_path) == []
    await heir.close()


async def test_entries_of_a_living_process_are_left_alone(tmp_path: Path) -> None:
    living, other, replays = Journal(tmp_path, "a"), Journal(tmp_path, "b"), Replays()
    await living.write(entry("mine"))
    assert await other.replay(replays) == 0
    await living.close()
    await other.close()


async def test_a_line_cut_by_a_crash_is_counted_and_skipped(tmp_path: Path) -> None:
    dead, replays = Journal(tmp_path, "dead"), Replays()
    await dead.write(entry("whole"))
    await dead.write(entry("cut"))
    await dead.close()
    cut(tmp_path / "dead.journal", 20)
    heir = Journal(tmp_path, "heir")
    assert await heir.replay(replays) == 1
    assert (replays.texts, heir.n_corrupt) == (["whole"], 1)
    await heir.close()


async def test_a_failed_replay_keeps_every_entry(tmp_path: Path) -> None:
    journal, replays = Journal(tmp_path, "a"), Replays()

    async def refuse(_: JournalEntry) -> None:
        raise RedisGone("away")

    await journal.write(entry("one"))
    with pytest.raises(RedisGone):
        await journal.replay(refuse)
    assert await journal.replay(replays) == 1
    await journal.close()


async def test_a_full_journal_refuses(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "a", max_bytes=200)
    with pytest.raises(JournalFull):
        await journal.write(entry("x" * 300))
    await journal.close()


async def test_a_dead_redis_loses_no_turn(flaky: FlakyStore, tmp_path: Path) -> None:
    memory = Memory(flaky, journal=Journal(tmp_path, "a"))
    flaky.is_away = True
    for text in ("one", "two"):
        with pytest.raises(ConnectionError):
            await memory.append(blank("acme", "chat"), [user(text)])
    flaky.is_away = False
    with pytest.raises(ConnectionError):  # it queues behind the others
        await memory.append(blank("acme", "chat"), [user("three")])
    assert await memory.replay() == 3
    assert await texts(flaky) == ["one", "two", "three"]
    opened = await memory.open("acme", "chat")
    await memory.append(opened, [user("four")])
    assert await texts(flaky) == ["one", "two", "three", "four"]
    await memory.close()


async def test_an_append_that_names_its_tip_never_waits_in_the_journal(
    flaky: FlakyStore, tmp_path: Path
) -> None:
    memory = Memory(flaky, journal=Journal(tmp_path, "a"))
    opened = await memory.open("acme", "chat", create=True)
    await memory.append(opened, [user("hi")])
    flaky.is_away = True
    with pytest.raises(ConnectionError):
        await memory.append(opened, [user("late")])
    flaky.is_away = False
    await memory.append(opened, [user("then")], expected_tip=opened.conversation.tip)
    await memory.replay()
    assert await texts(flaky) == ["hi", "then", "late"]
    await memory.close()


async def test_an_append_whose_answer_was_lost_is_not_doubled(
    flaky: FlakyStore, tmp_path: Path
) -> None:
    memory = Memory(flaky, journal=Journal(tmp_path, "a"))
    flaky.loses_answer = True
    with pytest.raises(ConnectionError):
        await memory.append(blank("acme", "chat"), [user("once")])
    flaky.loses_answer = False
    assert await memory.replay() == 1
    assert await texts(flaky) == ["once"]
    await memory.close()


async def test_replay_does_not_revive_a_deleted_conversation(
    flaky: FlakyStore, tmp_path: Path
) -> None:
    failures: list[BaseException] = []
    memory = Memory(flaky, journal=Journal(tmp_path, "a"), on_failure=failures.append)
    opened = await memory.open("acme", "chat", create=True)
    await memory.append(opened, [user("hi")])
    flaky.is_away = True
    with pytest.raises(ConnectionError):
        await memory.append(opened, [user("late")])
    flaky.is_away = False
    await memory.delete("acme", "chat")
    await memory.replay()
    assert await flaky.get("acme", "chat") is None
    assert len(failures) == 1
    await memory.close()


async def test_the_journal_is_replayed_in_the_background(flaky: FlakyStore, tmp_path: Path) -> None:
    dead = Journal(tmp_path, "dead")
    await dead.write(entry("left behind"))
    await dead.close()
    async with Memory(flaky, journal=Journal(tmp_path, "a")):
        for _ in range(200):
            if await flaky.get("acme", "chat"):
                break
            await asyncio.sleep(0.01)
    assert await texts(flaky) == ["left behind"]
