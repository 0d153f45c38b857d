"""What the gateway itself can fail with; `http_errors.py` turns it into answers.

GatewayError
├── RequestError            the caller's fault: a status, a type, a code, a param
├── ChildFailed             a process that the gateway needs did not start
├── WrongServer             redis.url leads to another kind of server than redis.cluster says
├── LedgerAway              money cannot be held, or "once" not promised, and policy refuses
├── AuthError               who asks is not known, or may not
│   ├── InvalidKey              no key, a wrong, revoked or expired one
│   ├── InsufficientScope       the key is good, the act is not among its scopes
│   └── AuthUnavailable         the database of keys cannot be read
└── BackendError            the upstream's fault
    ├── BackendUnavailable      refused, reset, 5xx, breaker open; another model may do
    ├── BackendTimeout          no first token, silence, or the total deadline
    ├── BackendOverloaded       429 or a full queue, with the upstream's own wait
    ├── BackendRejected         4xx that will not get better elsewhere on the same model
    └── BackendBroken           the answer stopped or made no sense after it began
"""

from __future__ import annotations

from collections.abc import Mapping


class GatewayError(Exception):
    """Base of everything this package raises."""


class RequestError(GatewayError):
    """The caller's fault; `headers` go out with the error beside the usual ones."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        type: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.type = type
        self.code = code
        self.param = param
        self.headers = dict(headers or {})


class ChildFailed(GatewayError):
    """A process that the gateway needs did not start; the message holds its last words."""


class WrongServer(GatewayError):
    """What answers at an address is not what the configuration says it is."""


class LedgerAway(GatewayError):
    """The ledger or the idempotency record cannot be reached and the policy says to refuse."""


class AuthError(GatewayError):
    """Who asks is not known, or may not do this."""


class InvalidKey(AuthError):
    """There is no key, or it is a wrong, revoked or expired one; the caller never learns which."""


class InsufficientScope(AuthError):
    """The key is good, but `scope` is not among its scopes."""

    def __init__(self, scope: str) -> None:
        super().__init__(f"This key lacks the scope {scope!r}.")
        self.scope = scope


class AuthUnavailable(AuthError):
    """The database of keys cannot be read, and memory does not hold this key."""


class BackendError(GatewayError):
    """An upstream did not answer; `backend` is its name in the configuration.

    `retry_after_s` is how long it wants, or is, to be left alone; None where that is not known.
    """

    def __init__(
        self,
        backend: str,
        message: str,
        *,
        status: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.backend = backend
        self.status = status
        self.retry_after_s = retry_after_s


class BackendUnavailable(BackendError):
    """Refused, reset, 5xx, or the breaker is open: another model may do."""


class BackendTimeout(BackendError):
    """No first token in time, silence in mid-stream, or the total deadline passed."""


class BackendOverloaded(BackendError):
    """The upstream is out of capacity."""


class BackendRejected(BackendError):
    """The upstream refused the request itself (4xx); `param` and `code` are its own words."""

    def __init__(
        self,
        backend: str,
        message: str,
        *,
        status: int | None = None,
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(backend, message, status=status)
        self.param = param
        self.code = code


class BackendBroken(BackendError):
    """The answer stopped or made no sense after it had begun."""
