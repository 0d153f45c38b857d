from __future__ import annotations

from datetime import UTC, datetime

from memory import Item, Message, recognise


def stored(*messages: Message) -> list[Item]:
    now = datetime(2026, 5, 1, tzinfo=UTC)
    return [Item(f"msg_{n:x}_a", n, message, now) for n, message in enumerate(messages, 1)]


def user(text: str) -> Message:
    return Message("user", text)


def assistant(text: str) -> Message:
    return Message("assistant", text)


CALL = Message("assistant", None, tool_calls=({"id": "c1", "function": {"name": "f"}},))
RESULT = Message("tool", "42", tool_call_id="c1")
LOG = stored(user("hi"), assistant("hello"), user("name?"), assistant("Turnwise"))


def new_texts(log: list[Item], *sent: Message) -> list[str]:
    return [message.text for message in recognise(log, sent).new]


def test_resent_history_is_not_new() -> None:
    sent = (user("hi"), assistant("hello"), user("name?"), assistant("Turnwise"), user("thanks"))
    assert new_texts(LOG, *sent) == ["thanks"]


def test_a_window_of_the_history_is_recognised() -> None:
    assert new_texts(LOG, user("name?"), assistant("Turnwise"), user("ok")) == ["ok"]


def test_a_lone_user_message_is_always_new() -> None:
    assert new_texts(LOG, user("hi")) == ["hi"]
    assert new_texts(LOG, user("name?"), user("hi")) == ["name?", "hi"]


def test_messages_after_the_last_repeated_assistant_are_new() -> None:
    assert new_texts(LOG, user("hi"), assistant("hello"), user("name?")) == ["name?"]


def test_history_with_a_strange_assistant_message_is_all_new() -> None:
    sent = (user("hi"), assistant("something else"), user("name?"))
    assert new_texts(LOG, *sent) == ["hi", "something else", "name?"]


def test_an_edited_early_message_does_not_make_the_rest_new() -> None:
    sent = (user("HI!"), assistant("hello"), user("name?"), assistant("Turnwise"), user("ok"))
    assert new_texts(LOG, *sent) == ["HI!", "ok"]


def test_blank_space_around_text_does_not_matter() -> None:
    assert new_texts(LOG, user("hi"), assistant("hello\n"), user("ok")) == ["ok"]


def test_a_client_that_leaves_out_tool_calls_is_recognised() -> None:
    log = stored(user("sum?"), CALL, RESULT, assistant("It is 42."))
    assert new_texts(log, user("sum?"), assistant("It is 42."), user("ok")) == ["ok"]


def test_a_tool_result_after_its_resent_call_is_new() -> None:
    log = stored(user("sum?"), CALL)
    found = recognise(log, (user("sum?"), CALL, RESULT))
    assert found.new == (RESULT,)
    assert found.n_history == 2


def test_the_same_words_said_twice_are_matched_in_order() -> None:
    log = stored(user("yes"), assistant("ok"), user("yes"), assistant("ok"))
    sent = (user("yes"), assistant("ok"), user("yes"), assistant("ok"), user("yes"))
    assert new_texts(log, *sent) == ["yes"]


def test_system_messages_are_instructions() -> None:
    sent = (Message("system", "Be brief."), Message("developer", "In Tamil."), user("hi"))
    found = recognise(LOG, sent)
    assert found.instructions == "Be brief.\n\nIn Tamil."
    assert found.new == (user("hi"),)
    assert recognise(LOG, (user("hi"),)).instructions is None


def test_in_an_empty_conversation_everything_is_new() -> None:
    assert new_texts([], user("hi"), assistant("hello"), user("ok")) == ["hi", "hello", "ok"]


def test_content_parts_are_compared_whole() -> None:
    picture = {"type": "image_url", "image_url": {"url": "https://a/1.png"}}
    other = {"type": "image_url", "image_url": {"url": "https://a/2.png"}}
    log = stored(Message("user", [picture]), assistant("a cat"))
    assert (
        recognise(log, (Message("user", [picture]), assistant("a cat"), user("ok"))).n_history == 2
    )
    assert recognise(log, (Message("user", [other]), assistant("a cat"), user("ok"))).n_history == 1
