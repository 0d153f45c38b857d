"""What OpenAI's response objects say, in our nouns: deltas, usage, errors.

Knows the fields that servers of OpenAI's protocol add in practice; knows nothing of HTTP.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from typing import Any

import orjson

from gateway.backends.base import ReplyDelta, ReplyEnd
from gateway.backends.usage import count_of, usage_from_wire
from gateway.errors import (
    BackendBroken,
    BackendError,
    BackendOverloaded,
    BackendRejected,
    BackendUnavailable,
)

_DONE = b"[DONE]"
_OWN_DELTA_FIELDS = frozenset(("role", "content"))
_EMPTY: Mapping[str, Any] = {}


@dataclass(slots=True)
class ReplyReader:
    """Reads the chunks of one streamed reply, or one whole reply, and knows whether it is complete.

    `choices` maps the index of every choice that began to whether it has finished. `has_begun` and
    `is_done` say whether a first event, and the last one, have been seen.
    """

    backend: str
    choices: dict[int, bool] = field(default_factory=dict)
    usage: Mapping[str, Any] | None = None
    model: str | None = None
    fingerprint: str | None = None
    has_begun: bool = False
    is_done: bool = False

    @property
    def is_complete(self) -> bool:
        """Whether at least one choice began, and every one that did has its finish_reason."""
        return bool(self.choices) and all(self.choices.values())

    def batch(self, payloads: Sequence[bytes]) -> Iterator[ReplyDelta]:
        """Yield the deltas of event payloads that arrived together; all but the last have more.

        Raises:
            BackendError: a payload is an error, or no chunk at all.
            orjson.JSONDecodeError: a payload is not JSON.
        """
        held: ReplyDelta | None = None
        has_more = len(payloads) > 1
        try:
            for data in payloads:
                if data == _DONE:
                    self.is_done = True
                    break
                self.has_begun = True
                for delta in self.deltas(orjson.loads(data), has_more=has_more):
                    if held is not None:
                        yield held
                    held = delta
        except Exception:  # whatever came before the failure was said, and is charged
            if held is not None:
                yield replace(held, has_more=False)
            raise
        if held is not None:
            yield replace(held, has_more=False) if has_more else held

    def deltas(self, chunk: Any, *, has_more: bool = False) -> Iterator[ReplyDelta]:
        """Yield the deltas of one chunk; a chunk that only names the role yields none.

        Raises:
            BackendError: the chunk is an error, or no chunk at all.
        """
        if not isinstance(chunk, dict):
            raise BackendBroken(self.backend, "The upstream sent a chunk that is not an object.")
        if chunk.get("error"):
            raise error_of(self.backend, chunk["error"], status=None, has_begun=bool(self.choices))
        if isinstance(chunk.get("usage"), dict):
            self.usage = chunk["usage"]
        if self.model is None:
            self.model = chunk.get("model")
            self.fingerprint = chunk.get("system_fingerprint")
        for choice in chunk.get("choices") or ():
            delta = self._delta_of(choice, "delta", has_more)
            if delta is not None:
                yield delta

    def whole(self, body: Any) -> list[ReplyDelta]:
        """Return one delta for each choice of a reply that was not streamed.

        Raises:
            BackendError: the body is an error, or no whole reply.
        """
        if not isinstance(body, dict):
            raise BackendBroken(self.backend, "The upstream's answer is not a JSON object.")
        if body.get("error"):
            raise error_of(self.backend, body["error"], status=None, has_begun=False)
        usage = body.get("usage")
        if isinstance(usage, dict):
            self.usage = usage
        self.model = body.get("model")
        self.fingerprint = body.get("system_fingerprint")
        deltas = [self._delta_of(choice, "message") for choice in body.get("choices") or ()]
        if not self.is_complete:
            raise BackendBroken(self.backend, "The upstream's answer has an unfinished choice.")
        return [delta for delta in deltas if delta is not None]

    def end(self) -> ReplyEnd:
        """Return the end of the reply with what was told about it."""
        usage = self.usage or _EMPTY
        return ReplyEnd(
            usage=usage_from_wire(self.usage),
            model=self.model,
            system_fingerprint=self.fingerprint,
            busy_s=_amount(usage.get("busy_s")),
            provider_cost_usd=_decimal_text(usage.get("cost")),
        )

    def _delta_of(self, choice: Any, key: str, has_more: bool = False) -> ReplyDelta | None:
        try:
            index = choice.get("index") or 0
            piece = choice.get(key) or _EMPTY
            finish_reason = choice.get("finish_reason")
            content = piece.get("content")
            fields = _EMPTY
            if not _OWN_DELTA_FIELDS.issuperset(piece):
                fields = {
                    name: value
                    for name, value in piece.items()
                    if value is not None and value != [] and name not in _OWN_DELTA_FIELDS
                }
        except AttributeError as error:
            raise BackendBroken(self.backend, "A choice of the answer is malformed.") from error
        if content is not None and not isinstance(content, str):
            raise BackendBroken(self.backend, "The content of the answer is not text.")
        if finish_reason is not None:
            self.choices[index] = True
        else:
            self.choices.setdefault(index, False)
            if not content and not fields and choice.get("logprobs") is None:
                return None
        if key == "delta" and content == "":
            content = None
        logprobs = choice.get("logprobs")
        return ReplyDelta(index, content, fields, logprobs, finish_reason, has_more)


def error_of(
    backend: str,
    error: Any,
    *,
    status: int | None,
    retry_after_s: float | None = None,
    has_begun: bool = False,
) -> BackendError:
    """Return what an upstream's error object means, with its own words where they are the caller's.

    Args:
        backend: the backend's name.
        error: the value of `error` in the body, or any text.
        status: the HTTP status; None for an error inside a stream or a body of status 200.
        retry_after_s: the upstream's own wait.
        has_begun: whether a part of the answer was already read.
    """
    facts = error if isinstance(error, dict) else {"message": error}
    message = _text(facts.get("message")) or "no reason given"
    code = _text(facts.get("code"))
    if "context length" in message or "context window" in message:
        code = "context_length_exceeded"  # what servers that give no code say in words
    if status is None:
        status = count_of(facts.get("code")) or count_of(facts.get("status"))
        if has_begun:
            return BackendBroken(
                backend, f"{backend} failed in the middle of the answer: {message}", status=status
            )
    if status == 429 or status == 529 or (status == 503 and retry_after_s is not None):
        text = f"{backend} is out of capacity ({status}): {message}"
        return BackendOverloaded(backend, text, status=status, retry_after_s=retry_after_s)
    if status in (401, 402, 403, 404):
        # What these quote (keys, accounts) is the operator's business, not the caller's.
        text = f"{backend} refused the gateway's request ({status}); its key or model is wrong."
        return BackendUnavailable(backend, text, status=status)
    if status is not None and 400 <= status < 500 and status not in (408, 409, 425):
        param = _text(facts.get("param"))
        return BackendRejected(backend, message, status=status, param=param, code=code)
    return BackendUnavailable(backend, f"{backend} failed ({status}): {message}", status=status)


def _amount(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and value >= 0 else None


def _decimal_text(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        return None
    return str(amount) if amount.is_finite() and amount >= 0 else None


def _text(value: Any) -> str | None:
    return str(value)[:2000] if value not in (None, "") else None
