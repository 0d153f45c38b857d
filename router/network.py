"""The classifier's network: its weights, what it computes, and the ONNX graph of the same.

A token table, mean pooling and counts, one hidden layer, small heads: one level of difficulty for
each format of a turn, weighed by how likely the turn is of that format. `forward` is the reference
that the exported graph is compared with. Needs numpy; only `onnx_bytes` needs onnx.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from router.features import FACTS
from router.labels import DOMAINS, TASKS

FORMAT = "turnwise-router-3"
OPSET = 17
# How many columns of the table are counts; after them comes the one that foretells steps.
N_KINDS = 24
# Inputs are held within this many deviations: a text unlike any seen must not run away.
FARTHEST = 4.0
IR_VERSION = 8

# The kinds of turns that difficulty is learned for apart from each other.
FORMATS = ("everyday", "open", "knowledge", "story", "contest", "code", "puzzle")
# What the output vector holds, in this order, before one number for each of TASKS and DOMAINS.
SCALARS = ("score", "difficulty", "unsafe", "needs_context")
N_OUTPUTS = len(SCALARS) + len(TASKS) + len(DOMAINS)
# How wide each group of logits is: levels of formats, two flags, formats, tasks, domains.
GROUPS = (len(FORMATS), 2, len(FORMATS), len(TASKS), len(DOMAINS))
N_LOGITS = sum(GROUPS)

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Weights:
    """Everything that is learned; row 0 of the table is the unknown token.

    table: int8 [vocabulary, dim + kinds + 1], times scale [dim + kinds + 1]: a vector, whose mean
        is taken, counts, which are summed and never negative, and what a token says of the steps
        of a word problem, which is summed as it is.
    mean, spread: float32 [dim + kinds + 1 + facts], what inputs are standardized with.
    hidden, hidden_bias: float32 [inputs, width] and [width].
    heads, heads_bias: float32 [inputs + width, N_LOGITS] and [N_LOGITS], in the order of GROUPS.
        A level is the logit of how likely a small model fails, were the turn of that format.
    usual: float32 [formats], the level of a middling turn of each format.
    """

    table: NDArray[np.int8]
    scale: Floats
    mean: Floats
    spread: Floats
    hidden: Floats
    hidden_bias: Floats
    heads: Floats
    heads_bias: Floats
    usual: Floats


def inputs_of(weights: Weights, ids: ArrayLike, facts: Sequence[float]) -> Floats:
    """Return the standardized inputs of one turn, float32 [dim + kinds + 1 + facts]."""
    rows = weights.table[np.asarray(ids, dtype=np.int64)].astype(np.float32)
    dim = len(weights.scale) - N_KINDS - 1
    sums = rows.sum(0) * weights.scale
    pooled, counted = sums[:dim] / len(rows), np.log1p(sums[dim:-1])
    features = np.concatenate([pooled, counted, sums[-1:], np.asarray(facts, np.float32)])
    standard = (features - weights.mean) / weights.spread
    return np.asarray(np.clip(standard, -FARTHEST, FARTHEST), dtype=np.float32)


def forward(weights: Weights, ids: ArrayLike, facts: Sequence[float]) -> Floats:
    """Return the output vector of one turn, float32 [N_OUTPUTS]; the graph computes the same."""
    inputs = inputs_of(weights, ids, facts)
    hidden = np.maximum(inputs @ weights.hidden + weights.hidden_bias, 0)
    logits = np.concatenate([inputs, hidden]) @ weights.heads + weights.heads_bias
    levels, flags, formats, tasks, domains = np.split(logits, np.cumsum(GROUPS)[:-1])
    chances = _softmax(formats)
    level = chances @ levels
    judged = _sigmoid(np.array([level, level - chances @ weights.usual, *flags], np.float32))
    return np.concatenate([judged, _sigmoid(tasks), _sigmoid(domains)]).astype(np.float32)


def _sigmoid(values: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-values)), dtype=np.float32)


def _softmax(values: Floats) -> Floats:
    powers = np.exp(values - values.max())
    return np.asarray(powers / powers.sum(), dtype=np.float32)


def onnx_bytes(
    weights: Weights, *, version: str, vocabulary_size: int, about: Mapping[str, Any]
) -> bytes:
    """Return the graph as a serialized ONNX model that says its own version and labels.

    Inputs are `tokens` (int32 [n], n at least 1) and `facts` (float32 [1, FACTS]); the output is
    `outputs` (float32 [1, N_OUTPUTS]). Text reaches it as token ids only.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = helper.make_model(
        helper.make_graph(
            [
                helper.make_node(kind, inputs, outputs, **more)
                for kind, inputs, outputs, more in _NODES
            ],
            "turnwise_router",
            [
                helper.make_tensor_value_info("tokens", TensorProto.INT32, ["n"]),
                helper.make_tensor_value_info("facts", TensorProto.FLOAT, [1, len(FACTS)]),
            ],
            [helper.make_tensor_value_info("outputs", TensorProto.FLOAT, [1, N_OUTPUTS])],
            [numpy_helper.from_array(t, name) for name, t in _tensors_of(weights).items()],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    properties = {
        "format": FORMAT,
        "version": version,
        "vocabulary": str(vocabulary_size),
        "about": json.dumps(dict(about)),
    }
    helper.set_model_props(model, properties)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


_FLOAT = 1  # onnx.TensorProto.FLOAT, which onnx need not be installed for
# What each node is, reads and writes. A run costs by the node more than by the number.
_NODES: tuple[tuple[str, list[str], list[str], dict[str, Any]], ...] = (
    ("Gather", ["table", "tokens"], ["rows8"], {}),
    ("Cast", ["rows8"], ["rows"], {"to": _FLOAT}),
    ("ReduceSum", ["rows", "first_axis"], ["sums"], {"keepdims": 1}),
    ("Split", ["sums", "columns"], ["vector_sum", "count_sum", "steps", "n"], {"axis": 1}),
    ("Div", ["vector_sum", "n"], ["pooled"], {}),
    ("Add", ["count_sum", "one_count"], ["counted"], {}),
    ("Log", ["counted"], ["log_counts"], {}),
    ("Concat", ["pooled", "log_counts", "steps", "facts"], ["features"], {"axis": 1}),
    ("Mul", ["features", "precision"], ["scaled"], {}),
    ("Add", ["scaled", "offset"], ["standard"], {}),
    ("Clip", ["standard", "nearest", "farthest"], ["inputs"], {}),
    ("Gemm", ["inputs", "hidden", "hidden_bias"], ["hidden1"], {}),
    ("Relu", ["hidden1"], ["hidden2"], {}),
    ("Concat", ["inputs", "hidden2"], ["seen"], {"axis": 1}),
    ("Gemm", ["seen", "heads", "heads_bias"], ["logits"], {}),
    ("Split", ["logits", "groups"], ["levels", "flags", "formats", "labels"], {"axis": 1}),
    ("Softmax", ["formats"], ["chances"], {"axis": 1}),
    ("Reshape", ["levels", "by_format"], ["levels_by_format"], {}),
    ("Gemm", ["chances", "levels_by_format"], ["level"], {"transB": 1}),
    ("Concat", ["level", "flags", "labels"], ["judged"], {"axis": 1}),
    ("Sigmoid", ["judged"], ["outputs"], {}),
)


def _tensors_of(weights: Weights) -> dict[str, NDArray[Any]]:
    dim = len(weights.scale) - N_KINDS - 1
    counts = slice(dim, dim + N_KINDS)
    precision = 1 / weights.spread
    offset = -weights.mean * precision
    # The table is summed unscaled: log(1 + scale * count) is log(1 / scale + count) + log(scale).
    offset[counts] += np.log(weights.scale[counts]) * precision[counts]
    precision[:dim] *= weights.scale[:dim]
    precision[dim + N_KINDS] *= weights.scale[-1]
    n_formats = len(FORMATS)
    # Each level stands a second time, above that of a middling turn of its format.
    above = weights.heads_bias[:n_formats] - weights.usual
    return {
        # A last column of ones counts the tokens.
        "table": np.pad(weights.table, ((0, 0), (0, 1)), constant_values=1),
        "columns": np.array([dim, N_KINDS, 1, 1], np.int64),
        "one_count": 1 / weights.scale[counts],
        "precision": precision.astype(np.float32),
        "offset": offset.astype(np.float32),
        "hidden": weights.hidden,
        "hidden_bias": weights.hidden_bias,
        "heads": np.hstack([weights.heads[:, :n_formats], weights.heads]),
        "heads_bias": np.concatenate(
            [weights.heads_bias[:n_formats], above, weights.heads_bias[n_formats:]]
        ),
        "nearest": np.array(-FARTHEST, np.float32),
        "farthest": np.array(FARTHEST, np.float32),
        "first_axis": np.zeros(1, np.int64),
        "by_format": np.array([2, n_formats], np.int64),
        "groups": np.array([2 * GROUPS[0], *GROUPS[1:3], GROUPS[3] + GROUPS[4]], np.int64),
    }
