from __future__ import annotations

import json
import random

import pytest

from local_models.tool_calls import CallReader, ToolForm, form_of

WEATHER = {"city": "Pune"}
TEXT = json.dumps({"name": "weather", "arguments": WEATHER})
HERMES = f"<tool_call>\n{TEXT}\n</tool_call>"


def read(pieces, form=ToolForm.HERMES):
    reader = CallReader(["weather"], form)
    content, calls = "", []
    for piece in pieces:
        text, made = reader.feed(piece)
        content += text
        calls += made
    text, made = reader.end()
    return content + text, [(call.name, json.loads(call.arguments)) for call in [*calls, *made]]


def test_a_call_between_tags_is_a_call_and_no_content():
    assert read([HERMES]) == ("", [("weather", WEATHER)])


def test_text_before_a_call_stays_content():
    assert read([f"Let me look.\n{HERMES}\n"]) == ("Let me look.", [("weather", WEATHER)])


def test_two_calls_come_in_order():
    assert read([f"{HERMES}\n{HERMES}"]) == ("", [("weather", WEATHER)] * 2)


def test_any_chunking_reads_the_same():
    rng = random.Random(3)
    text = f"One < two, <tool. {HERMES} \n{HERMES}\n and so <tool_cal"
    whole = read([text])
    assert whole == ("One < two, <tool.\n and so <tool_cal", [("weather", WEATHER)] * 2)
    for _ in range(200):
        cuts = sorted(rng.sample(range(len(text)), 6))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        assert read(pieces) == whole


@pytest.mark.parametrize(
    "inside",
    ["not json", '{"name": "nobody", "arguments": {}}', '{"name": "weather", "arguments": 3}'],
)
def test_what_is_no_call_is_content_without_its_tags(inside):
    assert read([f"<tool_call>{inside}</tool_call>"]) == (inside, [])


def test_a_whole_call_that_was_not_closed_counts():
    assert read([f"<tool_call>{TEXT}"]) == ("", [("weather", WEATHER)])


@pytest.mark.parametrize(
    "text", [f"[TOOL_CALLS][{TEXT}]", f"[{TEXT}]", f"<|python_tag|>{TEXT}", TEXT, f" \n{TEXT}"]
)
@pytest.mark.parametrize("form", [ToolForm.LLAMA, ToolForm.MISTRAL])
def test_bare_json_is_a_call_where_the_model_writes_it_so(text, form):
    assert read(list(text), form) == ("", [("weather", WEATHER)])


@pytest.mark.parametrize("text", ['{"answer": 42}', "[1, 2", "Plain words.", "<|py is a word"])
def test_bare_text_that_is_no_call_stays_whole(text):
    assert read(list(text), ToolForm.LLAMA) == (text, [])


def test_white_space_alone_stays_content():
    assert read([" ", "\n"]) == (" \n", [])


@pytest.mark.parametrize(
    ("template", "form"),
    [
        (None, ToolForm.HERMES),
        ("... <tool_call> ...", ToolForm.HERMES),
        ("[AVAILABLE_TOOLS] [TOOL_CALLS]", ToolForm.MISTRAL),
        ("<|python_tag|>", ToolForm.LLAMA),
    ],
)
def test_the_template_tells_the_form(template, form):
    assert form_of(template) is form
