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
from router.dataset import Example, by_source, read_examples
from router.features import FACTS, turn_text_of
from router.labels import DOMAINS, TASKS
from router.network import FORMATS, N_KINDS, Floats, Weights, inputs_of, onnx_bytes
from router.steps import steps_of_tokens
from router.targets import levels, standardized_by_format
from router.teacher import Teacher, load_teacher
from router.tokens import LEXICON_FILE, UNKNOWN, VOCABULARY_FILE, Vocabulary, read_lexicon, words_of
from router.tune import Targets, TuneConfig, Tuned, tuned
from router.written import read_written

VERSION = "3.0"
SHIPPED_LEXICON = Path(__file__).parent / "model" / LEXICON_FILE
DIM = 64
# No source gives more rows than this: intents of banking and of an assistant repeat themselves.
MOST_ROWS_OF_A_SOURCE = 5000
# What cannot be read is no harder for that: some copies of everyday and open turns lose most words.
UNREAD_FORMATS = ("everyday", "open")
UNREAD_SHARE = 0.3
# Few, and written to teach what no source does.
COPIES_OF_PHRASES = 3
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
        lexicon: glosses of other languages; None takes the shipped ones. Kept beside the model.
        progress: called with the name of each step as it begins.

    Raises:
        FileNotFoundError: if a data file is missing.
    """
    lexicon = lexicon or SHIPPED_LEXICON
    progress("reading")
    examples = [*read_examples(data_dir), *read_written(seed)]
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
    (out_dir / LEXICON_FILE).write_bytes(lexicon.read_bytes())
    (out_dir / VOCABULARY_FILE).write_text("\n".join(trained.pieces) + "\n", "utf-8")
    (out_dir / "training.json").write_text(json.dumps(about, indent=1) + "\n", "utf-8")
    return about


@dataclass(frozen=True, slots=True)
class Prepared:
    """Examples as numbers; copies that ask the same in other words stand after the originals.

    level: float32 [examples], the chance that a small model fails, NaN where unknown.
    """

    examples: list[Example]
    ids: list[NDArray[np.int32]]
    facts: Floats
    level: Floats

    def without(self, sources: Collection[str]) -> Prepared:
        """Return the examples of all other sources."""
        rows = [row for row, e in enumerate(self.examples) if e.source not in sources]
        return Prepared(
            [self.examples[row] for row in rows],
            [self.ids[row] for row in rows],
            self.facts[rows],
            self.level[rows],
        )


def prepare(examples: Sequence[Example], vocabulary: Vocabulary, *, seed: int) -> Prepared:
    """Return examples, sampled and with copies, as the numbers that training needs."""
    draw = random.Random(seed)
    examples = _sampled(examples, draw)
    level = levels(examples)
    copied = [row for row, example in enumerate(examples) if _deserves_copy(example, draw)]
    copied += COPIES_OF_PHRASES * [r for r, e in enumerate(examples) if e.source == "phrases"]
    rows = [*range(len(examples)), *copied]
    copies = [replace(examples[r], text=augmented(examples[r].text, draw)) for r in copied]
    examples = [*examples, *copies]
    reads = [turn_text_of([Message("user", example.text)]) for example in examples]
    ids = [vocabulary.ids_of(words_of(read.current)) for read in reads]
    for row in range(len(level), len(ids)):
        if (
            examples[row].source != "phrases"
            and examples[row].format in UNREAD_FORMATS
            and draw.random() < UNREAD_SHARE
        ):
            ids[row] = _unread(ids[row], draw)
    return Prepared(
        examples,
        ids,
        np.array([_placed(read.facts, draw) for read in reads], np.float32),
        level[rows],
    )


def _unread(ids: NDArray[np.int32], draw: random.Random) -> NDArray[np.int32]:
    """Return tokens of which most are unknown, as those of a language without a lexicon."""
    share = draw.uniform(0.5, 1.0)
    return np.array([UNKNOWN if draw.random() < share else token for token in ids], np.int32)


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
    numbers, _ = standardized_by_format(examples, prepared.level)
    targets = Targets(
        numbers,
        [
            _classes(examples, "format", FORMATS),
            _classes(examples, "task", TASKS),
            _classes(examples, "domain", DOMAINS),
            *_flags(examples),
        ],
        [len(FORMATS), len(TASKS), len(DOMAINS), 2, 2],
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
        # Steps of solutions differ from row to row, intents do not.
        if len(chosen) > MOST_ROWS_OF_A_SOURCE and examples[chosen[0]].source != "gsm8k_train":
            chosen = draw.sample(chosen, MOST_ROWS_OF_A_SOURCE)
        kept += sorted(chosen)
    return [examples[row] for row in kept]


def _deserves_copy(example: Example, draw: random.Random) -> bool:
    is_judged = bool(example.scores) or np.isfinite(example.level)
    return draw.random() < (0.6 if is_judged else 0.5)


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
        *(_logistic(seen, flags, 2, weight, seed) for flags in _flags(examples)),
        _logistic(seen, _classes(examples, "format", FORMATS), len(FORMATS), weight, seed),
        _logistic(seen, _classes(examples, "task", TASKS), len(TASKS), weight, seed),
        _logistic(seen, _classes(examples, "domain", DOMAINS), len(DOMAINS), weight, seed),
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
