from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from redis.asyncio import Redis

from memory import ConversationStore, Draft, Message
from memory.errors import (
    ConversationDeleted,
    ConversationExists,
    ConversationNotFound,
    IdempotencyMismatch,
    InvalidConversationId,
    InvalidItem,
    ItemNotFound,
    ItemTooLarge,
    TipConflict,
)


def user(text: str) -> Message:
    return Message("user", text)


async def texts(store: ConversationStore, tenant: str, name: str) -> list[str]:
    page = await store.items(tenant, name, limit=1000, order="asc")
    return [item.message.text for item in page.items]


async def test_items_come_back_in_order_with_numbers_from_one(store: ConversationStore) -> None:
    await store.append("acme", "chat", [user("a"), user("b")], create=True)
    await store.append("acme", "chat", [user("c")])
    page = await store.items("acme", "chat", order="asc")
    assert [(item.seq, item.message.text) for item in page.items] == [(1, "a"), (2, "b"), (3, "c")]


async def test_each_item_names_the_one_it_follows(store: ConversationStore) -> None:
    first, second = await store.append("acme", "chat", [user("a"), user("b")], create=True)
    assert (first.parent, second.parent) == (None, first.id)
    branch = await store.append_all("acme", "chat", [user("b2")], parent=first.id)
    assert branch.items[0].parent == first.id
    assert branch.tip == branch.items[0].id


async def test_an_unknown_parent_is_refused(store: ConversationStore) -> None:
    await store.append("acme", "chat", [user("a")], create=True)
    with pytest.raises(ItemNotFound):
        await store.append_all("acme", "chat", [user("b")], parent="msg_1_ffffffffffffffff")


async def test_the_whole_message_survives_storage(store: ConversationStore) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    sent = [
        Message("user", [{"type": "text", "text": "नमस्ते"}, {"type": "image_url", "image_url": {}}]),
        Message("assistant", None, tool_calls=(call,), extra={"reasoning_content": "hm"}),
        Message("tool", "ok", tool_call_id="c1", name="f"),
    ]
    drafts = [Draft(message, {"name": "Asha", "time": "2026-01-02"}) for message in sent]
    await store.append("acme", "chat", drafts, create=True)
    page = await store.items("acme", "chat", order="asc")
    assert [item.message for item in page.items] == sent
    assert page.items[0].metadata == {"name": "Asha", "time": "2026-01-02"}


async def test_the_same_idempotency_key_stores_once(store: ConversationStore) -> None:
    first = await store.append("acme", "chat", [user("a")], idempotency_key="k", create=True)
    again = await store.append("acme", "chat", [user("a")], idempotency_key="k", create=True)
    assert again == first
    assert await texts(store, "acme", "chat") == ["a"]


async def test_an_idempotency_key_with_another_body_is_refused(store: ConversationStore) -> None:
    await store.append("acme", "chat", [user("a")], idempotency_key="k", create=True)
    with pytest.raises(IdempotencyMismatch):
        await store.append("acme", "chat", [user("b")], idempotency_key="k")


async def test_a_writer_with_an_old_tip_gets_the_new_one(store: ConversationStore) -> None:
    (a,) = await store.append("acme", "chat", [user("a")], create=True)
    (b,) = await store.append("acme", "chat", [user("b")], expected_tip=a.id)
    with pytest.raises(TipConflict) as caught:
        await store.append("acme", "chat", [user("c")], expected_tip=a.id)
    assert caught.value.tip == b.id


async def test_concurrent_retried_writers_leave_no_gap_and_no_double(
    store: ConversationStore,
) -> None:
    async def write(n: int) -> None:
        for _ in range(1 + n % 2):
            key = f"k{n}"
            await store.append("acme", "chat", [user(str(n))], idempotency_key=key, create=True)

    await asyncio.gather(*(write(n) for n in range(64)))
    page = await store.items("acme", "chat", limit=1000, order="asc")
    assert [item.seq for item in page.items] == list(range(1, 65))
    assert sorted(int(item.message.text) for item in page.items) == list(range(64))


