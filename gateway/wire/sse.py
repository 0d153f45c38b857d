"""Server-sent events: the frames of a chat completion stream, in OpenAI's order.

Source: WHATWG HTML, "Server-sent events"; OpenAI API reference, "Streaming".
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import orjson

from gateway.backends.base import ReplyDelta
from gateway.turn import Disclosure
from gateway.wire.reply import usage_to_wire

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"


def data_frame(payload: Any) -> bytes:
    """Return one `data:` frame holding the payload as JSON."""
    return b"data: " + orjson.dumps(payload) + b"\n\n"


class ChatFrames:
    """Turns a reply's events into the bytes of OpenAI's chunks.

    For each choice: a role chunk, content chunks whose finish_reason is null, and an empty chunk
    with the finish_reason, on which the `turnwise` object rides.
    """

    def __init__(self, request_id: str, created_at: datetime, disclosure: Disclosure) -> None:
        self._disclosure = disclosure
        self._id = request_id.replace("req_", "chatcmpl-", 1)
        self._created = int(created_at.timestamp())
        self._begun: set[int] = set()

    def delta(self, delta: ReplyDelta) -> bytes:
        """Return the frames of one delta: one in most cases, up to three at a choice's ends."""
        frames = b""
        if delta.index not in self._begun:
            self._begun.add(delta.index)
            frames = self._chunk(delta.index, {"role": "assistant", "content": ""})
        fields: dict[str, Any] = dict(delta.fields)
        if delta.content:
            fields["content"] = delta.content
        if fields or delta.logprobs:
            frames += self._chunk(delta.index, fields, logprobs=delta.logprobs)
        if delta.finish_reason:
            frames += self._chunk(delta.index, {}, finish_reason=delta.finish_reason)
        return frames

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        *,
        logprobs: Any = None,
        finish_reason: str | None = None,
    ) -> bytes:
        choice: dict[str, Any] = {"index": index, "delta": delta, "finish_reason": finish_reason}
        if logprobs is not None:
            choice["logprobs"] = logprobs
        chunk = self._envelope([choice])
        if finish_reason is not None:
            chunk["turnwise"] = self._disclosure.to_wire()
        return data_frame(chunk)

    def restart(self) -> bytes:
        """Return the event that voids everything sent before it."""
        self._begun.clear()
        payload = {"model": self._disclosure.model, "tier": self._disclosure.tier}
        return b"event: turnwise.restart\n" + data_frame(payload)

    def usage(self) -> bytes:
        """Return the usage chunk: no choices, the usage with its cost."""
        usage = self._disclosure.usage
        chunk = self._envelope([])
        chunk["usage"] = usage_to_wire(usage, self._disclosure.cost) if usage else None
        return data_frame(chunk)

    def _envelope(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self._disclosure.model,
            "choices": choices,
        }
