"""The decision: which tier and model serve a turn, and why; a pure function of recorded facts.

Owns the record of a decision. Knows nothing of text, ONNX or clocks, so that any past decision can
be recomputed from what was recorded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from policies.budget import BudgetState
from policies.catalog import ModelCatalog
from policies.policy import Policy
from router.bounds import bounds_of
from router.candidates import Candidate, candidates_of
from router.choice import fallbacks_of, pinned, settled, wanted
from router.labels import Labels, Prediction
from router.reasons import Exclusion, Reason
from router.request import AUTO, BEST, FAST, Load, RouteRequest

__all__ = ["Candidate", "Exclusion", "Labels", "Reason", "RoutingDecision", "decide"]


@dataclass(frozen=True, slots=True)
class RoutingDecision:
    """Where a turn goes, and everything needed to explain it later.

    `fallbacks` are tried in order when `model` fails before its first token. `score` is None when
    the classifier did not answer. `policy` is name@version, `classifier` the model file's version,
    `stage` 1 or 2, 0 when no classifier was asked. `propensity` is the probability with which this
    tier was drawn: 1.0 unless the policy explores.
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

    def to_wire(self) -> dict[str, Any]:
        """Return the `decision` object of `POST /v1/route` and of a recorded turn."""
        return {
            "tier": self.tier,
            "model": self.model,
            "fallbacks": list(self.fallbacks),
            "reason": self.reason.value,
            "score": None if self.score is None else round(self.score, 4),
            "labels": self.labels.to_wire(),
            "candidates": [candidate.to_wire() for candidate in self.candidates],
            "policy": self.policy,
            "classifier": self.classifier,
            "stage": self.stage,
            "needs_context": self.needs_context,
            "uncertainty": None if self.uncertainty is None else round(self.uncertainty, 4),
            "thresholds": dict(self.thresholds),
            "propensity": self.propensity,
        }


def decide(
    request: RouteRequest,
    prediction: Prediction | None,
    *,
    policy: Policy,
    catalog: ModelCatalog,
    budget_state: BudgetState | None = None,
    load: Mapping[str, Load] | None = None,
    labels: Labels | None = None,
    classifier: str = "none",
    draw: float | None = None,
) -> RoutingDecision:
    """Return the decision for one turn; the same arguments always give the same decision.

    Args:
        request: the turn; its text is not read here.
        prediction: what the classifier said; None when it could not be asked.
        policy: the tenant's rules, tiers cheapest first.
        catalog: every model that the policy names.
        budget_state: what is spent, for the ladder; None without a budget.
        load: by catalogue name; a model that is missing is taken as free and up.
        labels: facts known without the classifier; a prediction brings its own.
        classifier: version of the model file, for the record.
        draw: uniform in [0, 1), compared with the policy's share of exploration.

    Raises:
        ModelNotFound: if the requested name is none of the policy's models.
        ContextTooLong: if only the window stands in the way.
        NoTierAllowed: if no model may serve.
    """
    facts = prediction.labels if prediction else labels or Labels()
    bounds = bounds_of(request, facts, policy, catalog, budget_state)
    candidates = candidates_of(request, bounds, policy, catalog, load or {})
    propensity = 1.0
    is_pinned = request.requested not in (AUTO, FAST, BEST)
    if is_pinned:
        chosen, reason = pinned(request, candidates, policy, catalog), Reason.PINNED
    else:
        choice = wanted(request, prediction, policy, bounds, draw)
        chosen, reason = settled(choice, request, candidates, policy, bounds, catalog)
        if chosen.tier == policy.tiers[choice.tier_index].name:
            propensity = choice.propensity
    return RoutingDecision(
        tier=chosen.tier,
        model=chosen.model,
        fallbacks=fallbacks_of(chosen, candidates, policy, only_tier=is_pinned),
        reason=reason,
        score=prediction.score if prediction else None,
        labels=facts,
        candidates=candidates,
        policy=policy.label,
        classifier=classifier,
        stage=1 if prediction else 0,
        needs_context=bool(prediction and prediction.needs_context >= 0.5),
        uncertainty=prediction.uncertainty if prediction else None,
        thresholds=policy.thresholds,
        propensity=propensity,
    )
