"""The whole model from its tuned lower part: int8 tables, and heads fitted on what they give.

Owns the scikit-learn side of training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression, Ridge

from router.dataset import Example
from router.labels import DOMAINS, TASKS
from router.network import FORMATS, N_KINDS, Floats, Weights, inputs_of
from router.prepared import Prepared
from router.steps import steps_of_tokens
from router.targets import standardized_by_format
from router.tune import Tuned

# Classification heads see this many rows at most: more change nothing but the time.
MOST_ROWS_OF_A_HEAD = 12_000


def with_heads(lower: Tuned, prepared: Prepared, weight: Floats, seed: int) -> Weights:
    """Return the whole model: tables in int8, and heads fitted on what those tables give."""
    examples, ids = prepared.examples, prepared.ids
    is_story = np.array([example.format == "story" for example in examples])
    rows = np.flatnonzero(is_story & np.isfinite(prepared.level))
    steps = steps_of_tokens([ids[row] for row in rows], prepared.level[rows], len(lower.vectors))
    table, scale = _quantized(np.hstack([lower.vectors, lower.counts, steps.column[:, None]]))
    at = lower.vectors.shape[1] + N_KINDS  # where the sum of steps stands among the inputs
    weights = Weights(
        table=table,
        scale=scale,
        mean=np.insert(lower.mean, at, steps.mean),
        spread=np.insert(lower.spread, at, steps.spread),
        hidden=np.insert(lower.hidden, at, 0.0, axis=0),
        hidden_bias=lower.hidden_bias,
        heads=np.zeros((0, 0), np.float32),
        heads_bias=np.zeros(0, np.float32),
        usual=np.zeros(len(FORMATS), np.float32),
    )
    inputs = np.array(
        [inputs_of(weights, *each) for each in zip(ids, prepared.facts, strict=True)], np.float32
    )
    hidden = np.maximum(inputs @ weights.hidden + lower.hidden_bias, 0)
    seen = np.hstack([inputs, hidden]).astype(np.float32)
    seen[~is_story, at] = 0  # the other heads learn nothing from it
    levels_of_formats, usual = _level_heads(seen, examples, prepared.level, weight)
    seen[:, at] = 0
    heads = [
        *levels_of_formats,
        *(_logistic(seen, flags, 2, weight, seed) for flags in flags_of(examples)),
        _logistic(seen, classes_of(examples, "format", FORMATS), len(FORMATS), weight, seed),
        _logistic(seen, classes_of(examples, "task", TASKS), len(TASKS), weight, seed),
        _logistic(seen, classes_of(examples, "domain", DOMAINS), len(DOMAINS), weight, seed),
    ]
    return replace(
        weights,
        heads=np.hstack([columns for columns, _ in heads]).astype(np.float32),
        heads_bias=np.concatenate([bias for _, bias in heads]).astype(np.float32),
        usual=usual,
    )


def _level_heads(
    seen: Floats, examples: Sequence[Example], level: Floats, weight: Floats
) -> tuple[list[tuple[Any, Any]], Floats]:
    """Return one linear head for each format, giving the logit of failure, and their middles.

    Ridge on the standardized level, then the logit's slope at the format's mean: the shrinkage
    keeps a head that can tell little close to that mean.
    """
    numbers, shape = standardized_by_format(examples, level)
    heads, usual = [], np.zeros(len(FORMATS), np.float32)
    for column, (mean, spread) in enumerate(shape.T.astype(float)):
        known = np.isfinite(numbers[:, column])
        usual[column] = np.log(mean / (1 - mean))
        slope = spread / (mean * (1 - mean))
        coefficients, bias = np.zeros(seen.shape[1]), 0.0
        if known.any():
            model = Ridge(alpha=200.0).fit(seen[known], numbers[known, column], weight[known])
            coefficients, bias = model.coef_, float(model.intercept_)
        heads.append((slope * coefficients[:, None], np.array([usual[column] + slope * bias])))
    return heads, usual


def _logistic(
    seen: Floats, labels: Any, n_classes: int, weight: Floats, seed: int
) -> tuple[Any, Any]:
    """Return weights and biases of a classification; one column for two classes."""
    known = np.flatnonzero(labels >= 0)
    if len(known) > MOST_ROWS_OF_A_HEAD:
        draw = np.random.default_rng(seed)
        chance = weight[known] / weight[known].sum()
        known = draw.choice(known, MOST_ROWS_OF_A_HEAD, replace=False, p=chance)
        weight = np.ones_like(weight)  # the draw has weighed them
    model = LogisticRegression(C=0.05, max_iter=500, random_state=seed)
    balance = len(labels[known]) / (n_classes * np.maximum(np.bincount(labels[known]), 1))
    model.fit(seen[known], labels[known], np.sqrt(balance[labels[known]]) * weight[known])
    if n_classes == 2:
        return model.coef_.T, model.intercept_
    columns, bias = np.zeros((seen.shape[1], n_classes)), np.full(n_classes, -20.0)
    columns[:, model.classes_], bias[model.classes_] = model.coef_.T, model.intercept_
    return columns, bias


def classes_of(examples: Sequence[Example], label: str, names: tuple[str, ...]) -> Any:
    """Return the number of each example's label among the names, -1 where it has none."""
    values = (getattr(example, label) for example in examples)
    return np.array([-1 if value is None else names.index(value) for value in values])


def flags_of(examples: Sequence[Example]) -> list[Any]:
    """Return whether each example is unsafe and whether it leans on the one before: 0, 1 or -1."""
    return [
        np.array([-1 if flag is None else int(flag) for flag in flags])
        for flags in (
            [example.is_unsafe for example in examples],
            [example.needs_context for example in examples],
        )
    ]


def _quantized(table: Floats) -> tuple[Any, Floats]:
    scale = np.maximum(np.abs(table).max(0), 1e-6) / 127
    return np.round(table / scale).astype(np.int8), scale.astype(np.float32)
