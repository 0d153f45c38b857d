"""Fits the classifier on a data folder and writes the model folder: ONNX, words, figures.

Needs the `train` extra. The token table starts from a sentence encoder's vectors of single word
pieces and is tuned on all labels; the heads that ship are scikit-learn's. Seeded: the same folder
gives the same model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from router.classifier import MODEL_FILE
from router.dataset import Example, by_source, read_examples
from router.heads import classes_of, flags_of, with_heads
from router.labels import DOMAINS, TASKS
from router.network import FORMATS, Floats, Weights, onnx_bytes
from router.prepared import Prepared, prepare
from router.targets import standardized_by_format
from router.teacher import Teacher, load_teacher
from router.tokens import LEXICON_FILE, VOCABULARY_FILE, Vocabulary, read_lexicon
from router.tune import Targets, TuneConfig, tuned
from router.written import read_written

VERSION = "3.0"
SHIPPED_LEXICON = Path(__file__).parent / "model" / LEXICON_FILE
DIM = 64
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
            classes_of(examples, "format", FORMATS),
            classes_of(examples, "task", TASKS),
            classes_of(examples, "domain", DOMAINS),
            *flags_of(examples),
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
    weights = with_heads(lower, prepared, targets.weight, seed)
    sources = {source: len(found) for source, found in by_source(examples).items()}
    return Trained(weights, teacher.pieces, {"rows_by_source": sources})


def _source_weights(examples: Sequence[Example]) -> Floats:
    """Return weights that keep a large source from drowning the others: 1 over root of its size."""
    weights = np.zeros(len(examples), np.float32)
    for rows in by_source(list(examples)).values():
        weights[rows] = 1 / np.sqrt(len(rows))
    return np.asarray(weights / weights.mean(), dtype=np.float32)
