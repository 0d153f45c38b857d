"""From a score to a model: the tier that is wanted, and the nearest one that may serve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from policies.catalog import ModelCatalog
from policies.policy import Policy
from router.bounds import Bounds
from router.candidates import Candidate, estimated_cost_micro
from router.errors import ContextTooLong, ModelNotFound, NoTierAllowed
from router.labels import Prediction
from router.reasons import REASON_OF_EXCLUSION, Exclusion, Reason
from router.request import BEST, FAST, RouteRequest

# Scores this close to a threshold are where a neighbour tier may be tried without harm.
SAFE_BAND = 0.1
# Leaving a warm prompt cache for a cheaper tier must save at least this share of the turn.
SWITCH_MARGIN = 0.1


@dataclass(frozen=True, slots=True)
class Choice:
    """A tier that is wanted, before it is known whether a model of it may serve.

    `propensity` is the probability with which this tier was drawn.
    """

    tier_index: int
    reason: Reason
    propensity: float = 1.0


def pinned(
    request: RouteRequest, candidates: Sequence[Candidate], policy: Policy, catalog: ModelCatalog
) -> Candidate:
    """Return the candidate that the caller named.

    Raises:
        ModelNotFound: if it is none of the policy's models.
        ContextTooLong: if it is too small for the turn.
        NoTierAllowed: if boundary, ceiling, price or cost cap forbid it.
    """
    for candidate in candidates:
        if candidate.model == request.requested:
            if candidate.is_open:
                return candidate
            raise refusal([candidate], request, policy, catalog)
    raise ModelNotFound(request.requested)


def wanted(
    request: RouteRequest,
    prediction: Prediction | None,
    policy: Policy,
    bounds: Bounds,
    draw: float | None,
) -> Choice:
    """Return the tier that this turn should have inside the open range."""
    if request.requested == FAST:
        return Choice(bounds.low, Reason.FAST)
    if request.requested == BEST:
        return Choice(bounds.high, Reason.BEST)
    if prediction is None:
        safe = tier_index_of(policy, policy.safe)
        return Choice(min(max(safe, bounds.low), bounds.high), Reason.CLASSIFIER_UNAVAILABLE)
    index = tier_of_score(prediction.score, policy)
    if index < bounds.low:
        return Choice(bounds.low, REASON_OF_EXCLUSION[bounds.low_by])
    if index > bounds.high:
        return Choice(bounds.high, REASON_OF_EXCLUSION[bounds.high_by])
    reason = Reason.CARRIED if prediction.is_carried else Reason.SCORE
    return _explored(Choice(index, reason), prediction.score, policy, bounds, draw)


def tier_index_of(policy: Policy, name: str) -> int:
    """Return where a tier stands, cheapest first."""
    return next(index for index, tier in enumerate(policy.tiers) if tier.name == name)


def tier_of_score(score: float, policy: Policy) -> int:
    """Return the tier whose threshold is the highest at or below the score; else the first."""
    index = 0
    for position, tier in enumerate(policy.tiers):
        threshold = policy.thresholds.get(tier.name)
        if threshold is not None and score >= threshold:
            index = position
    return index


def _explored(
    choice: Choice, score: float, policy: Policy, bounds: Bounds, draw: float | None
) -> Choice:
    """Return the choice, or its neighbour across the nearest threshold with the policy's share."""
    if draw is None or policy.explore <= 0:
        return choice
    neighbours = []
    for index, tier in enumerate(policy.tiers):
        threshold = policy.thresholds.get(tier.name)
        if threshold is not None and abs(score - threshold) < SAFE_BAND:
            other = index - 1 if choice.tier_index >= index else index
            if bounds.low <= other <= bounds.high:
                neighbours.append((abs(score - threshold), other))
    if not neighbours:
        return choice
    if draw < policy.explore:
        return Choice(min(neighbours)[1], Reason.EXPLORE, policy.explore)
    return Choice(choice.tier_index, choice.reason, 1.0 - policy.explore)


