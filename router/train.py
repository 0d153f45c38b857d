"""Fits the classifier on a data folder and writes the model folder: ONNX, words, figures.

Needs the `train` extra. The token table starts from a sentence encoder's vectors of single word
pieces; the heads are scikit-learn's. Seeded: the same folder gives the same model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression, Ridge

from memory.conversation import Message
from router.classifier import MODEL_FILE
from router.dataset import Example, by_source, read_examples, read_phrases
from router.features import turn_text_of
from router.labels import DOMAINS, TASKS
from router.network import Floats, Weights, onnx_bytes
from router.targets import difficulties, levels
from router.teacher import Teacher, load_teacher
from router.tokens import LEXICON_FILE, VOCABULARY_FILE, Vocabulary, read_lexicon, words_of

DIM = 64
WIDTH = 8
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Trained:
    """A fitted model: its weights, its words, and what it says of itself."""

    weights: Weights
    pieces: list[str]
    about: dict[str, Any]


def train(
    data_dir: Path,
    out_dir: Path,
    *,
    seed: int = 0,
    lexicon: Path | None = None,
    progress: Progress = lambda step: None,
) -> dict[str, Any]:
    """Fit on every source whose licence allows it, write the model folder, and return figures.

    Args:
        data_dir: the data folder; see docs/routing.md for how it is built.
        out_dir: receives the ONNX file and the vocabulary; made when missing.
        seed: of everything random.
        lexicon: glosses of other languages; None takes those of `out_dir`.
        progress: called with the name of each step as it begins.

    Raises:
        FileNotFoundError: if a data file is missing.
    """
    lexicon = lexicon or out_dir / LEXICON_FILE
    progress("reading")
    examples = [*read_examples(data_dir), *read_phrases()]
    examples = [example for example in examples if example.may_shape_weights]
    progress("token vectors")
    teacher = load_teacher(DIM)
    progress("fitting")
    trained = fit(examples, teacher, Vocabulary(teacher.pieces, read_lexicon(lexicon)), seed=seed)
    progress("writing")
    out_dir.mkdir(parents=True, exist_ok=True)
    version = f"r{seed}"
    about = {**trained.about, "seed": seed}
    (out_dir / MODEL_FILE).write_bytes(
        onnx_bytes(
            trained.weights,
            version=version,
            vocabulary_size=len(trained.pieces) + 1,
            about=about,
        )
    )
    (out_dir / VOCABULARY_FILE).write_text("\n".join(trained.pieces) + "\n", "utf-8")
    (out_dir / "training.json").write_text(json.dumps(about, indent=1) + "\n", "utf-8")
    return about


def fit(
    examples: Sequence[Example], teacher: Teacher, vocabulary: Vocabulary, *, seed: int
) -> Trained:
    """Return the model fitted on examples, in the weights that the graph will hold."""
    ids = [vocabulary.ids_of(words_of(_read(example).current)) or [0] for example in examples]
    facts = np.array([_read(example).facts for example in examples], np.float32)
    vectors, vector_scale = _quantized(np.vstack([np.zeros((1, DIM)), teacher.vectors]))
    counts = _count_kinds(teacher.pieces)
    features = _features(ids, facts, vectors, vector_scale, counts)
    mean, spread = features.mean(0), features.std(0) + 1e-3
    inputs = (features - mean) / spread
    heads, bias, mixing = _heads(inputs, examples, seed)
    n_inputs = inputs.shape[1]
    weights = Weights(
        vectors=vectors,
        vector_scale=vector_scale,
        counts=counts,
        count_scale=np.ones(counts.shape[1], np.float32),
        mean=mean.astype(np.float32),
        spread=spread.astype(np.float32),
        hidden=np.zeros((n_inputs, WIDTH), np.float32),
        hidden_bias=np.zeros(WIDTH, np.float32),
        heads=np.vstack([heads, np.zeros((WIDTH, heads.shape[1]))]).astype(np.float32),
        heads_bias=bias.astype(np.float32),
        mixing=mixing.astype(np.float32),
    )
    sources = {source: len(rows) for source, rows in by_source(list(examples)).items()}
    return Trained(weights, teacher.pieces, {"sources": sources})


def _read(example: Example) -> Any:
    return turn_text_of([Message("user", example.text)])


def _quantized(table: Any) -> tuple[Any, Floats]:
    scale = np.abs(table).max(0) / 127
    return np.round(table / scale).astype(np.int8), scale.astype(np.float32)


# Kinds of tokens that are counted; a token may be of several kinds, or of none but the first.
_KINDS = {
    "operator": "= + * / ^ < > \\ _ { } | $ ~",
    "stop": ". ? ! ;",
    "comma": ",",
    "bracket": "( ) [ ] :",
    "quantity": "half twice double triple third quarter each every per percent total remaining "
    "left more less fewer times than if then average ratio rate",
    "restriction": "not except least most always never only unless no none",
    "reasoning": "why how explain prove derive compare analyze evaluate",
    "lookup": "what who when where which name",
}


def _count_kinds(pieces: list[str]) -> Any:
    kinds = [frozenset(words.split()) for words in _KINDS.values()]
    rows = [[True, False, False, False, *(False for _ in kinds)]]
    rows += [
        [
            True,
            piece.removeprefix("##").isdigit(),
            piece.startswith("##"),
            len(piece) == 1 and not piece.isascii(),
            *(piece in kind for kind in kinds),
        ]
        for piece in pieces
    ]
    return np.array(rows, np.int8)


def _features(
    ids: list[list[int]], facts: Floats, vectors: Any, scale: Floats, counts: Any
) -> Floats:
    pooled = np.array([vectors[rows].astype(np.float32).mean(0) for rows in ids]) * scale
    counted = np.array([counts[rows].astype(np.float32).sum(0) for rows in ids])
    return np.hstack([pooled, np.log1p(counted), facts]).astype(np.float32)


def _heads(inputs: Floats, examples: Sequence[Example], seed: int) -> tuple[Any, Any, Any]:
    """Return weights [inputs, logits] and biases [logits] of all heads, and the score's mixing."""
    columns = [
        _regression(inputs, difficulties(examples), examples),
        _regression(inputs, _logit(levels(examples)), examples),
        _binary(inputs, [example.is_unsafe for example in examples], seed),
        _binary(inputs, [example.needs_context for example in examples], seed),
    ]
    heads = [weights[:, None] for weights, _ in columns]
    biases = [np.array([bias]) for _, bias in columns]
    for labels, names in (
        ([example.task for example in examples], TASKS),
        ([example.domain for example in examples], DOMAINS),
    ):
        weights, bias = _classes(inputs, labels, names, seed)
        heads.append(weights)
        biases.append(bias)
    return np.hstack(heads), np.concatenate(biases), np.array([0.5, 1.0, 0.0])


