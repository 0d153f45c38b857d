"""Calls of tools: what a model writes -> OpenAI's tool_calls, and grammars that force a call.

Owns the written forms. Three are read: Hermes' and Qwen's `<tool_call>{json}</tool_call>`, Llama
3's bare `{"name", "parameters"}`, Mistral's `[{"name", "arguments"}]`. Knows neither tokens nor
HTTP.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
# Both are control tokens, which decoding leaves out; a folder may declare them as plain text.
_JSON_MARKS = ("[TOOL_CALLS]", "<|python_tag|>")


class ToolForm(StrEnum):
    """How a model writes its calls."""

    HERMES = "hermes"
    LLAMA = "llama"
    MISTRAL = "mistral"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call as OpenAI states it; `arguments` is the text of a JSON object."""

    id: str
    name: str
    arguments: str

    def to_wire(self, index: int | None = None) -> dict[str, Any]:
        """Return OpenAI's object; a stream's delta also has the call's index."""
        function = {"name": self.name, "arguments": self.arguments}
        call = {"id": self.id, "type": "function", "function": function}
        return call if index is None else {"index": index, **call}


def form_of(template: str | None) -> ToolForm:
    """Return the form that a chat template teaches; Hermes' where it teaches none."""
    if template and _OPEN not in template:
        if "[TOOL_CALLS]" in template:
            return ToolForm.MISTRAL
        if "python_tag" in template or '"parameters"' in template:
            return ToolForm.LLAMA
    return ToolForm.HERMES


class CallReader:
    """Splits one reply, as it comes, into content and calls; no tag ever reaches the content.

    A call leaves whole. What looks like one and is none (broken JSON, a tool that was not offered)
    is content, without its tags. White space around a call is dropped.
    """

    def __init__(self, names: Sequence[str], form: ToolForm = ToolForm.HERMES) -> None:
        self._names = frozenset(names)
        self._form = form
        self._held = ""
        self._is_inside = False
        self._has_begun = form is ToolForm.HERMES
        self.n_calls = 0

    def feed(self, text: str) -> tuple[str, list[ToolCall]]:
        """Return the content that is certain by now and the calls that are complete."""
        self._held += text
        content: list[str] = []
        calls: list[ToolCall] = []
        if not self._has_begun:
            start = self._held.lstrip()
            if not start or any(mark.startswith(start) for mark in _JSON_MARKS):
                return "", []
            if start.startswith(("{", "[", *_JSON_MARKS)):
                return "", []  # all of the reply, up to `end`
            self._has_begun = True
        while True:
            tag = _CLOSE if self._is_inside else _OPEN
            before, found, after = self._held.partition(tag)
            if not found:
                break
            self._held = after
            if self._is_inside:
                self._take(before, content, calls)
            else:
                content.append(before.rstrip())
            self._is_inside = not self._is_inside
        if not self._is_inside:
            cut = len(self._held) - _n_undecided(self._held)
            content.append(self._held[:cut])
            self._held = self._held[cut:]
        return "".join(content), calls

    def end(self) -> tuple[str, list[ToolCall]]:
        """Return what was still held; a call that was not closed counts where it is whole."""
        content: list[str] = []
        calls: list[ToolCall] = []
        held, self._held = self._held, ""
        if self._is_inside or not self._has_begun:
            self._take(held, content, calls)
        elif held.strip() or not self.n_calls:
            content.append(held)
        return "".join(content), calls

    def _take(self, text: str, content: list[str], calls: list[ToolCall]) -> None:
        body = text.strip()
        for mark in _JSON_MARKS:
            body = body.removeprefix(mark)
        found = self._calls_of(body)
        self.n_calls += len(found)
        calls += found
        if not found:
            content.append(body if self._is_inside else text)

    def _calls_of(self, body: str) -> list[ToolCall]:
        try:
            value = json.loads(body)
        except ValueError:
            return []
        entries = value if isinstance(value, list) else [value]
        calls = [self._call_of(entry) for entry in entries]
        return [call for call in calls if call] if all(calls) else []

    def _call_of(self, entry: Any) -> ToolCall | None:
        if not isinstance(entry, dict) or entry.get("name") not in self._names:
            return None
        arguments = entry.get("arguments", entry.get("parameters", {}))
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments)
            except ValueError:
                return None
        if not isinstance(arguments, dict):
            return None
        # Mistral's template accepts ids of nine letters and digits alone.
        code = uuid.uuid4().hex
        name = code[:9] if self._form is ToolForm.MISTRAL else f"call_{code[:24]}"
        return ToolCall(name, entry["name"], json.dumps(arguments, ensure_ascii=False))


def _n_undecided(text: str) -> int:
    """Return the length of the text's end that may become white space and an opening tag."""
    for length in range(min(len(text), len(_OPEN) - 1), 0, -1):
        if text.endswith(_OPEN[:length]):
            return len(text) - len(text[:-length].rstrip())
    return len(text) - len(text.rstrip())


def grammar_of(
    tools: Sequence[Mapping[str, Any]], form: ToolForm, *, many: bool, schema: Any = None
) -> str:
    """Return the grammar of a reply that calls one of the tools, or several where `many` allows.

    With `schema`, JSON of that schema is a valid reply too. Source: llguidance's Lark dialect.
    """
    key = "parameters" if form is ToolForm.LLAMA else "arguments"
    rules = []
    for at, tool in enumerate(tools):
        function = tool["function"]
        wanted = function.get("parameters") or {"type": "object"}
        head = _quoted(f'{{"name": {json.dumps(function["name"])}, "{key}": ')
        rules.append(f'call{at}: {head} %json {_strict(wanted)} "}}"')
    one = " | ".join(f"call{at}" for at in range(len(tools)))
    if form is ToolForm.HERMES:
        wrapped = f"{_quoted(_OPEN)} {_quoted(chr(10))} one {_quoted(chr(10))} {_quoted(_CLOSE)}"
        more = f" ({_quoted(chr(10))} wrapped)*" if many else ""
        rules += [f"wrapped: {wrapped}", f"calls: wrapped{more}"]
    elif form is ToolForm.MISTRAL:
        more = ' (", " one)*' if many else ""
        rules.append(f'calls: "[" one{more} "]"')
    else:
        rules.append("calls: one")
    start = "calls" if schema is None else f"calls | answer\nanswer: %json {_strict(schema)}"
    return "\n".join([f"start: {start}", f"one: {one}", *rules])


def _strict(schema: Any) -> str:
    # Free white space lets a small model spend its whole budget on blanks.
    if not isinstance(schema, dict):
        return json.dumps(schema)
    return json.dumps({**schema, "x-guidance": {"whitespace_flexible": False}})


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
