"""The one table from any domain error to a status and OpenAI's error body."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from fastapi.exceptions import RequestValidationError
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from gateway.errors import (
    AuthUnavailable,
    BackendError,
    BackendOverloaded,
    BackendRejected,
    BackendTimeout,
    GatewayError,
    InsufficientScope,
    InvalidKey,
    LedgerAway,
    RequestError,
)
from memory.errors import (
    ContextTooLarge,
    ConversationExists,
    ConversationNotFound,
    IdempotencyMismatch,
    ImportRefused,
    InvalidConversationId,
    InvalidItem,
    ItemNotFound,
    ItemTooLarge,
    MemoryFault,
    TipConflict,
)
from policies.errors import (
    BrokenPolicy,
    BudgetExceeded,
    CostCapExceeded,
    DocumentErrors,
    LedgerUnavailable,
    PolicyConflict,
    PolicyError,
    TooManyOpen,
    UnknownPolicy,
    UnknownRate,
)
from router.errors import ContextTooLong, ModelNotFound, NoTierAllowed, RouterError


@dataclass(frozen=True, slots=True)
class HttpError:
    """An error as it goes out: a status and OpenAI's error object."""

    status: int
    type: str
    code: str | None
    message: str
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """Return the JSON body, also used as the last frame of a stream that failed."""
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }


# What routes may raise on purpose; anything else is a defect.
EXPECTED_ERRORS: tuple[type[Exception], ...] = (
    GatewayError,
    RouterError,
    PolicyError,
    MemoryFault,
    RequestValidationError,
    HTTPException,
    RedisError,
    SQLAlchemyError,
)
_INVALID = "invalid_request_error"
_FINAL = {"x-should-retry": "false"}


def http_error_of(error: BaseException) -> HttpError:
    """Return the row of the contract's error table for any error a route can meet."""
    for translate in (_of_gateway, _of_backend, _of_router, _of_policies, _of_memory, _of_web):
        row = translate(error)
        if row is not None:
            return row
    if isinstance(error, (RedisError, SQLAlchemyError)):
        return HttpError(
            503, "server_error", "ledger_unavailable", "A store that this request needs is away."
        )
    return HttpError(500, "server_error", "internal_error", "The gateway failed; it was logged.")


def _of_gateway(error: BaseException) -> HttpError | None:
    match error:
        case RequestError():
            return HttpError(
                error.status, error.type, error.code, str(error), error.param, error.headers
            )
        case InvalidKey():
            return HttpError(401, "authentication_error", "invalid_api_key", str(error))
        case InsufficientScope():
            return HttpError(403, "permission_error", "insufficient_scope", str(error))
        case AuthUnavailable():
            return HttpError(503, "server_error", "auth_unavailable", str(error))
        case LedgerAway():
            return HttpError(503, "server_error", "ledger_unavailable", str(error))
    return None


def _of_backend(error: BaseException) -> HttpError | None:
    match error:
        case BackendRejected():
            message, status = str(error), error.status or 400
            if status in (401, 403):  # our key at the provider, nothing the caller can mend
                return HttpError(503, "server_error", "upstream_unavailable", message)
            if error.code == "context_length_exceeded":
                return HttpError(400, _INVALID, error.code, message, error.param, _FINAL)
            return HttpError(400, _INVALID, error.code or "upstream_rejected", message, error.param)
        case BackendTimeout():
            return HttpError(504, "server_error", "timeout", str(error))
        case BackendError():
            wait_s = error.retry_after_s
            if wait_s is None and isinstance(error, BackendOverloaded):
                wait_s = 1
            headers = {} if wait_s is None else {"retry-after": str(max(1, math.ceil(wait_s)))}
            return HttpError(503, "server_error", "upstream_unavailable", str(error), None, headers)
    return None


def _of_router(error: BaseException) -> HttpError | None:
    match error:
        case ModelNotFound():
            return HttpError(404, _INVALID, "model_not_found", str(error), "model")
        case NoTierAllowed():
            return HttpError(400, _INVALID, "no_tier_allowed", str(error), None, _FINAL)
        case ContextTooLong():
            return HttpError(400, _INVALID, "context_length_exceeded", str(error), "messages")
    return None


def _of_policies(error: BaseException) -> HttpError | None:
    match error:
        case BudgetExceeded():
            wait_s = max(1, math.ceil((error.resets_at - datetime.now(UTC)).total_seconds()))
            headers = {**_FINAL, "retry-after": str(wait_s)}
            return HttpError(
                429, "insufficient_quota", "budget_exceeded", str(error), None, headers
            )
        case CostCapExceeded():
            return HttpError(400, _INVALID, "no_tier_allowed", str(error), None, _FINAL)
        case TooManyOpen():
            headers = {"retry-after": "1"}
            return HttpError(
                429, "rate_limit_error", "rate_limit_exceeded", str(error), None, headers
            )
        case UnknownRate():  # a gap in the operator's table: money cannot be counted
            return HttpError(503, "server_error", "ledger_unavailable", str(error))
        case LedgerUnavailable():
            return HttpError(503, "server_error", "ledger_unavailable", str(error))
        case UnknownPolicy() | BrokenPolicy():  # the operator's file, or one of its models, is gone
            return HttpError(503, "server_error", "policy_unavailable", str(error))
        case PolicyConflict():
            return HttpError(412, _INVALID, "policy_conflict", str(error), "If-Match")
        case DocumentErrors():
            return HttpError(400, _INVALID, "invalid_policy", str(error))
    return None


def _of_memory(error: BaseException) -> HttpError | None:
    match error:
        case InvalidConversationId():
            return HttpError(400, _INVALID, "invalid_conversation_id", str(error))
        case ConversationNotFound() | ItemNotFound():
            return HttpError(404, _INVALID, "not_found", str(error))
        case ConversationExists():
            return HttpError(409, _INVALID, "conversation_exists", str(error), "id")
        case ItemTooLarge():
            return HttpError(413, _INVALID, "request_too_large", str(error))
        case InvalidItem():
            return HttpError(400, _INVALID, "invalid_item", str(error))
        case TipConflict() | ImportRefused():
            return HttpError(409, _INVALID, "conversation_conflict", str(error))
        case IdempotencyMismatch():
            return HttpError(422, "idempotency_error", "idempotency_key_mismatch", str(error))
        case ContextTooLarge():
            return HttpError(400, _INVALID, "context_length_exceeded", str(error), "messages")
    return None


_WEB_CODES = {
    400: "invalid_json",
    404: "not_found",
    405: "method_not_allowed",
    413: "request_too_large",
}


def _of_web(error: BaseException) -> HttpError | None:
    match error:
        case RequestValidationError():
            return _of_validation(error)
        case HTTPException():
            code = _WEB_CODES.get(error.status_code, "http_error")
            return HttpError(
                error.status_code, _INVALID, code, str(error.detail), None, error.headers or {}
            )
    return None


def _of_validation(error: RequestValidationError) -> HttpError:
    first = error.errors()[0]
    where, *path = first["loc"]
    param = ".".join(str(step) for step in path) or str(where)
    if first["type"] == "json_invalid":
        return HttpError(400, _INVALID, "invalid_json", "The body is not valid JSON.")
    if first["type"] == "missing":
        message = f"Missing required parameter: '{param}'."
        return HttpError(400, _INVALID, "missing_required_parameter", message, param)
    message = f"Invalid value for '{param}': {first['msg']}."
    return HttpError(400, _INVALID, "invalid_value", message, param)
