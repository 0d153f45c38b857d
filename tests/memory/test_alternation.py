from __future__ import annotations

from collections.abc import Sequence

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.alternation import alternating
from memory.conversation import Message
from memory.counting import TokenCounter
from memory.quoting import HEADER
from tests.memory.test_context import assistant, build, long_chat, remembered_of, user

# The rule that Mistral's and Gemma's templates spell, in their words.
STRICT = jinja2.Template(
    """
{%- if messages[0].role == "system" %}<s>{{ messages[0].content }}</s>
{%- set turns = messages[1:] %}{% else %}{% set turns = messages %}{% endif %}
{%- for message in turns %}
  {%- if (message.role == "user") != (loop.index0 % 2 == 0) %}{{ refuse("roles must alternate") }}
  {%- endif %}[{{ message.role }}]{{ message.content }}
{%- endfor %}"""
)


def rendered(messages: Sequence[Message]) -> str:
    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    return STRICT.render(messages=[m.to_wire() for m in messages], refuse=refuse)


def test_a_strict_template_takes_a_folded_context() -> None:
    context = build(
        long_chat(), user("what is my passport number?"), window=4100, instructions="Be kind."
    )
    assert context.summary
    assert context.recalled
    with pytest.raises(jinja2.TemplateError):
        rendered(context.messages)
    text = rendered(alternating(context.messages))
    for message in context.messages:
        assert message.text in text


def test_a_template_without_a_system_message_gets_its_text_before_the_users() -> None:
    shown = alternating(
        [Message("system", "Be kind."), user("hi"), assistant("hello")], takes_system=False
    )
    assert shown == (user("Be kind.\n\nhi"), assistant("hello"))


def test_an_assistant_that_speaks_first_answers_an_empty_remark() -> None:
    assert (
        rendered(alternating([assistant("Welcome!"), user("hi")]))
        == "[user]…[assistant]Welcome![user]hi"
    )


def test_an_image_stays_beside_the_words_that_are_joined_to_it() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    (shown,) = alternating(
        [user("Quotes."), Message("user", [{"type": "text", "text": "This?"}, image])]
    )
    assert shown.content == [
        {"type": "text", "text": "Quotes."},
        {"type": "text", "text": "This?"},
        image,
    ]


def test_speakers_keep_their_names() -> None:
    asha, ravi = Message("user", "Yes.", name="Asha"), Message("user", "No.", name="Ravi")
    assert alternating([asha, ravi]) == (user("Asha: Yes.\n\nRavi: No."),)
    assert alternating([asha, asha])[0].name == "Asha"


def test_calls_and_their_results_stay_as_they_are() -> None:
    call = Message("assistant", None, tool_calls=({"id": "a"}, {"id": "b"}))
    results = [Message("tool", "1", tool_call_id="a"), Message("tool", "2", tool_call_id="b")]
    asked = [user("add"), call, *results, assistant("3")]
    assert list(alternating(asked)) == asked


def test_what_stands_before_the_recalled_items_only_grows() -> None:
    chat = long_chat(200)
    remembered = remembered_of(chat)
    previous, first = "", ""
    for n in range(200, 400, 2):
        context = build((), chat[n % 30], window=2100, remembered=remembered, n_items=n)
        stable = rendered(alternating(context.messages)).partition(HEADER)[0].rstrip()
        if context.recent[0] == first:
            assert stable.startswith(previous)
        previous, first = stable, context.recent[0]


texts = st.text(min_size=1, max_size=20)
plain = st.builds(Message, st.sampled_from(("system", "user", "assistant")), texts)


@settings(max_examples=200, deadline=None)
@given(st.lists(plain, min_size=1, max_size=12), st.booleans())
def test_whatever_was_said_takes_turns_afterwards_and_costs_no_more(
    messages: list[Message], takes_system: bool
) -> None:
    shown = alternating([*messages, user("and?")], takes_system=takes_system)
    text = rendered(shown)
    assert all(message.text in text for message in messages)
    counter = TokenCounter(len)
    opening = 1 if shown[0].text == "…" or (len(shown) > 1 and shown[1].text == "…") else 0
    before = sum(map(counter.message, [*messages, user("and?")]))
    assert sum(map(counter.message, shown)) <= before + opening * counter.message(user("…"))
