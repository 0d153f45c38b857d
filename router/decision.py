"""The decision: which tier and model serve a turn, and why; a pure function of recorded facts.

Owns the record of a decision. Knows nothing of text, ONNX or clocks, so that any past decision can
be recomputed from what was recorded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from router.bounds import bounds_of
from router.candidates import Candidate, candidates_of
from router.choice import explored, fallbacks_of, pinned, settled, wanted
from router.labels import Labels, Prediction
from router.reasons import Exclusion, Reason
from router.record import arguments_of, inputs_of
from router.request import Load, RouteRequest
from router.table import RoutingTable

__all__ = ["Candidate", "Exclusion", "Labels", "Reason", "RoutingDecision", "decide"]

SCORE_DIGITS = 6
NO_LABELS = Labels()


@dataclass(frozen=True, slots=True)
class RoutingDecision:
    """Where a turn goes, and everything needed to explain it later.

    `fallbacks` are tried in order when `model` fails before its first token. `score` is None when
    the classifier did not answer. `policy` is name@version, `classifier` the model file's version,
    `stage` 1 or 2, 0 when no classifier was asked. `propensity` is the probability with which this
    tier was drawn: 1.0 unless the policy explores. Costs of candidates are in `currency`.
    `inputs` are the other facts it was made from.
    """

    tier: str
    model: str
    fallbacks: tuple[str, ...]
    reason: Reason
    score: float | None
    labels: Labels
    candidates: tuple[Candidate, ...]
    policy: str
    classifier: str
    stage: int = 1
    needs_context: bool = False
    uncertainty: float | None = None
    thresholds: Mapping[str, float] = field(default_factory=dict)
    propensity: float = 1.0
    currency: str = "USD"
    inputs: Mapping[str, Any] = field(default_factory=dict)

    def to_wire(self) -> dict[str, Any]:
        """Return the `decision` object of `POST /v1/route` and of a recorded turn."""
        return {
            "tier": self.tier,
            "model": self.model,
            "fallbacks": list(self.fallbacks),
            "reason": self.reason.value,
            "score": self.score,
            "labels": self.labels.to_wire(),
            "candidates": [candidate.to_wire() for candidate in self.candidates],
            "policy": self.policy,
            "classifier": self.classifier,
            "stage": self.stage,
            "needs_context": self.needs_context,
            "uncertainty": None if self.uncertainty is None else round(self.uncertainty, 4),
            "thresholds": dict(self.thresholds),
            "propensity": self.propensity,
            "currency": self.currency,
            "inputs": dict(self.inputs),
        }


def decide(
    request: RouteRequest,
    prediction: Prediction | None,
    table: RoutingTable,
    *,
    used_share: float | None = None,
    load: Mapping[str, Load] | None = None,
    labels: Labels | None = None,
    classifier: str = "none",
    draw: float | None = None,
) -> RoutingDecision:
    """Return the decision for one turn; the same arguments always give the same decision.

    Args:
        request: the turn; of its text nothing is read here.
        prediction: what the classifier said; None when it could not be asked.
        table: the tenant's policy over the catalogue.
        used_share: spent and held over the budget's limit, for the ladder; None without a budget.
        load: by catalogue name; a model that is missing is taken as free and up.
        labels: facts known without the classifier; a prediction brings its own.
        classifier: version of the model file, for the record.
        draw: uniform in [0, 1), compared with the policy's share of exploration.

    Raises:
        ModelNotFound: if the requested name is none of the policy's models.
        ContextTooLong: if only the window stands in the way.
        NoTierAllowed: if no model may serve.
    """
    facts = prediction.labels if prediction else labels or NO_LABELS
    # Decided on as it is recorded, so that the record decides the same.
    score = round(prediction.score, SCORE_DIGITS) if prediction else None
    policy = table.policy
    bounds = bounds_of(
        request, facts, policy, table.catalog, used_share=used_share, usual=table.bounds
    )
    candidates = candidates_of(request, bounds, table, load or {})
    propensity = 1.0
    is_pinned = request.is_pinned
    if is_pinned:
        chosen, reason = pinned(request, candidates, table), Reason.PINNED
    else:
        is_carried = prediction is not None and prediction.is_carried
        choice = wanted(request, score, table, bounds, is_carried=is_carried)
        if draw is not None and policy.explore > 0:
            choice = explored(choice, score, request, candidates, table, draw)
        chosen, reason = settled(choice, request, candidates, table)
        if reason is choice.reason:
            propensity = choice.propensity
    return RoutingDecision(
        tier=candidates[chosen].tier,
        model=candidates[chosen].model,
        fallbacks=fallbacks_of(chosen, candidates, table, only_tier=is_pinned),
        reason=reason,
        score=score,
        labels=facts,
        candidates=candidates,
        policy=table.label,
        classifier=classifier,
        stage=prediction.stage if prediction else 0,
        needs_context=prediction is not None and prediction.needs_context >= 0.5,
        uncertainty=prediction.uncertainty if prediction else None,
        thresholds=policy.thresholds,
        propensity=propensity,
        currency=request.currency,
        inputs=inputs_of(request, prediction, load, used_share, draw),
    )


def decided_again(decision: Mapping[str, Any], table: RoutingTable) -> RoutingDecision:
    """Return what a recorded decision's inputs lead to under a policy: its own, or another one.

    Raises:
        KeyError: if the record lacks its inputs.
        RouterError: as `decide`.
    """
    return decide(table=table, **arguments_of(decision))
