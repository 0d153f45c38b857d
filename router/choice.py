"""From a score to a model: the tier that is wanted, and the nearest one that may serve.

Candidates stand at their positions in the policy's table; a position is how a model is named here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from router.bounds import Bounds
from router.candidates import Candidate
from router.errors import ContextTooLong, ModelNotFound, NoTierAllowed
from router.reasons import REASON_OF_EXCLUSION, SOFT_EXCLUSIONS, Exclusion, Reason
from router.request import BEST, FAST, RouteRequest
from router.table import RoutingTable

Candidates = tuple[Candidate, ...]

# Scores this close to a threshold are where a neighbour tier may be tried without harm.
SAFE_BAND = 0.1
# Leaving a warm prompt cache for a cheaper tier must save at least this share of the turn.
SWITCH_MARGIN = Decimal("0.1")


@dataclass(frozen=True, slots=True)
class Choice:
    """A tier that is wanted, before it is known whether a model of it may serve.

    `propensity` is the probability with which this tier was drawn.
    """

    tier_index: int
    reason: Reason
    propensity: float = 1.0


def pinned(request: RouteRequest, candidates: Candidates, table: RoutingTable) -> int:
    """Return the position of the model that the caller named.

    Raises:
        ModelNotFound: if it is none of the policy's models.
        ContextTooLong: if it is too small for the turn.
        NoTierAllowed: if boundary, ceiling, price or cost cap forbid it.
    """
    for position, candidate in enumerate(candidates):
        if candidate.model == request.requested:
            if candidate.is_open:
                return position
            raise refusal([candidate], request, table)
    raise ModelNotFound(request.requested)


def wanted(
    request: RouteRequest,
    score: float | None,
    table: RoutingTable,
    bounds: Bounds,
    *,
    is_carried: bool = False,
) -> Choice:
    """Return the tier that this turn should have inside the open range.

    A `score` of None says that no classifier answered.
    """
    if request.requested == FAST:
        return Choice(bounds.low, Reason.FAST)
    if request.requested == BEST:
        return Choice(bounds.high, Reason.BEST)
    if score is None:
        safe = table.tier_index[table.policy.safe]
        return Choice(min(max(safe, bounds.low), bounds.high), Reason.CLASSIFIER_UNAVAILABLE)
    index = tier_of_score(score, table)
    if index < bounds.low:
        return Choice(bounds.low, REASON_OF_EXCLUSION[bounds.low_by])
    if index > bounds.high:
        return Choice(bounds.high, REASON_OF_EXCLUSION[bounds.high_by])
    return Choice(index, Reason.CARRIED if is_carried else Reason.SCORE)


def tier_of_score(score: float, table: RoutingTable) -> int:
    """Return the tier whose threshold is the highest at or below the score; else the first."""
    index = 0
    for position, threshold in table.thresholds:
        if score >= threshold:
            index = position
    return index


def explored(
    choice: Choice,
    score: float | None,
    request: RouteRequest,
    candidates: Candidates,
    table: RoutingTable,
    draw: float,
) -> Choice:
    """Return the choice, or with the policy's share its neighbour across the nearest threshold.

    Only what the score alone decided is tried, close to a threshold, where the neighbour has a
    model free, and never in the middle of a tool loop or against a warm prompt cache.
    """
    if score is None or choice.reason not in (Reason.SCORE, Reason.CARRIED):
        return choice
    if request.current_model is not None and (request.is_tool_loop or request.warm_tokens):
        return choice
    neighbours = []
    for index, threshold in table.thresholds:
        if abs(score - threshold) < SAFE_BAND:
            other = index - 1 if choice.tier_index >= index else index
            if any(map(_is_free, candidates[slice(*table.spans[other])])):
                neighbours.append((abs(score - threshold), other))
    if not neighbours:
        return choice
    share = table.policy.explore
    if draw < share:
        return Choice(min(neighbours)[1], Reason.EXPLORE, share)
    return Choice(choice.tier_index, choice.reason, 1.0 - share)


def settled(
    choice: Choice, request: RouteRequest, candidates: Candidates, table: RoutingTable
) -> tuple[int, Reason]:
    """Return the position that serves, as near to the wanted tier as may be, stronger ones first.

    Raises:
        ContextTooLong: if only the window stands in the way.
        NoTierAllowed: if no model may serve.
    """
    if request.current_model is not None:
        kept = _kept(choice, request, candidates, table)
        if kept is not None:
            return kept
    order = table.after[choice.tier_index]
    for is_good in (_is_free, _is_open):
        for position in order:
            # Above the open range all is closed, so `after` may name it: it is never good.
            if is_good(candidates[position]):
                return position, _moved_reason(choice, position, candidates, table)
    raise refusal(candidates, request, table)


def _is_free(candidate: Candidate) -> bool:
    return candidate.excluded_by is None


def _is_open(candidate: Candidate) -> bool:
    return candidate.is_open


def _moved_reason(
    choice: Choice, position: int, candidates: Candidates, table: RoutingTable
) -> Reason:
    """Return the choice's own reason, or what pushed the turn out of the wanted tier."""
    tier = table.models[position].tier_index
    if tier == choice.tier_index or choice.reason is Reason.CLASSIFIER_UNAVAILABLE:
        return choice.reason
    for candidate in candidates[slice(*table.spans[choice.tier_index])]:
        if candidate.excluded_by is not None:
            return REASON_OF_EXCLUSION[candidate.excluded_by]
    return choice.reason


