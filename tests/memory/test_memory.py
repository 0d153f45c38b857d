from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from memory import ConversationStore, Memory, MemoryConfig, Message
from memory.errors import ConversationDeleted, ConversationNotFound


def user(text: str) -> Message:
    return Message("user", text)


def assistant(text: str) -> Message:
    return Message("assistant", text)


def words(text: str) -> int:
    return len(text.split())


async def say(memory: Memory, name: str, text: str, reply: str) -> list[str]:
    opened = await memory.open("acme", name, create=True)
    sent = opened.recognise([user(text)])
    context = await memory.build_context(
        opened, sent.new, window_tokens=500, count_tokens=words, instructions=sent.instructions
    )
    await memory.append(opened, sent.new)
    await memory.append(opened, [assistant(reply)])
    return [message.text for message in context.messages]


async def test_a_turn_sees_the_turns_before_it(memory: Memory) -> None:
    assert await say(memory, "chat", "hi", "hello") == ["hi"]
    assert await say(memory, "chat", "bye", "see you") == ["hi", "hello", "bye"]


async def test_opening_an_unknown_name_writes_nothing(memory: Memory, redis: Redis) -> None:
    opened = await memory.open("acme", "chat", create=True)
    assert not opened.exists
    assert await redis.keys() == []
    with pytest.raises(ConversationNotFound):
        await memory.open("acme", "chat")
    with pytest.raises(ConversationNotFound):
        await memory.open("acme", "conv_0", create=True)


async def test_two_processes_see_each_others_items(store: ConversationStore) -> None:
    one, two = Memory(store), Memory(store)
    await say(one, "chat", "a", "b")
    assert await say(two, "chat", "c", "d") == ["a", "b", "c"]
    assert await say(one, "chat", "e", "f") == ["a", "b", "c", "d", "e"]
    await one.close()
    await two.close()


async def test_only_what_is_new_is_fetched(memory: Memory, store: ConversationStore) -> None:
    await say(memory, "chat", "a", "b")
    opened = await memory.open("acme", "chat")
    assert opened.remembered is not None
    loaded = await store.load("acme", "chat", known=opened.remembered.loaded, known_n_items=2)
    assert loaded is not None
    assert (loaded.from_seq, loaded.items) == (3, ())


async def test_a_long_conversation_is_loaded_in_pieces(
    memory: Memory, store: ConversationStore
) -> None:
    for start in range(0, 4500, 900):
        batch = [user(str(n)) for n in range(start, start + 900)]
        await store.append("acme", "chat", batch, create=True)
    opened = await memory.open("acme", "chat")
    assert [item.message.text for item in opened.items] == [str(n) for n in range(4500)]


async def test_instructions_stay_until_they_change(memory: Memory) -> None:
    opened = await memory.open("acme", "chat", create=True)
    await memory.append(opened, [user("a")], instructions="Be kind.")
    opened = await memory.open("acme", "chat")
    context = await memory.build_context(opened, [user("b")], window_tokens=100, count_tokens=words)
    assert context.messages[0] == Message("system", "Be kind.")


async def test_a_reply_to_a_deleted_conversation_is_not_stored(memory: Memory) -> None:
    opened = await memory.open("acme", "chat", create=True)
    await memory.append(opened, [user("a")])
    await memory.delete("acme", "chat")
    with pytest.raises(ConversationDeleted):
        await memory.append(opened, [assistant("late")])


async def test_a_redacted_item_leaves_every_process(store: ConversationStore) -> None:
    one, two = Memory(store), Memory(store)
    await say(one, "chat", "secret", "ok")
    opened = await two.open("acme", "chat")
    await store.redact("acme", "chat", opened.items[0].id)
    assert "secret" not in await say(one, "chat", "a", "b")
    assert "secret" not in await say(two, "chat", "c", "d")
    await one.close()
    await two.close()


async def test_a_name_made_anew_shows_nothing_of_the_old_one(memory: Memory) -> None:
    other = Memory(memory.store)
    await say(other, "chat", "old", "old too")
    await memory.delete("acme", "chat")
    await say(memory, "chat", "new", "new too")
    assert await say(other, "chat", "hi", "ho") == ["new", "new too", "hi"]
    await other.close()


async def test_concurrent_turns_of_one_conversation_all_stay(memory: Memory) -> None:
    await asyncio.gather(*(say(memory, "chat", f"u{n}", f"a{n}") for n in range(20)))
    opened = await memory.open("acme", "chat")
    assert [item.seq for item in opened.items] == list(range(1, 41))
    assert len({item.message.text for item in opened.items}) == 40


async def test_the_process_holds_only_so_much(store: ConversationStore) -> None:
    memory = Memory(store, MemoryConfig(max_conversations=2))
    for name in ("a", "b", "c"):
        await say(memory, name, "hi", "ho")
    assert await say(memory, "a", "again", "ok") == ["hi", "ho", "again"]
    assert len(memory._shelf) == 2
    await memory.close()


async def test_long_conversations_are_packed_off_the_event_loop(memory: Memory) -> None:
    opened = await memory.open("acme", "chat", create=True)
    await memory.append(opened, [user(f"note {n} about things") for n in range(400)])
    await memory.append(opened, [user("my code is X99Z")])
    await memory.append(opened, [user(f"more {n} about things") for n in range(400)])
    context = await memory.build_context(
        opened, [user("which code?")], window_tokens=300, count_tokens=words
    )
    assert "X99Z" in context.messages[-2].text
