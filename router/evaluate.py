"""What the classifier is worth on sources it has not seen, beside controls, with intervals."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from memory.conversation import Message
from router.curves import (
    Outcomes,
    apgr_interval,
    draw_curves,
    quality_at,
    recovered,
    shuffled_quality,
)
from router.dataset import Example, read_examples, read_phrases
from router.features import turn_text_of
from router.network import Floats, Weights, forward
from router.targets import failures
from router.teacher import load_teacher
from router.tokens import LEXICON_FILE, Vocabulary, read_lexicon, words_of
from router.train import DIM, fit, prepare

# Sets that are close kin leave together, so that none is known through its sibling.
FOLDS: Mapping[str, tuple[str, ...]] = {
    "college problems": ("mmlu_pro", "gpqa"),
    "school questions": ("openbook_qa", "commonsense_qa", "arc_challenge", "mmlu"),
    "grade-school maths": ("gsm8k",),
    "contest maths": ("math", "zeroeval_math-l5", "agieval_math"),
    "code": ("mbpp", "human_eval", "zeroeval_crux"),
    "logic grids": ("agentverse-logicgrid",),
}
Progress = Callable[[str], None]


def evaluate(
    data_dir: Path,
    out_dir: Path,
    *,
    model_dir: Path,
    seed: int = 0,
    folds: Mapping[str, tuple[str, ...]] = FOLDS,
    progress: Progress = lambda step: None,
) -> dict[str, Any]:
    """Fit once without each fold, score the fold, and write evaluation.json, .md and .png.

    The weak model of a set is the mean of its middling models, the strong one the best. Takes as
    long as `train` for each fold.

    Raises:
        FileNotFoundError: if a data file or the lexicon is missing.
    """
    examples = [*read_examples(data_dir), *read_phrases()]
    teacher = load_teacher(DIM)
    vocabulary = Vocabulary(teacher.pieces, read_lexicon(model_dir / LEXICON_FILE))
    shaping = [example for example in examples if example.may_shape_weights]
    prepared = prepare(shaping, vocabulary, seed=seed)
    rows: dict[str, Any] = {}
    curves: dict[str, tuple[Floats, Floats]] = {}
    for fold, held_out in folds.items():
        progress(f"without {fold}")
        weights = fit(prepared.without(held_out), teacher, seed=seed, progress=progress).weights
        for source in held_out:
            members = [e for e in examples if e.source == source and e.scores]
            if members:
                rows[source], curves[source] = _judged(weights, vocabulary, members, seed)
                rows[source]["fold"] = fold
    out_dir.mkdir(parents=True, exist_ok=True)
    (out_dir / "evaluation.json").write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
    (out_dir / "evaluation.md").write_text(markdown_of(rows), "utf-8")
    draw_curves(curves, out_dir / "evaluation.png")
    return rows


def outcomes_of(members: list[Example]) -> Outcomes:
    """Return what the middling models and the best model made of the turns of one set."""
    by_model: dict[str, list[float]] = {}
    for member in members:
        for model, score in member.scores.items():
            by_model.setdefault(model, []).append(score)
    complete = {m: np.mean(s) for m, s in by_model.items() if len(s) >= 0.95 * len(members)}
    best = max(complete, key=lambda model: complete[model])
    weak = 1 - failures(members)
    strong = np.array([member.scores.get(best, np.nan) for member in members], np.float32)
    return Outcomes(np.asarray(weak, np.float32), np.where(np.isfinite(strong), strong, weak))


def _judged(
    weights: Weights, vocabulary: Vocabulary, members: list[Example], seed: int
) -> tuple[dict[str, Any], tuple[Floats, Floats]]:
    outcomes = outcomes_of(members)
    scores = np.array([score_of(weights, vocabulary, member.text) for member in members])
    lengths = np.array([len(member.text) for member in members], np.float32)
    router = apgr_interval(scores, outcomes, seed=seed)
    length = apgr_interval(lengths, outcomes, seed=seed)
    is_strong = scores >= np.median(scores)
    shuffled = shuffled_quality(is_strong, outcomes, seed=seed)
    row = {
        "turns": len(members),
        "apgr": [router.value, router.low, router.high],
        "apgr_length": [length.value, length.low, length.high],
        "always_small": float(outcomes.weak.mean()),
        "always_strong": float(outcomes.strong.mean()),
        "half_strong": quality_at(is_strong, outcomes),
        "half_strong_shuffled": [shuffled.value, shuffled.low, shuffled.high],
    }
    return row, (recovered(scores, outcomes), recovered(lengths, outcomes))


def score_of(weights: Weights, vocabulary: Vocabulary, text: str) -> float:
    """Return the score of a lone turn by the reference network."""
    read = turn_text_of([Message("user", text)])
    return float(forward(weights, vocabulary.ids_of(words_of(read.current)), read.facts)[0])


def markdown_of(rows: Mapping[str, Any]) -> str:
    """Return the table of an evaluation; the model that scored a set saw neither it nor its kin."""
    lines = [
        "| set | turns | APGR | length alone | always small | half strong | shuffled "
        "| always strong |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        value, low, high = row["apgr"]
        base, base_low, base_high = row["apgr_length"]
        chance, chance_low, chance_high = row["half_strong_shuffled"]
        lines.append(
            f"| {name} | {row['turns']} | {value:.3f} [{low:.3f}, {high:.3f}] "
            f"| {base:.3f} [{base_low:.3f}, {base_high:.3f}] | {row['always_small']:.3f} "
            f"| {row['half_strong']:.3f} | {chance:.3f} [{chance_low:.3f}, {chance_high:.3f}] "
            f"| {row['always_strong']:.3f} |"
        )
    return "\n".join(lines) + "\n"
