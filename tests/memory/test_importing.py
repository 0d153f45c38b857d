from __future__ import annotations

from datetime import UTC, datetime

import pytest

from memory import ConversationStore, Draft, Message
from memory.errors import ConversationDeleted, ImportRefused, ItemTooLarge
from memory.importing import ConversationImport, ImportedItem, ImportHead

HEAD = ImportHead(datetime(2025, 1, 1, tzinfo=UTC), {"topic": "tea"}, "Be brief.")


def said(text: str, **fields) -> ImportedItem:
    return ImportedItem(Draft(Message("user", text)), **fields)


def into(store: ConversationStore, name: str = "copy") -> ConversationImport:
    return store.importing("acme", name, HEAD)


async def texts(store: ConversationStore, name: str = "copy") -> list[str]:
    page = await store.items("acme", name, limit=100, order="asc")
    return [item.message.text for item in page.items]


async def exported(store: ConversationStore, name: str) -> list[ImportedItem]:
    return [
        ImportedItem(
            Draft(item.message, item.metadata), item.id, item.parent or "", item.created_at
        )
        async for piece in store.in_pieces("acme", name)
        for item in piece
    ]


async def test_an_imported_conversation_equals_the_exported_one(store: ConversationStore) -> None:
    a, b = await store.append("acme", "chat", [Message("user", t) for t in "ab"], create=True)
    await store.append_all("acme", "chat", [Message("user", "b2")], parent=a.id)
    copy = into(store)
    await copy.add(await exported(store, "chat"))
    assert (copy.n_items, copy.n_new) == (3, 3)
    before = (await store.items("acme", "chat", order="asc")).items
    assert (await store.items("acme", "copy", order="asc")).items == before
    loaded = await store.get("acme", "copy")
    assert loaded is not None
    assert (loaded.metadata, loaded.instructions) == ({"topic": "tea"}, "Be brief.")
    assert (loaded.created_at, loaded.tip) == (HEAD.created_at, before[-1].id)


async def test_importing_twice_stores_once(store: ConversationStore) -> None:
    for n_new in (3, 0):
        again = into(store)
        await again.add([said("a"), said("b")])
        await again.add([said("c")])
        assert again.n_new == n_new
    assert await texts(store) == ["a", "b", "c"]


async def test_an_import_that_broke_off_goes_on_where_it_was(store: ConversationStore) -> None:
    await into(store).add([said("a"), said("b")])
    again = into(store)
    await again.add([said("a")])
    await again.add([said("b"), said("c")])
    assert (again.n_items, again.n_new) == (3, 1)
    assert await texts(store) == ["a", "b", "c"]


async def test_another_item_in_the_same_place_is_refused_and_nothing_changes(
    store: ConversationStore,
) -> None:
    await into(store).add([said("a"), said("b")])
    with pytest.raises(ImportRefused) as refused:
        await into(store).add([said("a"), said("other"), said("c")])
    assert refused.value.seq == 2
    assert await texts(store) == ["a", "b"]


@pytest.mark.parametrize("item_id", ["msg_2_aa", "msg_0_aa", "nonsense", "msg_1_zz"])
async def test_an_id_of_another_place_is_refused(store: ConversationStore, item_id: str) -> None:
    with pytest.raises(ImportRefused):
        await into(store).add([said("a", id=item_id)])
    assert await store.get("acme", "copy") is None


@pytest.mark.parametrize("parent", ["msg_1_ffffffffffffffff", "msg_2_aa", "nonsense"])
async def test_an_unknown_parent_is_refused(store: ConversationStore, parent: str) -> None:
    with pytest.raises(ImportRefused):
        await into(store).add([said("a"), said("b", parent=parent)])


async def test_a_deleted_id_of_our_making_cannot_be_imported(store: ConversationStore) -> None:
    conversation = await store.create("acme")
    await store.delete("acme", conversation.id)
    with pytest.raises(ConversationDeleted):
        await into(store, conversation.id).add([said("a")])


async def test_an_import_does_not_revive_what_is_deleted_meanwhile(
    store: ConversationStore,
) -> None:
    begun = into(store)
    await begun.add([said("a")])
    await store.delete("acme", "copy")
    with pytest.raises(ConversationDeleted):
        await begun.add([said("b")])
    assert await store.get("acme", "copy") is None


async def test_an_item_over_the_limit_is_refused(store: ConversationStore) -> None:
    with pytest.raises(ItemTooLarge):
        await into(store).add([said("x" * 5_000_000)])


async def test_turns_go_on_after_an_import(store: ConversationStore) -> None:
    await into(store).add([said("a"), said("b")])
    (item,) = await store.append("acme", "copy", [Message("user", "c")])
    assert item.seq == 3
    assert await texts(store) == ["a", "b", "c"]
