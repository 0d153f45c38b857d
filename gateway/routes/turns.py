"""POST /v1/route: a decision without its turn; /v1/turns/{id}: a turn as recorded, its feedback.

A score of feedback says how good the answer was; routing learns from it, and nothing else does.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator

from gateway.auth import Principal
from gateway.errors import RequestError
from gateway.routes.dependencies import Wired, require
from gateway.turn import Disclosure
from gateway.wire.chat import parse_chat
from policies.outcomes import Outcome, Outcomes, OutcomeSource

router = APIRouter()
Reader = Annotated[Principal, Depends(require("turns"))]
Asker = Annotated[Principal, Depends(require("route"))]


@router.post("/v1/route")
async def route(wired: Wired, principal: Asker, request: Request) -> JSONResponse:
    """Return where a chat body would go and why; nothing is generated, charged or written."""
    started_s = time.perf_counter()
    request_id: str = request.state.request_id
    turn = parse_chat(await request.body(), request.headers, request_id)
    disclosure = Disclosure(request_id=request_id, started_at=wired.clock())
    parsed_s = time.perf_counter()
    decision = await wired.responder.dry_run(turn, principal, disclosure)
    decided_s = time.perf_counter()
    return JSONResponse(
        {
            "decision": decision.to_wire(),
            "timings_ms": {
                "parse": round((parsed_s - started_s) * 1000, 3),
                "decide": round((decided_s - parsed_s) * 1000, 3),
                "total": round((decided_s - started_s) * 1000, 3),
            },
        }
    )


@router.get("/v1/turns/{request_id}")
async def turn(wired: Wired, principal: Reader, request_id: str) -> JSONResponse:
    """Return a recorded turn with its attempts; one that is being answered is `pending`."""
    tenant = principal.tenant.id
    pending = await wired.ledger.pending(tenant, request_id)
    if pending is None:
        await wired.books.catch_up(tenant)
        recorded = await wired.books.turn(tenant, request_id)
        if recorded is not None:
            return JSONResponse(turn_to_wire(recorded))
        raise RequestError(f"No turn '{request_id}'.", status=404, code="not_found")
    return JSONResponse(_pending_to_wire(pending))


class FeedbackBody(BaseModel):
    """How good an answer was: a thumb, or a score from 0 to 1; by a user unless a judge says so."""

    model_config = ConfigDict(extra="forbid")

    thumbs: Literal["up", "down"] | None = None
    score: Annotated[float, Field(ge=0, le=1)] | None = None
    source: OutcomeSource = OutcomeSource.USER

    @model_validator(mode="after")
    def _says_one_thing(self) -> FeedbackBody:
        if (self.thumbs is None) == (self.score is None):
            raise ValueError("give either thumbs or score")
        return self

    @property
    def value(self) -> float:
        """The score, a thumb being 1 or 0."""
        return self.score if self.score is not None else float(self.thumbs == "up")


@router.post("/v1/turns/{request_id}/feedback", status_code=201)
async def feedback(
    wired: Wired, principal: Reader, request_id: str, body: FeedbackBody
) -> JSONResponse:
    """Keep how good a recorded turn was; said again by the same voice, the newer word counts."""
    tenant = principal.tenant.id
    await wired.books.catch_up(tenant)
    if await wired.books.turn(tenant, request_id) is None:
        raise RequestError(f"No turn '{request_id}'.", status=404, code="not_found")
    outcome = Outcome(tenant, request_id, body.source, body.value)
    await Outcomes(wired.database).record(outcome, wired.clock())
    kept = {"request_id": request_id, "source": outcome.source.value, "score": outcome.score}
    return JSONResponse(kept, status_code=201)


def turn_to_wire(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the contract's shape of a recorded turn."""
    cost = record.get("cost") or {}
    decision = record.get("decision")
    return {
        "request_id": record["request_id"],
        "tenant": record["tenant"],
        "conversation_id": record.get("conversation"),
        "end_user": record.get("end_user"),
        "tags": record.get("tags") or [],
        "status": record["status"],
        "tier": record.get("tier"),
        "model": record.get("model"),
        "policy": record.get("policy"),
        "decision": decision,
        "thresholds": decision["thresholds"] if decision else {},
        "attempts": [_attempt_to_wire(attempt) for attempt in record.get("attempts", ())],
        "usage": _usage_to_wire(record.get("usage")),
        "cost_micro": cost.get("micro"),
        "usd_micro": cost.get("usd_micro"),
        "currency": record["currency"],
        "cache": record.get("cache", "none"),
        "degraded": record.get("degraded", []),
        "created_at": _iso(record["started_us"]),
        "timings_ms": record.get("timings_ms", {}),
    }


def _attempt_to_wire(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "model": row["model"],
        "backend": row["backend"],
        "status": row["status"],
        "started_at": _iso(row["opened_us"]),
        "ended_at": _iso(row["closed_us"]),
        "usage": _usage_to_wire(row),
        "cost_micro": row["micro"],
        "usd_micro": row["usd_micro"],
        "currency": row["currency"],
        "rate": row["rate"],
        "rate_date": row["rate_date"],
        "error": row["error"],
    }


def _usage_to_wire(usage: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if usage is None:
        return None
    return {
        "prompt_tokens": usage.get("input_tokens", 0),
        "completion_tokens": usage.get("output_tokens", 0),
        "total_tokens": usage.get("input_tokens", 0) + usage.get("output_tokens", 0),
        "prompt_tokens_details": {"cached_tokens": usage.get("cached_input_tokens", 0)},
        "completion_tokens_details": {"reasoning_tokens": usage.get("reasoning_tokens", 0)},
        "is_estimated": bool(usage.get("is_estimated", False)),
    }


def _pending_to_wire(opening: Mapping[str, Any]) -> dict[str, Any]:
    attempt = {
        "model": opening["model"],
        "backend": opening["backend"],
        "status": "pending",
        "started_at": _iso(opening["opened_us"]),
        "ended_at": None,
        "usage": None,
        "cost_micro": None,
    }
    return {
        "request_id": opening["request_id"],
        "tenant": opening["tenant"],
        "conversation_id": opening["conversation"],
        "end_user": opening["end_user"],
        "tags": opening["tags"],
        "status": "pending",
        "decision": None,
        "thresholds": {},
        "attempts": [attempt],
        "usage": None,
        "cost_micro": None,
        "currency": opening["currency"],
        "cache": "none",
        "timings_ms": {},
    }


def _iso(at_us: int) -> str:
    return datetime.fromtimestamp(at_us / 1e6, UTC).isoformat()
