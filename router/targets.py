"""What the heads learn of difficulty: right-and-wrong of many models brought to two numbers.

Sources differ in base rate, and a target that keeps the difference teaches which source a text is
from. So difficulty is centred inside each source, and only `level` compares sources.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from router.dataset import Example, by_source
from router.network import Floats

# The share of turns that a small model gets wrong, where no outcomes are known: set by hand.
_ASSUMED_LEVEL = {"chat": 0.03, "command": 0.06, "support": 0.10}
_ASSUMED_LEVEL_OF_SOURCE = {
    "trec_cast": 0.25,
    "clinc_oos": 0.2,
    "self_instruct_seed": 0.3,
    "self_instruct_user": 0.3,
    "arena_hard_v0.1": 0.7,
    "gsm8k_train": 0.5,
    "agieval_math": 0.75,
    "agieval_aqua-rat": 0.65,
    "bbh": 0.6,
    "mbpp": 0.5,
    "human_eval": 0.5,
}
OPEN_SOURCES = frozenset(
    {
        "arena_hard_v0.1",
        "phrases",
        "self_instruct_seed",
        "self_instruct_user",
        "trec_cast",
        "vicuna_bench",
    }
)
_ASSUMED_LEVEL_OF_VICUNA = {"code": 0.6, "math": 0.7, "reasoning": 0.5, "question": 0.25}


def difficulties(examples: Sequence[Example]) -> Floats:
    """Return the difficulty of each example inside its source: mean 0, deviation 1, NaN unknown.

    Outcomes of models come first (how often the able-enough ones fail beyond their own mean);
    a stated level stands in where there are none.
    """
    values = np.full(len(examples), np.nan)
    for rows in by_source(list(examples)).values():
        part = [examples[row] for row in rows]
        known = failures(part) if part[0].scores else np.array([e.level for e in part])
        spread = np.nanstd(known) if np.isfinite(known).any() else 0.0
        if spread > 0:
            values[rows] = (known - np.nanmean(known)) / spread
    return values.astype(np.float32)


def levels(examples: Sequence[Example]) -> Floats:
    """Return the probability that a small model fails each example, NaN where nobody can say."""
    values = np.full(len(examples), np.nan)
    for source, rows in by_source(list(examples)).items():
        part = [examples[row] for row in rows]
        if part[0].scores:
            values[rows] = failures(part, weaker_half=True)
            continue
        for row, example in zip(rows, part, strict=True):
            if source == "phrases":
                values[row] = example.level
                continue
            level = _ASSUMED_LEVEL.get(example.task or "")
            if level is None and source == "vicuna_bench":
                level = _ASSUMED_LEVEL_OF_VICUNA.get(example.task or "", 0.3)
            values[row] = (
                level if level is not None else _ASSUMED_LEVEL_OF_SOURCE.get(source, np.nan)
            )
    return values.astype(np.float32)


def openness(examples: Sequence[Example]) -> Floats:
    """Return the assumed level of open requests, standardized over all their sources, else NaN.

    No outcomes are known for these, so sources are compared as a person would: what was collected
    as hard against what was collected as everyday.
    """
    values: Any = levels(examples)
    values[[example.source not in OPEN_SOURCES for example in examples]] = np.nan
    if np.isfinite(values).any():
        values = (values - np.nanmean(values)) / max(float(np.nanstd(values)), 1e-6)
    return np.asarray(values, dtype=np.float32)


def failures(examples: Sequence[Example], *, weaker_half: bool = False) -> Floats:
    """Return the share of the middling models that fail each example of one source, 0 to 1.

    Models that pass nearly always or never say nothing of an example, and models that fail for
    their format's sake (below one in five) blur it. With `weaker_half` only the weaker middling
    models count: those are what a cheapest tier is made of.
    """
    outcomes: dict[str, list[float]] = defaultdict(list)
    for example in examples:
        for model, score in example.scores.items():
            outcomes[model].append(score)
    means = {model: float(np.mean(scores)) for model, scores in outcomes.items()}
    by_mean = sorted(means, key=lambda model: means[model])
    middling = [model for model in by_mean if 0.2 < means[model] < 0.9]
    if len(middling) < 2:
        middling = by_mean[-4:]
    if weaker_half:
        middling = middling[: -(-len(middling) // 2)]
    shares = np.full(len(examples), np.nan, np.float32)
    for row, example in enumerate(examples):
        known = [example.scores[model] for model in middling if model in example.scores]
        if known:
            shares[row] = 1 - np.mean(known)
    return shares
