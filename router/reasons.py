"""The closed sets of codes that explain a decision: records, headers and dashboards share them."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why the chosen tier serves."""

    SCORE = "score"
    CARRIED = "carried_over"
    PINNED = "pinned"
    FAST = "auto_fast"
    BEST = "auto_best"
    TOOL_LOOP = "tool_continuation"
    FLOOR = "floor"
    MIN_TIER = "min_tier"
    CEILING = "ceiling"
    BUDGET = "budget_ladder"
    RULE = "rule"
    BOUNDARY = "boundary"
    CAPABILITY = "capability"
    CONTEXT = "context_window"
    UNPRICED = "unpriced"
    MAX_COST = "max_cost"
    LOAD = "load"
    WARM_CACHE = "warm_cache"
    EXPLORE = "explore"
    CLASSIFIER_UNAVAILABLE = "classifier_unavailable"


class Exclusion(StrEnum):
    """Why a model may not serve this turn."""

    BOUNDARY = "boundary"
    CEILING = "ceiling"
    BUDGET = "budget_ladder"
    RULE = "rule"
    FLOOR = "floor"
    MIN_TIER = "min_tier"
    TOOLS = "tools"
    JSON = "json"
    IMAGES = "images"
    CONTEXT = "context_window"
    UNPRICED = "unpriced"
    MAX_COST = "max_cost"
    UNKNOWN_MODEL = "unknown_model"
    DOWN = "down"
    BUSY = "busy"


# Down and busy are states of the moment: they push a model back, they do not forbid it.
SOFT_EXCLUSIONS = frozenset({Exclusion.DOWN, Exclusion.BUSY})

REASON_OF_EXCLUSION = {
    Exclusion.BOUNDARY: Reason.BOUNDARY,
    Exclusion.CEILING: Reason.CEILING,
    Exclusion.BUDGET: Reason.BUDGET,
    Exclusion.RULE: Reason.RULE,
    Exclusion.FLOOR: Reason.FLOOR,
    Exclusion.MIN_TIER: Reason.MIN_TIER,
    Exclusion.TOOLS: Reason.CAPABILITY,
    Exclusion.JSON: Reason.CAPABILITY,
    Exclusion.IMAGES: Reason.CAPABILITY,
    Exclusion.CONTEXT: Reason.CONTEXT,
    Exclusion.UNPRICED: Reason.UNPRICED,
    Exclusion.MAX_COST: Reason.MAX_COST,
    Exclusion.UNKNOWN_MODEL: Reason.CAPABILITY,
    Exclusion.DOWN: Reason.LOAD,
    Exclusion.BUSY: Reason.LOAD,
}
