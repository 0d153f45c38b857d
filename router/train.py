"""Fits the classifier on a data folder and writes the model folder: ONNX, words, figures.

Needs the `train` extra. The token table starts from a sentence encoder's vectors of single word
pieces and is tuned on all labels; the heads that ship are scikit-learn's. Seeded: the same folder
gives the same model.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Ridge

from memory.conversation import Message
from router.augment import augmented
from router.classifier import MODEL_FILE
from router.dataset import Example, by_source, read_examples, read_phrases
from router.features import FACTS, turn_text_of
from router.labels import DOMAINS, TASKS
from router.network import FARTHEST, Floats, Weights, onnx_bytes
from router.targets import OPEN_SOURCES, difficulties, levels, openness
from router.teacher import Teacher, load_teacher
from router.tokens import LEXICON_FILE, VOCABULARY_FILE, Vocabulary, read_lexicon, words_of
from router.tune import Targets, TuneConfig, Tuned, tuned

VERSION = "1.1"
DIM = 64
# No source gives more rows than this: intents of banking and of an assistant repeat themselves.
MOST_ROWS_OF_A_SOURCE = 5000
# Which sources give each part of difficulty, and how much it weighs in the sum. The weights were
# chosen with one family of sources left out at a time: what is learned of right and wrong in some
# sets did not rank the turns of others, while steps of solutions and stated levels did. Outcomes
# shape the token table, and calibrate the score.
PARTS: dict[str, tuple[frozenset[str] | None, float]] = {
    "outcomes": (None, 0.0),
    "steps": (frozenset({"gsm8k_train"}), 1.0),
    "contest": (frozenset({"agieval_math"}), 0.2),
    "school": (frozenset({"mmlu_subjects"}), 0.1),
    "open": (OPEN_SOURCES, 0.5),
}
# Classification heads see this many rows at most: more change nothing but the time.
MOST_ROWS_OF_A_HEAD = 12_000
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
        data_dir: the data folder; docs/routing.md says how it is built.
        out_dir: receives the ONNX file, the vocabulary and training.json; made when missing.
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
    vocabulary = Vocabulary(teacher.pieces, read_lexicon(lexicon))
    prepared = prepare(examples, vocabulary, seed=seed)
    trained = fit(prepared, teacher, seed=seed, progress=progress)
    progress("writing")
    out_dir.mkdir(parents=True, exist_ok=True)
    about = {**trained.about, "seed": seed}
    model = onnx_bytes(
        trained.weights, version=VERSION, vocabulary_size=len(vocabulary), about=about
    )
    (out_dir / MODEL_FILE).write_bytes(model)
    (out_dir / VOCABULARY_FILE).write_text("\n".join(trained.pieces) + "\n", "utf-8")
    (out_dir / "training.json").write_text(json.dumps(about, indent=1) + "\n", "utf-8")
    return about


@dataclass(frozen=True, slots=True)
class Prepared:
    """Examples as numbers; copies that ask the same in other words stand after the originals.

    parts: float32 [examples] by name, NaN where unknown; level: float32 [examples], likewise.
    """

    examples: list[Example]
    ids: list[NDArray[np.int32]]
    facts: Floats
    parts: dict[str, Floats]
    level: Floats

    def without(self, sources: Collection[str]) -> Prepared:
        """Return the examples of all other sources."""
        rows = [row for row, e in enumerate(self.examples) if e.source not in sources]
        return Prepared(
            [self.examples[row] for row in rows],
            [self.ids[row] for row in rows],
            self.facts[rows],
            {name: values[rows] for name, values in self.parts.items()},
            self.level[rows],
        )


def prepare(examples: Sequence[Example], vocabulary: Vocabulary, *, seed: int) -> Prepared:
    """Return examples, sampled and with copies, as the numbers that training needs."""
    draw = random.Random(seed)
    examples = _sampled(examples, draw)
    # Centred before copies are added, so that a copy has its original's target.
    parts, level = _parts(examples), levels(examples)
    copied = [row for row, example in enumerate(examples) if _deserves_copy(example, draw)]
    rows = [*range(len(examples)), *copied]
    copies = [replace(examples[r], text=augmented(examples[r].text, draw)) for r in copied]
    examples = [*examples, *copies]
    reads = [turn_text_of([Message("user", example.text)]) for example in examples]
    return Prepared(
        examples,
        [vocabulary.ids_of(words_of(read.current)) for read in reads],
        np.array([_placed(read.facts, draw) for read in reads], np.float32),
        {name: values[rows] for name, values in parts.items()},
        level[rows],
    )


def fit(
    prepared: Prepared,
    teacher: Teacher,
    *,
    seed: int,
    config: TuneConfig | None = None,
    progress: Progress = lambda step: None,
) -> Trained:
    """Return the model fitted on what was prepared, in the weights that the graph will hold."""
    examples = prepared.examples
    targets = Targets(
        np.stack(list(prepared.parts.values()), 1),
        [
            _classes(examples, "task", TASKS),
            _classes(examples, "domain", DOMAINS),
            *_flags(examples),
        ],
        [len(TASKS), len(DOMAINS), 2, 2],
        _source_weights(examples),
    )
    table = np.vstack([np.zeros((1, teacher.vectors.shape[1])), teacher.vectors])
    lower = tuned(
        table.astype(np.float32),
        prepared.ids,
        prepared.facts,
        targets,
        seed=seed,
        config=config,
        progress=progress,
    )
    progress("heads")
    weights = _with_heads(lower, prepared, targets.weight, seed)
    sources = {source: len(found) for source, found in by_source(examples).items()}
    return Trained(weights, teacher.pieces, {"rows_by_source": sources})


def _sampled(examples: Sequence[Example], draw: random.Random) -> list[Example]:
    kept = []
    for rows in by_source(list(examples)).values():
        chosen = rows.tolist()
        if len(chosen) > MOST_ROWS_OF_A_SOURCE:
            chosen = draw.sample(chosen, MOST_ROWS_OF_A_SOURCE)
        kept += sorted(chosen)
    return [examples[row] for row in kept]


def _parts(examples: Sequence[Example]) -> dict[str, Floats]:
    """Return the standardized parts of difficulty, NaN where a source does not speak of one."""
    values = difficulties(examples)
    parts = {}
    for name, (sources, _) in PARTS.items():
        belongs = [
            bool(example.scores) if sources is None else example.source in sources
            for example in examples
        ]
        stated = openness(examples) if name == "open" else values
        parts[name] = np.where(belongs, stated, np.nan).astype(np.float32)
    return parts


def _deserves_copy(example: Example, draw: random.Random) -> bool:
    is_judged = bool(example.scores) or np.isfinite(example.level)
    return draw.random() < (1.0 if is_judged else 0.3)


def _placed(facts: Sequence[float], draw: random.Random) -> tuple[float, ...]:
    """Return the facts of a turn as if it stood somewhere in a conversation.

    Where it stands is drawn, because no source tells: so nothing is learned from it.
    """
    placed = dict(zip(FACTS, facts, strict=True))
    if draw.random() < 0.6:
        placed["follows_answer"] = 1.0
        placed["answers_question"] = float(draw.random() < 0.3)
        placed["turn"] = float(np.log1p(draw.randint(2, 40)) / 3)
    return tuple(placed.values())


def _source_weights(examples: Sequence[Example]) -> Floats:
    """Return weights that keep a large source from drowning the others: 1 over root of its size."""
    weights = np.zeros(len(examples), np.float32)
    for rows in by_source(list(examples)).values():
        weights[rows] = 1 / np.sqrt(len(rows))
    return np.asarray(weights / weights.mean(), dtype=np.float32)


def _classes(examples: Sequence[Example], label: str, names: tuple[str, ...]) -> Any:
    values = (getattr(example, label) for example in examples)
    return np.array([-1 if value is None else names.index(value) for value in values])


def _flags(examples: Sequence[Example]) -> list[Any]:
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


def _with_heads(lower: Tuned, prepared: Prepared, weight: Floats, seed: int) -> Weights:
    """Return the whole model: tables in int8, and heads fitted on what those tables give."""
    examples, ids = prepared.examples, prepared.ids
    vectors, vector_scale = _quantized(lower.vectors)
    counts, count_scale = _quantized(lower.counts)
    pooled = np.array([vectors[rows].astype(np.float32).mean(0) for rows in ids]) * vector_scale
    counted = np.array([counts[rows].astype(np.float32).sum(0) for rows in ids]) * count_scale
    features = np.hstack([pooled, np.log1p(counted), prepared.facts])
    inputs = np.clip((features - lower.mean) / lower.spread, -FARTHEST, FARTHEST)
    hidden = np.maximum(inputs @ lower.hidden + lower.hidden_bias, 0)
    seen = np.hstack([inputs, hidden]).astype(np.float32)
    difficulty, difficulty_bias = _difficulty_head(seen, prepared.parts, weight)
    unsafe, needs_context = _flags(examples)
    heads = [
        (difficulty[:, None], np.array([difficulty_bias])),
        _logistic(seen, unsafe, 2, weight, seed),
        _logistic(seen, needs_context, 2, weight, seed),
        _logistic(seen, _classes(examples, "task", TASKS), len(TASKS), weight, seed),
        _logistic(seen, _classes(examples, "domain", DOMAINS), len(DOMAINS), weight, seed),
    ]
    weights = Weights(
        vectors=vectors,
        vector_scale=vector_scale,
        counts=counts,
        count_scale=count_scale,
        mean=lower.mean,
        spread=lower.spread,
        hidden=lower.hidden,
        hidden_bias=lower.hidden_bias,
        heads=np.hstack([columns for columns, _ in heads]).astype(np.float32),
        heads_bias=np.concatenate([bias for _, bias in heads]).astype(np.float32),
        task_levels=np.zeros(len(TASKS), np.float32),
        mixing=np.zeros(3, np.float32),
    )
    return _calibrated(weights, seen, examples, prepared.level, weight)


def _difficulty_head(seen: Floats, parts: dict[str, Floats], weight: Floats) -> tuple[Any, float]:
    """Return one linear head: the weighted sum of the parts' heads, each of deviation 1.

    The sum is taken over turns whose difficulty some source knows, so that no part outweighs
    the others by its scale.
    """
    judged = np.any([np.isfinite(values) for values in parts.values()], axis=0)
    total, bias = np.zeros(seen.shape[1]), 0.0
    for name, values in parts.items():
        known = np.isfinite(values)
        if not known.any():
            continue
        model = Ridge(alpha=200.0).fit(seen[known], values[known], weight[known])
        said = seen[judged] @ model.coef_
        share = PARTS[name][1] / said.std()
        total += share * model.coef_
        bias -= share * float(said.mean())
    spread = (seen[judged] @ total).std()
    return total / spread, bias / spread


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
    model = LogisticRegression(C=0.05, max_iter=100, random_state=seed)
    balance = len(labels[known]) / (n_classes * np.maximum(np.bincount(labels[known]), 1))
    model.fit(seen[known], labels[known], np.sqrt(balance[labels[known]]) * weight[known])
    if n_classes == 2:
        return model.coef_.T, model.intercept_
    columns, bias = np.zeros((seen.shape[1], n_classes)), np.full(n_classes, -20.0)
    columns[:, model.classes_], bias[model.classes_] = model.coef_.T, model.intercept_
    return columns, bias


def _calibrated(
    weights: Weights, seen: Floats, examples: Sequence[Example], level: Floats, weight: Floats
) -> Weights:
    """Return the weights with the score's mixing fitted to how often small models fail.

    A task's level is its mean over sources. Then one logistic regression on difficulty and
    expected level, where each turn counts as failed by its share. (A level for each domain was
    tried: it ranked unseen reading questions worse than chance.)
    """
    known = np.isfinite(level)
    tasks = _classes(examples, "task", TASKS)
    task_levels = np.zeros(len(TASKS), np.float32)
    for task in range(len(TASKS)):
        there = known & (tasks == task)
        mean = np.average(level[there], weights=weight[there]) if there.any() else 0.5
        task_levels[task] = np.log(mean / (1 - mean))
    logits = seen @ weights.heads + weights.heads_bias
    expected = _softmax(logits[:, 3 : 3 + len(TASKS)]) @ task_levels
    judged = np.stack([logits[:, 0], expected], 1)[known]
    failed = np.concatenate([np.ones(len(judged)), np.zeros(len(judged))])
    share = np.concatenate([level[known], 1 - level[known]]) * np.tile(weight[known], 2)
    model = LogisticRegression(C=1e3).fit(np.tile(judged, (2, 1)), failed, share)
    mixing = np.concatenate([model.coef_[0], model.intercept_]).astype(np.float32)
    return replace(weights, task_levels=task_levels, mixing=mixing)


def _softmax(logits: Any) -> Any:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)
