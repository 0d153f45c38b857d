"""The classifier's network: its weights, what it computes, and the ONNX graph of the same.

A token table, mean pooling and counts, one hidden layer, small heads. `forward` is the reference
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

FORMAT = "turnwise-router-1"
OPSET = 17
# Inputs are held within this many deviations: a text unlike any seen must not run away.
FARTHEST = 4.0
IR_VERSION = 8

# What the output vector holds, in this order, before the probabilities of TASKS and DOMAINS.
SCALARS = ("score", "difficulty", "unsafe", "needs_context", "uncertainty")
N_OUTPUTS = len(SCALARS) + len(TASKS) + len(DOMAINS)

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Weights:
    """Everything that is learned; row 0 of both tables is the unknown token.

    vectors: int8 [vocabulary, dim], times vector_scale [dim].
    counts: int8 [vocabulary, kinds], times count_scale [kinds]; never negative.
    mean, spread: float32 [dim + kinds + facts], what inputs are standardized with.
    hidden, hidden_bias: float32 [inputs, width] and [width].
    heads, heads_bias: float32 [inputs + width, logits] and [logits]; logits are difficulty,
        unsafe, needs_context, then one per task and per domain.
    task_levels: float32 [tasks], the logit of how often a small model fails each task.
    mixing: float32 [3], weights of difficulty and of the expected task level in the score's
        logit, and its bias.
    """

    vectors: NDArray[np.int8]
    vector_scale: Floats
    counts: NDArray[np.int8]
    count_scale: Floats
    mean: Floats
    spread: Floats
    hidden: Floats
    hidden_bias: Floats
    heads: Floats
    heads_bias: Floats
    task_levels: Floats
    mixing: Floats


def inputs_of(weights: Weights, ids: ArrayLike, facts: Sequence[float]) -> Floats:
    """Return the standardized inputs of one turn, float32 [dim + kinds + facts]."""
    rows = np.asarray(ids, dtype=np.int64)
    pooled = weights.vectors[rows].astype(np.float32).mean(0) * weights.vector_scale
    counted = weights.counts[rows].astype(np.float32).sum(0) * weights.count_scale
    features = np.concatenate([pooled, np.log1p(counted), np.asarray(facts, np.float32)])
    standard = (features - weights.mean) / weights.spread
    return np.asarray(np.clip(standard, -FARTHEST, FARTHEST), dtype=np.float32)


def forward(weights: Weights, ids: ArrayLike, facts: Sequence[float]) -> Floats:
    """Return the output vector of one turn, float32 [N_OUTPUTS]; the graph computes the same."""
    inputs = inputs_of(weights, ids, facts)
    hidden = np.maximum(inputs @ weights.hidden + weights.hidden_bias, 0)
    logits = np.concatenate([inputs, hidden]) @ weights.heads + weights.heads_bias
    tasks = _softmax(logits[3 : 3 + len(TASKS)])
    domains = _softmax(logits[3 + len(TASKS) :])
    level = float(tasks @ weights.task_levels)
    scored = float(np.array([logits[0], level, 1]) @ weights.mixing)
    score, difficulty, unsafe, needs_context = _sigmoid(
        np.array([scored, logits[0], logits[1], logits[2]], np.float32)
    )
    uncertainty = 1 - abs(2 * score - 1)
    scalars = [score, difficulty, unsafe, needs_context, uncertainty]
    return np.concatenate([scalars, tasks, domains]).astype(np.float32)


def _sigmoid(values: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-values)), dtype=np.float32)


def _softmax(values: Floats) -> Floats:
    powers = np.exp(values - values.max())
    return np.asarray(powers / powers.sum(), dtype=np.float32)


def onnx_bytes(
    weights: Weights, *, version: str, vocabulary_size: int, about: Mapping[str, Any]
) -> bytes:
    """Return the graph as a serialized ONNX model that says its own version and labels.

    Inputs are `tokens` (int32 [n], n at least 1) and `facts` (float32 [FACTS]); the output is
    `outputs` (float32 [N_OUTPUTS]). Text reaches it as token ids only.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    names = [
        "vectors",
        "vector_scale",
        "counts",
        "count_scale",
        "mean",
        "hidden",
        "hidden_bias",
        "heads",
        "heads_bias",
        "task_levels",
    ]
    tensors = {name: getattr(weights, name) for name in names}
    tensors["precision"] = (1 / weights.spread).astype(np.float32)
    tensors["score_weights"] = weights.mixing[:, None].astype(np.float32)
    tensors |= {
        "one": np.ones(1, np.float32),
        "two": np.full(1, 2, np.float32),
        "nearest": np.array(-FARTHEST, np.float32),
        "farthest": np.array(FARTHEST, np.float32),
        "first_axis": np.zeros(1, np.int64),
        "logit_sizes": np.array([1, 2, len(TASKS), len(DOMAINS)], np.int64),
    }
    node = helper.make_node
    nodes = [
        node("Gather", ["vectors", "tokens"], ["rows8"]),
        node("Cast", ["rows8"], ["rows"], to=TensorProto.FLOAT),
        node("ReduceMean", ["rows"], ["pooled8"], axes=[0], keepdims=0),
        node("Mul", ["pooled8", "vector_scale"], ["pooled"]),
        node("Gather", ["counts", "tokens"], ["kinds8"]),
        node("Cast", ["kinds8"], ["kinds"], to=TensorProto.FLOAT),
        node("ReduceSum", ["kinds", "first_axis"], ["counted8"], keepdims=0),
        node("Mul", ["counted8", "count_scale"], ["counted"]),
        node("Add", ["counted", "one"], ["counted1"]),
        node("Log", ["counted1"], ["log_counts"]),
        node("Concat", ["pooled", "log_counts", "facts"], ["features"], axis=0),
        node("Sub", ["features", "mean"], ["centred"]),
        node("Mul", ["centred", "precision"], ["standard"]),
        node("Clip", ["standard", "nearest", "farthest"], ["inputs"]),
        node("MatMul", ["inputs", "hidden"], ["hidden0"]),
        node("Add", ["hidden0", "hidden_bias"], ["hidden1"]),
        node("Relu", ["hidden1"], ["hidden2"]),
        node("Concat", ["inputs", "hidden2"], ["seen"], axis=0),
        node("MatMul", ["seen", "heads"], ["logits0"]),
        node("Add", ["logits0", "heads_bias"], ["logits"]),
        node("Split", ["logits", "logit_sizes"], ["hard", "flags", "tasks", "domains"], axis=0),
        node("Softmax", ["tasks"], ["task_probabilities"], axis=0),
        node("Softmax", ["domains"], ["domain_probabilities"], axis=0),
        node("MatMul", ["task_probabilities", "task_levels"], ["level0"]),
        node("Unsqueeze", ["level0", "first_axis"], ["level"]),
        node("Concat", ["hard", "level", "one"], ["judged"], axis=0),
        node("MatMul", ["judged", "score_weights"], ["scored"]),
        node("Sigmoid", ["scored"], ["score"]),
        node("Sigmoid", ["hard"], ["difficulty"]),
        node("Sigmoid", ["flags"], ["flag_probabilities"]),
        node("Mul", ["score", "two"], ["doubled"]),
        node("Sub", ["doubled", "one"], ["margin"]),
        node("Abs", ["margin"], ["certainty"]),
        node("Sub", ["one", "certainty"], ["uncertainty"]),
        node(
            "Concat",
            [
                *("score", "difficulty", "flag_probabilities", "uncertainty"),
                *("task_probabilities", "domain_probabilities"),
            ],
            ["outputs"],
            axis=0,
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "turnwise_router",
        [
            helper.make_tensor_value_info("tokens", TensorProto.INT32, ["n"]),
            helper.make_tensor_value_info("facts", TensorProto.FLOAT, [len(FACTS)]),
        ],
        [helper.make_tensor_value_info("outputs", TensorProto.FLOAT, [N_OUTPUTS])],
        [numpy_helper.from_array(tensor, name) for name, tensor in tensors.items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
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
