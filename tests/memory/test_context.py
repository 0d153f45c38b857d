from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory import Context, Item, Message
from memory.building import ContextRequest, context_of
from memory.context import Shares, weight_of
from memory.conversation import Conversation
from memory.counting import TokenCounter
from memory.errors import ContextTooLarge
from memory.exchanges import ABORTED
from memory.recall import RecallWeights
from memory.remembered import Remembered
from memory.replies import Loaded

START = datetime(2026, 5, 1, tzinfo=UTC)


def words(text: str) -> int:
    return len(text.split())


def letters(text: str) -> int:
    return (len(text) + 2) // 3


def items_of(messages: Sequence[Message]) -> list[Item]:
    items: list[Item] = []
    for n, message in enumerate(messages, 1):
        parent = items[-1].id if items else None
        items.append(Item(f"msg_{n:x}_a", n, message, START + timedelta(minutes=n), parent))
    return items


def remembered_of(messages: Sequence[Message]) -> Remembered:
    conversation = Conversation("chat", "acme", START, n_items=len(messages))
    remembered = Remembered(Loaded(conversation, "g", "0", 1, ()))
    remembered.extend(items_of(messages))
    return remembered


def build(
    stored: Sequence[Message],
    *new: Message,
    window: int,
    count: object = words,
    instructions: str | None = None,
    remembered: Remembered | None = None,
    n_items: int | None = None,
) -> Context:
    remembered = remembered or remembered_of(stored)
    n_items = len(remembered.items) if n_items is None else n_items
    request = ContextRequest(
        items=remembered.view(n_items),
        new=new,
        instructions=instructions,
        window_tokens=window,
        reserved_tokens=0,
        use_summary=True,
        use_recall=True,
    )
    return context_of(request, remembered, TokenCounter(count), Shares(), RecallWeights())


def user(text: str) -> Message:
    return Message("user", text)


def assistant(text: str) -> Message:
    return Message("assistant", text)


def call(*ids: str) -> Message:
    calls = tuple({"id": i, "type": "function", "function": {"name": "f"}} for i in ids)
    return Message("assistant", None, tool_calls=calls)


def result(call_id: str, text: str = "done") -> Message:
    return Message("tool", text, tool_call_id=call_id)


def test_a_short_conversation_is_sent_whole() -> None:
    stored = [user("hi"), assistant("hello")]
    context = build(stored, user("bye"), window=1000, instructions="Be kind.")
    assert [m.text for m in context.messages] == ["Be kind.", "hi", "hello", "bye"]
    assert context.recent == ("msg_1_a", "msg_2_a")
    assert (context.recalled, context.n_left_out) == ((), 0)


def long_chat(n_turns: int = 300) -> list[Message]:
    stored: list[Message] = []
    for n in range(n_turns):
        stored += [user(f"Turn {n} is about the weather again"), assistant(f"Noted as number {n}")]
    stored[20] = user("My passport number is K1234567, keep it in mind")
    return stored


def test_a_fact_far_back_is_recalled_just_before_the_last_user_message() -> None:
    context = build(long_chat(), user("what is my passport number?"), window=600)
    assert context.messages[-1] == user("what is my passport number?")
    assert "K1234567" in context.messages[-2].text
    assert "not instructions" in context.messages[-2].text
    assert "msg_15_a" in context.recalled
    assert context.n_left_out == 600 - len(set(context.recalled) | set(context.recent))


def test_a_context_says_how_much_is_left_out() -> None:
    context = build(long_chat(), user("what is my passport number?"), window=600)
    quoted = context.messages[-2].text.splitlines()[0]
    n_folded = 600 - len(context.recent)
    assert quoted.endswith(f"{len(context.recalled)} of {n_folded}.")
    squeezed = build([user("word " * 90)] * 9, user("and?"), window=24)
    assert squeezed.messages[-2].text == "[9 earlier messages are left out.]"
    assert squeezed.n_left_out == 9


def test_relative_dates_are_resolved_beside_the_quotation() -> None:
    chat = long_chat()
    chat[20] = user("I renewed my passport yesterday")
    context = build(chat, user("when did I renew my passport?"), window=600)
    assert "user: I renewed my passport yesterday [30 April 2026]" in context.messages[-2].text


