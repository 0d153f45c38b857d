"""What a decision was made from, as plain JSON values: enough to make it again.

Owns the `inputs` of a recorded decision. Text is never among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from memory.conversation import Message
from router.labels import Labels, Prediction
from router.request import Load, RouteRequest


def inputs_of(
    request: RouteRequest,
    prediction: Prediction | None,
    load: Mapping[str, Load] | None,
    used_share: float | None,
    draw: float | None,
) -> dict[str, Any]:
    """Return the facts a decision was made from; those that are as usual are left out."""
    inputs: dict[str, Any] = {
        "requested": request.requested,
        "input_tokens": request.input_tokens,
        "output_tokens": request.output_tokens,
    }
    if request.usd_rate != 1:
        inputs["usd_rate"] = str(request.usd_rate)
    if request.needs:
        inputs["needs"] = sorted(request.needs)
    if request.min_tier is not None:
        inputs["min_tier"] = request.min_tier
    if request.max_cost_usd is not None:
        inputs["max_cost_usd"] = str(request.max_cost_usd)
    if request.current_model is not None:
        inputs["current_model"] = request.current_model
        inputs["warm_tokens"] = request.warm_tokens
    if request.is_tool_loop:
        inputs["is_tool_loop"] = True
    if prediction is not None and prediction.is_carried:
        inputs["is_carried"] = True
    if prediction is not None and prediction.stage_one_score is not None:
        inputs["stage_one_score"] = round(prediction.stage_one_score, 6)
    if load:
        inputs["load"] = {
            name: {"predicted_ttft_ms": each.predicted_ttft_ms, "is_up": each.is_up}
            for name, each in load.items()
        }
    if used_share is not None:
        inputs["used_share"] = used_share
    if draw is not None:
        inputs["draw"] = draw
    return inputs


def arguments_of(decision: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `decide`, but for the table, that made a recorded decision.

    Raises:
        KeyError: if the record lacks its inputs.
    """
    inputs = decision["inputs"]
    cap_usd = inputs.get("max_cost_usd")
    request = RouteRequest(
        # All that a decision takes from the messages is whether a tool's result came last.
        messages=[Message("tool" if inputs.get("is_tool_loop") else "user", "")],
        requested=inputs["requested"],
        needs=frozenset(inputs.get("needs", ())),
        input_tokens=inputs["input_tokens"],
        output_tokens=inputs["output_tokens"],
        min_tier=inputs.get("min_tier"),
        max_cost_usd=None if cap_usd is None else Decimal(cap_usd),
        current_model=inputs.get("current_model"),
        warm_tokens=inputs.get("warm_tokens", 0),
        currency=decision["currency"],
        usd_rate=Decimal(inputs.get("usd_rate", 1)),
    )
    labels = Labels(**decision["labels"])
    prediction = None
    if decision["score"] is not None:
        prediction = Prediction(
            score=decision["score"],
            labels=labels,
            needs_context=float(decision["needs_context"]),
            uncertainty=decision["uncertainty"],
            is_carried=inputs.get("is_carried", False),
            stage=decision["stage"],
            stage_one_score=inputs.get("stage_one_score"),
        )
    return {
        "request": request,
        "prediction": prediction,
        "labels": labels,
        "load": {name: Load(**each) for name, each in inputs.get("load", {}).items()},
        "used_share": inputs.get("used_share"),
        "classifier": decision["classifier"],
        "draw": inputs.get("draw"),
    }