def settled(
    choice: Choice,
    request: RouteRequest,
    candidates: Sequence[Candidate],
    policy: Policy,
    bounds: Bounds,
    catalog: ModelCatalog,
) -> tuple[Candidate, Reason]:
    """Return the model that serves, as near to the wanted tier as may be, stronger tiers first.

    Raises:
        ContextTooLong: if only the window stands in the way.
        NoTierAllowed: if no model may serve.
    """
    by_tier = [[c for c in candidates if c.tier == tier.name] for tier in policy.tiers]
    kept = _kept(choice, request, candidates, policy, catalog)
    if kept is not None:
        return kept
    order = [choice.tier_index, *range(choice.tier_index + 1, bounds.high + 1)]
    order += range(choice.tier_index - 1, -1, -1)
    for is_good in (lambda c: c.excluded_by is None, lambda c: c.is_open):
        for index in order:
            found = next(filter(is_good, by_tier[index]), None)
            if found is not None:
                return found, _moved_reason(choice, index, by_tier[choice.tier_index])
    raise refusal(candidates, request, policy, catalog)


def _moved_reason(choice: Choice, index: int, wanted_tier: Sequence[Candidate]) -> Reason:
    """Return the choice's own reason, or what pushed the turn out of the wanted tier."""
    if index == choice.tier_index or choice.reason is Reason.CLASSIFIER_UNAVAILABLE:
        return choice.reason
    excluded = next((c.excluded_by for c in wanted_tier if c.excluded_by is not None), None)
    return REASON_OF_EXCLUSION[excluded] if excluded is not None else choice.reason


def _kept(
    choice: Choice,
    request: RouteRequest,
    candidates: Sequence[Candidate],
    policy: Policy,
    catalog: ModelCatalog,
) -> tuple[Candidate, Reason] | None:
    """Return the model of the previous turn where changing it would cost more than it brings."""
    current = next((c for c in candidates if c.model == request.current_model), None)
    if current is None or not current.is_open or current.excluded_by is Exclusion.DOWN:
        return None
    if request.is_tool_loop:
        return current, Reason.TOOL_LOOP
    if request.requested in (FAST, BEST) or choice.reason is Reason.EXPLORE:
        return None
    if tier_index_of(policy, current.tier) < choice.tier_index or not request.warm_tokens:
        return None  # a stronger tier is wanted for the answer's sake, or nothing is warm
    target = next(
        (c for c in candidates if c.tier == policy.tiers[choice.tier_index].name and c.is_open),
        None,
    )
    if target is None or target.model == current.model:
        return None
    stay_micro = estimated_cost_micro(
        catalog[current.model], request.input_tokens, request.output_tokens, request.warm_tokens
    )
    if stay_micro is None or target.estimated_cost_micro is None:
        return None
    if target.estimated_cost_micro <= stay_micro * (1 - SWITCH_MARGIN):
        return None
    return current, Reason.WARM_CACHE


def refusal(
    candidates: Sequence[Candidate], request: RouteRequest, policy: Policy, catalog: ModelCatalog
) -> ContextTooLong | NoTierAllowed:
    """Return the error to raise when no candidate may serve.

    Where only the window stands in the way of some model, a shorter turn would pass: say that.
    """
    windows = [
        catalog[candidate.model].context_tokens
        for candidate in candidates
        if candidate.excluded_by is Exclusion.CONTEXT
    ]
    if windows:
        return ContextTooLong(request.input_tokens, max(windows))
    excluded = {c.model: c.excluded_by.value for c in candidates if c.excluded_by}
    return NoTierAllowed(policy.label, excluded)


def fallbacks_of(
    chosen: Candidate, candidates: Sequence[Candidate], policy: Policy, *, only_tier: bool
) -> tuple[str, ...]:
    """Return the models to try after `chosen`: its tier's, then stronger tiers', then weaker.

    Models that are busy or down now come last. A pinned model falls back only to those after it.
    """
    home = tier_index_of(policy, chosen.tier)
    position = next(i for i, c in enumerate(candidates) if c is chosen)

    def rank(item: tuple[int, Candidate]) -> tuple[bool, int, int]:
        index, candidate = item
        tier = tier_index_of(policy, candidate.tier)
        distance = tier - home if tier >= home else len(policy.tiers) + home - tier
        return candidate.excluded_by is not None, distance, index

    others = [
        (index, candidate)
        for index, candidate in enumerate(candidates)
        if candidate.is_open
        and candidate is not chosen
        and (not only_tier or (candidate.tier == chosen.tier and index > position))
    ]
    return tuple(candidate.model for _, candidate in sorted(others, key=rank))