def _kept(
    choice: Choice, request: RouteRequest, candidates: Candidates, table: RoutingTable
) -> tuple[int, Reason] | None:
    """Return the model of the previous turn where changing it would cost more than it brings."""
    current = table.position_of(request.current_model)
    if current is None or not candidates[current].is_open:
        return None
    if candidates[current].excluded_by is Exclusion.DOWN:
        return None
    if request.is_tool_loop:
        return current, Reason.TOOL_LOOP
    if request.requested in (FAST, BEST) or choice.reason is Reason.EXPLORE:
        return None
    if table.models[current].tier_index < choice.tier_index or not request.warm_tokens:
        return None  # a stronger tier is wanted for the answer's sake, or nothing is warm
    span = range(*table.spans[choice.tier_index])
    target = next((position for position in span if candidates[position].is_open), None)
    if target is None or target == current:
        return None
    staying, moving = table.models[current].prices, table.models[target].prices
    if staying is None or moving is None:
        return None
    tokens = request.input_tokens, request.output_tokens
    stay_usd_micro = staying.usd_micro(*tokens, request.warm_tokens)
    if moving.usd_micro(*tokens) <= stay_usd_micro * (1 - SWITCH_MARGIN):
        return None
    return current, Reason.WARM_CACHE


def refusal(
    candidates: Sequence[Candidate], request: RouteRequest, table: RoutingTable
) -> ContextTooLong | NoTierAllowed:
    """Return the error to raise when no candidate may serve.

    Where only the window stands in the way of some model, a shorter turn would pass: say that.
    """
    windows = [
        table.catalog[candidate.model].context_tokens
        for candidate in candidates
        if candidate.excluded_by is Exclusion.CONTEXT
    ]
    if windows:
        return ContextTooLong(request.input_tokens, max(windows))
    excluded = {c.model: c.excluded_by.value for c in candidates if c.excluded_by}
    return NoTierAllowed(table.label, excluded)


def fallbacks_of(
    chosen: int, candidates: Candidates, table: RoutingTable, *, only_tier: bool
) -> tuple[str, ...]:
    """Return the models to try after the chosen one: its tier's, then stronger, then weaker ones.

    Models that are busy or down now come last. A pinned model falls back only to those after it.
    """
    home = table.models[chosen].tier_index
    order = range(chosen + 1, table.spans[home][1]) if only_tier else table.after[home]
    others = [candidates[position] for position in order if position != chosen]
    strained = [c.model for c in others if c.excluded_by in SOFT_EXCLUSIONS]
    return (*[c.model for c in others if c.excluded_by is None], *strained)