def _logit(probability: Floats) -> Floats:
    clipped = np.clip(probability, 0.02, 0.98)
    return np.asarray(np.log(clipped / (1 - clipped)), dtype=np.float32)


def _source_weights(examples: Sequence[Example], known: Any) -> Any:
    """Return weights that keep a large source from drowning the others: 1 over root of its size."""
    weights = np.zeros(len(examples))
    for rows in by_source(list(examples)).values():
        there = rows[known[rows]]
        weights[there] = 1 / np.sqrt(max(len(there), 1))
    return weights[known] / weights[known].mean()


def _regression(inputs: Floats, target: Floats, examples: Sequence[Example]) -> tuple[Any, float]:
    known = np.isfinite(target)
    model = Ridge(alpha=300.0)
    model.fit(inputs[known], target[known], _source_weights(examples, known))
    return model.coef_, float(model.intercept_)


def _binary(inputs: Floats, labels: list[bool | None], seed: int) -> tuple[Any, float]:
    known = np.array([label is not None for label in labels])
    model = LogisticRegression(C=0.05, max_iter=400, class_weight="balanced", random_state=seed)
    model.fit(inputs[known], [bool(label) for label in labels if label is not None])
    return model.coef_[0], float(model.intercept_[0])


def _classes(
    inputs: Floats, labels: list[str | None], names: tuple[str, ...], seed: int
) -> tuple[Any, Any]:
    known = np.array([label is not None for label in labels])
    model = LogisticRegression(C=0.05, max_iter=400, class_weight="balanced", random_state=seed)
    model.fit(inputs[known], [label for label in labels if label is not None])
    weights = np.zeros((inputs.shape[1], len(names)))
    bias = np.full(len(names), -20.0)
    for row, name in enumerate(model.classes_):
        weights[:, names.index(name)] = model.coef_[row]
        bias[names.index(name)] = model.intercept_[row]
    return weights, bias