async def test_ids_of_our_making_are_never_created_by_an_append(store: ConversationStore) -> None:
    with pytest.raises(ConversationNotFound):
        await store.append("acme", "conv_0123", [user("a")], create=True)


async def test_a_missing_conversation_is_not_created_unasked(store: ConversationStore) -> None:
    with pytest.raises(ConversationNotFound):
        await store.append("acme", "chat", [user("a")])
    assert await store.get("acme", "chat") is None


async def test_create_refuses_a_name_that_is_taken(store: ConversationStore) -> None:
    made = await store.create("acme", "chat", metadata={"topic": "x"}, messages=[user("a")])
    assert made.n_items == 1
    found = await store.get("acme", "chat")
    assert found == made
    with pytest.raises(ConversationExists):
        await store.create("acme", "chat")


async def test_a_conversation_without_a_name_gets_one_of_ours(store: ConversationStore) -> None:
    made = await store.create("acme")
    assert made.id.startswith("conv_")
    assert await store.get("acme", made.id) == made


async def test_another_tenant_does_not_find_it(store: ConversationStore) -> None:
    made = await store.create("acme", messages=[user("a")])
    assert await store.get("other", made.id) is None
    with pytest.raises(ConversationNotFound):
        await store.items("other", made.id)


@pytest.mark.parametrize(
    "name",
    ["a:meta", "{x}", "}:{t:other", "../../etc", "nul\0here", "नाम", "a" * 256, " ", "conv", "*"],
)
async def test_any_text_is_a_name(store: ConversationStore, redis: Redis, name: str) -> None:
    await store.append("acme", name, [user("a")], create=True)
    assert await texts(store, "acme", name) == ["a"]
    for key in await redis.keys():
        assert key.startswith(b"tw:{t:acme:c:")
        assert key.count(b"{") == key.count(b"}") == 1


@pytest.mark.parametrize("name", ["", "a" * 257, "\ud800"])
async def test_what_is_no_name_is_refused(store: ConversationStore, name: str) -> None:
    with pytest.raises(InvalidConversationId):
        await store.append("acme", name, [user("a")], create=True)


async def test_pages_follow_each_other_both_ways(store: ConversationStore) -> None:
    await store.append("acme", "chat", [user(str(n)) for n in range(1, 8)], create=True)
    for order, expected in (("asc", list("1234567")), ("desc", list("7654321"))):
        seen: list[str] = []
        after = None
        while True:
            page = await store.items("acme", "chat", after=after, limit=3, order=order)
            seen += [item.message.text for item in page.items]
            after = page.items[-1].id
            if not page.has_more:
                break
        assert seen == expected


async def test_a_page_after_an_unknown_item_is_refused(store: ConversationStore) -> None:
    await store.append("acme", "chat", [user("a"), user("b")], create=True)
    for after in ("nonsense", "msg_1_ffffffffffffffff", "msg_ff_0000000000000001"):
        with pytest.raises(ItemNotFound):
            await store.items("acme", "chat", after=after)
        with pytest.raises(ItemNotFound):
            await store.item("acme", "chat", after)


async def test_one_item_is_found_by_its_id(store: ConversationStore) -> None:
    _, b = await store.append("acme", "chat", [user("a"), user("b")], create=True)
    assert await store.item("acme", "chat", b.id) == b


async def test_metadata_and_instructions_are_replaced(store: ConversationStore) -> None:
    await store.append_all("acme", "chat", [user("a")], create="missing", instructions="Be kind.")
    changed = await store.set_metadata("acme", "chat", {"topic": "y"})
    assert (changed.metadata, changed.instructions) == ({"topic": "y"}, "Be kind.")
    with pytest.raises(ConversationNotFound):
        await store.set_metadata("acme", "none", {})


