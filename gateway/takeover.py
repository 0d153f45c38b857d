"""Takeover: a second model's answer, fitted to the part of the first one that already went out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from gateway.backends.base import ReplyDelta


@dataclass(frozen=True, slots=True)
class ReplyRestart:
    """What was sent so far is void; the whole answer of another model follows."""


class CannotTakeOver(Exception):
    """The new answer does not repeat what was sent, and the caller wants no restart."""


class Takeover:
    """Holds the new answer back until it is known to repeat what was sent, then sends the rest.

    Args:
        sent: the text that went out before the first model broke.
        may_restart: whether the caller takes a whole new answer instead.
    """

    def __init__(self, sent: str, *, may_restart: bool) -> None:
        self._sent = sent
        self._may_restart = may_restart
        self._held: list[ReplyDelta] = []
        self._text = ""
        self._is_settled = not sent

    def fit(self, delta: ReplyDelta) -> Iterator[ReplyDelta | ReplyRestart]:
        """Yield what may go out after this delta of the new answer.

        Raises:
            CannotTakeOver: the answers differ and no restart is wanted.
        """
        if self._is_settled:
            yield delta
            return
        self._held.append(delta)
        self._text += delta.content or ""
        if not self._agrees(delta):
            if not self._may_restart:
                raise CannotTakeOver
            self._is_settled = True
            yield ReplyRestart()
            yield from self._held
        elif len(self._text) >= len(self._sent):
            self._is_settled = True
            yield replace(delta, content=self._text[len(self._sent) :])

    def _agrees(self, delta: ReplyDelta) -> bool:
        if delta.fields or delta.index != 0:
            return False
        if delta.finish_reason and len(self._text) < len(self._sent):
            return False
        n_compared = min(len(self._text), len(self._sent))
        return self._text[:n_compared] == self._sent[:n_compared]
