"""Operations: is it alive, is it ready, what does it measure; and the list of models."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse, Response

from gateway.auth import Principal
from gateway.routes.dependencies import Wired, require
from policies.catalog import ModelSpec
from router.errors import ModelNotFound

router = APIRouter()
Caller = Annotated[Principal, Depends(require("chat"))]
_OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


@router.get("/livez")
async def livez() -> JSONResponse:
    """Answer that the process turns its event loop."""
    return JSONResponse({"status": "alive"})


@router.get("/readyz")
async def readyz(wired: Wired) -> JSONResponse:
    """Answer 200 when traffic is welcome, else 503, with the state of each part."""
    is_ready, checks = await wired.health.report()
    return JSONResponse(
        {"status": "ready" if is_ready else "not_ready", "checks": dict(checks)},
        status_code=200 if is_ready else 503,
    )


@router.get("/metrics")
async def metrics(wired: Wired) -> Response:
    """Return the metrics of this process."""
    return Response(wired.metrics.exposition(), media_type=_OPEN_METRICS)


@router.get("/v1/models")
async def models(wired: Wired, principal: Caller) -> JSONResponse:
    """Return what `model` may be: the three automatic names and the policy's own models."""
    tenant = principal.tenant
    policy = wired.policies.policy_of(tenant.id, tenant.policy)
    data = [_virtual(name) for name in ("auto", "auto:fast", "auto:best")]
    for tier in policy.tiers:
        data += [_model(wired.models[name].spec, tier.name) for name in tier.models]
    return JSONResponse({"object": "list", "data": data})


@router.get("/v1/models/{model}")
async def model(wired: Wired, principal: Caller, model: str) -> JSONResponse:
    """Return one model of the list.

    Raises:
        ModelNotFound: 404.
    """
    tenant = principal.tenant
    policy = wired.policies.policy_of(tenant.id, tenant.policy)
    if model in ("auto", "auto:fast", "auto:best"):
        return JSONResponse(_virtual(model))
    for tier in policy.tiers:
        if model in tier.models:
            return JSONResponse(_model(wired.models[model].spec, tier.name))
    raise ModelNotFound(model)


def _virtual(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "turnwise"}


def _model(spec: ModelSpec, tier: str) -> dict[str, object]:
    return {
        "id": spec.name,
        "object": "model",
        "created": 0,
        "owned_by": spec.backend,
        "context_window": spec.context_tokens,
        "max_output_tokens": spec.max_output_tokens,
        "capabilities": sorted(spec.supports),
        "tier": tier,
        "region": spec.region,
        "is_simulated": spec.is_simulated,
    }