async def test_deletion_leaves_no_byte_of_the_conversation(
    store: ConversationStore, redis: Redis
) -> None:
    name = "patient-4711"
    await store.append("acme", name, [user("secret words")], idempotency_key="k", create=True)
    assert await store.delete("acme", name)
    assert await store.get("acme", name) is None
    (key,) = await redis.keys()
    assert name.encode() not in key
    assert b"secret" not in (await redis.get(key) or b"")
    assert not await store.delete("acme", name)


async def test_a_late_write_does_not_revive_a_deleted_conversation(
    store: ConversationStore,
) -> None:
    first = await store.append_all("acme", "chat", [user("a")], create="missing")
    await store.delete("acme", "chat")
    with pytest.raises(ConversationDeleted):
        await store.append("acme", "chat", [user("late")])
    with pytest.raises(ConversationDeleted):
        await store.append_all(
            "acme",
            "chat",
            [user("late")],
            create="missing",
            expected_generation=first.generation,
        )


async def test_a_deleted_name_of_the_callers_making_can_begin_anew(
    store: ConversationStore,
) -> None:
    before = await store.append_all("acme", "chat", [user("old")], create="missing")
    await store.delete("acme", "chat")
    await store.append("acme", "chat", [user("new")], create=True)
    assert await texts(store, "acme", "chat") == ["new"]
    with pytest.raises(ConversationDeleted):
        await store.append_all(
            "acme", "chat", [user("late")], expected_generation=before.generation
        )


async def test_what_was_said_before_a_deletion_and_comes_late_is_refused(
    store: ConversationStore,
) -> None:
    before = datetime(2026, 4, 30, tzinfo=UTC)
    await store.append("acme", "chat", [user("old")], create=True)
    await store.delete("acme", "chat")
    for _ in range(2):  # once while the name is free, once while it lives again
        with pytest.raises(ConversationDeleted):
            await store.append_all("acme", "chat", [user("late")], create="missing", at=before)
        await store.append("acme", "chat", [user("new")], idempotency_key="k", create=True)
    assert await texts(store, "acme", "chat") == ["new"]


async def test_redaction_erases_content_and_keeps_the_number(store: ConversationStore) -> None:
    a, _ = await store.append("acme", "chat", [user("my pin is 1234"), user("b")], create=True)
    await store.redact("acme", "chat", a.id)
    page = await store.items("acme", "chat", order="asc")
    assert [(item.seq, item.message.text) for item in page.items] == [(1, ""), (2, "b")]
    assert page.items[0].metadata == {"redacted": True}


async def test_an_item_over_the_limit_is_refused_whole(store: ConversationStore) -> None:
    with pytest.raises(ItemTooLarge):
        await store.append("acme", "chat", [user("a"), user("x" * 5_000_000)], create=True)
    assert await store.get("acme", "chat") is None


async def test_what_json_cannot_carry_is_refused(store: ConversationStore) -> None:
    for content in ("\ud800", [{"type": "text", "text": "a", "n": 2**70}]):
        with pytest.raises(InvalidItem):
            await store.append("acme", "chat", [Message("user", content)], create=True)


async def test_silence_past_retention_ends_a_conversation(
    store: ConversationStore, redis: Redis
) -> None:
    await store.append_all("acme", "chat", [user("a")], create="missing", retention_s=60.0)
    for key in await redis.keys():
        assert 0 < await redis.ttl(key) <= 60


async def test_a_script_the_server_lost_is_loaded_again(
    store: ConversationStore, redis: Redis
) -> None:
    await store.append("acme", "chat", [user("a")], create=True)
    await redis.script_flush()
    await store.append("acme", "chat", [user("b")])
    assert await texts(store, "acme", "chat") == ["a", "b"]


async def test_asking_for_a_conversation_fetches_none_of_its_items(
    store: ConversationStore,
) -> None:
    await store.append("acme", "chat", [user("a"), user("b")], create=True)
    loaded = await store.load("acme", "chat", max_items=0)
    assert loaded is not None
    assert (loaded.items, loaded.conversation.n_items) == ((), 2)
