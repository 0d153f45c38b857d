"""What the codes of records mean, in the words of the pages."""

from __future__ import annotations

from collections.abc import Mapping

WORDS: Mapping[str, str] = {
    # Reasons: router/reasons.py
    "score": "the classifier's score",
    "carried_over": "carried over from the turn before",
    "pinned": "the caller named the model",
    "auto_fast": "the caller asked for auto:fast",
    "auto_best": "the caller asked for auto:best",
    "tool_continuation": "a tool's result goes back to the same model",
    "floor": "the policy's floor",
    "min_tier": "the caller's minimum tier",
    "ceiling": "the policy's ceiling",
    "budget_ladder": "the budget ladder lowered the ceiling",
    "rule": "a rule of the policy",
    "boundary": "the data boundary",
    "capability": "only this tier can do what was asked",
    "context_window": "only this tier's window is large enough",
    "unpriced": "the other models have no known price",
    "max_cost": "the caller's cost limit",
    "load": "the other models are busy or down",
    "warm_cache": "the provider's prompt cache is warm",
    "explore": "drawn to explore the neighbour tier",
    "classifier_unavailable": "the classifier did not answer: the safe tier serves",
    # Parts of the savings waterfall: policies/savings.py
    "routing": "Routing to cheaper tiers",
    "cache": "Answers given again from the cache",
    "failed_attempts": "Failed attempts that were charged",
    "helper_calls": "Helper calls (classifier, embedder, summariser)",
    # Where an answer came from
    "none": "generated",
    "exact": "exact cache",
    "semantic": "semantic cache",
}
