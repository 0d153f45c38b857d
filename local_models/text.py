"""Text in and out: chat messages -> prompt tokens, tokens -> text that never splits a stop string.

Owns the tokenizer and the chat template. A folder with tokenizer.json needs nothing of
transformers, which would cost seconds at the start; other folders are read through it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from local_models.errors import ModelRefused, RequestRefused
from local_models.tool_calls import form_of

_ZERO_WIDTH = "\u200b"


class TextCodec:
    """One model's tokenizer and chat template; safe to use from several threads."""

    def __init__(
        self, tokenizer: Tokenizer, template: str | None, tokens: Mapping[str, str]
    ) -> None:
        self.tokenizer = tokenizer
        self._names = dict(tokens)
        self._specials = [
            token.content
            for token in tokenizer.get_added_tokens_decoder().values()
            if token.special
        ]
        self.tool_form = form_of(template)
        self._template = _compile(template) if template else None

    @classmethod
    def from_folder(cls, folder: Path) -> TextCodec:
        """Return the codec of a model's folder.

        Raises:
            ModelRefused: no tokenizer there, or one that cannot be read.
        """
        path = folder / "tokenizer.json"
        try:
            if path.is_file():
                tokenizer = Tokenizer.from_file(str(path))
            else:
                from transformers import AutoTokenizer

                tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True).backend_tokenizer
            config = _read_json(folder / "tokenizer_config.json")
        # The tokenizers library raises bare Exception for every unreadable file.
        except Exception as error:
            said = " ".join(str(error).split()) if path.is_file() else "no tokenizer.json"
            raise ModelRefused(f"The tokenizer in {folder} cannot be read: {said}") from error
        names = {
            name: value["content"] if isinstance(value, dict) else value
            for name, value in config.items()
            if name.endswith("_token") and isinstance(value, str | dict)
        }
        return cls(tokenizer, _template_of(folder, config), names)

    def encode(self, text: str) -> list[int]:
        """Return the ids of plain text, nothing added."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def encode_chat(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()
    ) -> list[int]:
        """Return the prompt of a conversation, up to where the assistant begins to speak.

        Raises:
            RequestRefused: the model's template does not accept these messages.
        """
        if self._template is None:
            raise RequestRefused(
                "This model has no chat template.", code="no_chat_template", param="messages"
            )
        try:
            text = self._template.render(
                messages=[self._harmless(message) for message in messages],
                tools=self._defused(list(tools)) or None,
                add_generation_prompt=True,
                **self._names,
            )
        except (jinja2.TemplateError, TypeError, KeyError, ValueError) as error:
            raise RequestRefused(
                f"The model's chat template refuses these messages: {error}",
                code="invalid_messages",
                param="messages",
            ) from error
        return self.encode(text)

    def _harmless(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Return the message with its parts joined and control tokens in its text defused.

        Text may not open or close a turn: a user who types <|im_end|> has typed letters.
        """
        given = message.get("content")
        if isinstance(given, list):
            given = "".join(part.get("text", "") for part in given)
        content = str(given) if given else ""
        calls = message.get("tool_calls")
        given_calls = {"tool_calls": [_with_object(call) for call in calls]} if calls else {}
        safe: dict[str, Any] = self._defused({**message, "content": content, **given_calls})
        return safe

    def _defused(self, value: Any) -> Any:
        """Return a JSON value in whose text no control token is left."""
        if isinstance(value, str):
            for special in self._specials:
                if special in value:
                    value = value.replace(special, special[0] + _ZERO_WIDTH + special[1:])
            return value
        if isinstance(value, Mapping):
            return {self._defused(name): self._defused(part) for name, part in value.items()}
        return [self._defused(part) for part in value] if isinstance(value, list) else value

    def token_text(self, token: int) -> str:
        """Return what one token spells by itself; a broken character where it is part of one."""
        return str(self.tokenizer.decode([token], skip_special_tokens=False))

    def token_bytes(self, token: int) -> list[int] | None:
        """Return the bytes of one token where its text is whole, else None."""
        text = self.token_text(token)
        return None if "\ufffd" in text else list(text.encode())


class ReplyText:
    """The text of one reply as its tokens come: a Watcher that stops at stop strings.

    The engine's thread pushes; `take` hands out what can no longer turn into a stop string.
    """

    def __init__(
        self,
        codec: TextCodec,
        stops: Sequence[str] = (),
        mask: Callable[[Sequence[int]], Any] | None = None,
    ) -> None:
        self._tokenizer = codec.tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self._stops = tuple(stops)
        self._held = ""
        self._ready: list[str] = []
        self._mask = mask
        self._tokens: list[int] = []

    @property
    def is_constrained(self) -> bool:
        """Whether a grammar decides what may come next."""
        return self._mask is not None

    def push(self, token: int) -> bool:
        """Take one token; return whether a stop string is complete."""
        if self._mask is not None:
            self._tokens.append(token)
        piece = self._stream.step(self._tokenizer, token)
        if not piece:
            return False
        if not self._stops:
            self._ready.append(piece)
            return False
        self._held += piece
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self._ready.append(self._held[: min(found)])
            self._held = ""
            return True
        n_kept = max(_overlap(self._held, stop) for stop in self._stops)
        cut = len(self._held) - n_kept
        self._ready.append(self._held[:cut])
        self._held = self._held[cut:]
        return False

    def allowed(self) -> Any:
        """Return the mask of tokens that the grammar allows next, None without a grammar."""
        return self._mask(self._tokens) if self._mask is not None else None

    def take(self, *, is_last: bool = False) -> str:
        """Return the text that became certain since the last call; all of it at the end."""
        if is_last:
            self._ready.append(self._held)
            self._held = ""
        text = "".join(self._ready)
        self._ready.clear()
        return text


def _with_object(call: Any) -> Any:
    """Return a stored call with its arguments as an object, which is what templates expect."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"] or "{}")
    except ValueError:
        return call
    return {**call, "function": {**function, "arguments": arguments}}


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of the text that begins the stop string."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    value: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return value


def _template_of(folder: Path, config: Mapping[str, Any]) -> str | None:
    jinja = folder / "chat_template.jinja"
    if jinja.is_file():
        return jinja.read_text("utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):
        named = {entry["name"]: entry["template"] for entry in template}
        template = named.get("default")
    return template


def _compile(template: str) -> jinja2.Template:
    """Return the template with the helpers that transformers gives to templates."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    def to_json(value: Any, indent: int | None = None, **_: Any) -> str:
        return json.dumps(value, ensure_ascii=False, indent=indent)

    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now(UTC).strftime(form)
    return environment.from_string(template)