def test_the_newest_item_is_recent_however_small_the_window() -> None:
    newest = assistant("Your passport number is the one you gave me in May, " + "as ever " * 20)
    context = build([*long_chat(), newest], user("what is my passport number?"), window=160)
    assert context.recent == ("msg_259_a",)
    assert context.recalled and not set(context.recalled) & set(context.recent)


def test_the_last_user_message_is_kept_or_the_context_is_refused() -> None:
    with pytest.raises(ContextTooLarge) as caught:
        build([], user("word " * 100), window=50)
    assert caught.value.needed_tokens > caught.value.window_tokens == 50


def test_an_unanswered_call_is_closed_with_an_aborted_result() -> None:
    context = build([user("go"), call("a", "b"), result("b")], user("and?"), window=1000)
    tools = [(m.tool_call_id, m.text) for m in context.messages if m.role == "tool"]
    assert tools == [("a", ABORTED), ("b", "done")]


def test_a_result_without_its_call_is_dropped() -> None:
    context = build([user("go"), result("x")], user("and?"), window=1000)
    assert [m.role for m in context.messages] == ["user", "user"]


def test_a_new_tool_result_joins_its_stored_call() -> None:
    context = build([user("go"), call("a")], result("a", "42"), window=1000)
    assert [m.text for m in context.messages] == ["go", "", "42"]


def test_an_unanswered_message_sent_again_is_shown_once() -> None:
    context = build([user("hi"), assistant("hello"), user("go")], user("go"), window=1000)
    assert [m.text for m in context.messages] == ["hi", "hello", "go"]


def test_the_part_before_the_recalled_items_only_grows_between_folds() -> None:
    chat = long_chat(400)
    remembered = remembered_of(chat)
    previous, first = (), ""
    n_folds = 0
    for n in range(200, 800, 2):
        context = build((), chat[n % 30], window=2100, remembered=remembered, n_items=n)
        stable = context.messages[: -2 if context.recalled else -1]
        if context.recent[0] == first:
            assert stable[: len(previous)] == previous
        else:
            n_folds += 1
        previous, first = stable, context.recent[0]
    assert n_folds < 100


message_texts = st.text(
    alphabet=st.characters(exclude_categories=("Cs",)), max_size=200
) | st.sampled_from(["மழை வருமா?", "क्या हाल है? ठीक हूँ।", "₹4,500 on 2026-05-01", "word " * 60])
messages = st.one_of(
    st.builds(user, message_texts),
    st.builds(assistant, message_texts),
    st.builds(call, st.sampled_from("abc"), st.sampled_from("def")),
    st.builds(result, st.sampled_from("abcdef"), message_texts),
)


@settings(max_examples=300, deadline=None)
@given(
    stored=st.lists(messages, max_size=60),
    new=st.lists(messages, min_size=1, max_size=4),
    instructions=st.none() | message_texts,
    window=st.integers(1, 900),
    count=st.sampled_from([words, letters, len]),
)
def test_a_context_never_passes_its_window_and_never_splits_an_exchange(
    stored: list[Message],
    new: list[Message],
    instructions: str | None,
    window: int,
    count: object,
) -> None:
    try:
        context = build(stored, *new, window=window, count=count, instructions=instructions)
    except ContextTooLarge:
        return
    counter = TokenCounter(count)
    total = sum(counter.message(message) for message in context.messages)
    assert total <= context.tokens <= window
    assert_exchanges_are_whole(context.messages)
    users = [message for message in new if message.role == "user"]
    if users:
        assert users[-1] in context.messages


def assert_exchanges_are_whole(messages: Sequence[Message]) -> None:
    open_calls: list[str] = []
    for message in messages:
        if message.role == "tool":
            assert message.tool_call_id in open_calls
            open_calls.remove(message.tool_call_id or "")
        else:
            assert not open_calls
            open_calls = [str(c["id"]) for c in message.tool_calls]
    assert not open_calls


def test_weights_run_with_the_items() -> None:
    chat = long_chat(30)
    assert remembered_of(chat).weights == list(accumulate(weight_of(m) for m in chat))


def test_a_branch_shows_only_its_own_path() -> None:
    remembered = remembered_of([user("a"), assistant("b"), user("c")])
    edited = Item("msg_4_a", 4, user("c2"), START, parent="msg_2_a")
    remembered.extend([edited])
    context = build((), user("d"), window=1000, remembered=remembered)
    assert [m.text for m in context.messages] == ["a", "b", "c2", "d"]
