"""What the local engine can fail with; `server.py` turns it into OpenAI error bodies.

LocalModelError
├── ModelRefused        the folder or hub id cannot be served here; says what can
├── RequestRefused      this request can never be served: empty, too long, bad parameter
├── QueueFull           too much is waiting; `retry_after_s` says when to come back
└── EngineStopped       the engine is shutting down or has failed
"""

from __future__ import annotations


class LocalModelError(Exception):
    """Base of everything this package raises."""


class ModelRefused(LocalModelError):
    """The model cannot be loaded: another architecture, broken files, too little memory."""


class RequestRefused(LocalModelError):
    """The request can never be served; `code` and `param` are OpenAI's fields."""

    def __init__(self, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.param = param


class QueueFull(LocalModelError):
    """The queue has reached its bound."""

    def __init__(self, waiting: int, retry_after_s: float) -> None:
        self.waiting = waiting
        self.retry_after_s = retry_after_s
        super().__init__(f"{waiting} requests are waiting; try again in {retry_after_s:.0f} s.")


class EngineStopped(LocalModelError):
    """No more requests are taken: the engine is stopping, or its thread has failed."""
