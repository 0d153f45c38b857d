"""What the heads learn of difficulty: outcomes of many models, and stated levels, as one number.

The number is the chance that a small model fails. Sources differ in base rate, so a head that
ranks turns of one format learns from that format's sources alone; only what tells the formats
apart compares them all.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory.conversation import Message
from router.dataset import Example, by_source
from router.features import turn_text_of
from router.network import FORMATS, Floats
from router.tokens import words_of

# The share of turns that a small model gets wrong, where no outcomes are known: set by hand.
_ASSUMED_LEVEL = {"chat": 0.03, "command": 0.06, "support": 0.10}
_ASSUMED_LEVEL_OF_SOURCE = {
    "trec_cast": 0.25,
    "clinc_oos": 0.2,
    "arena_hard_v0.1": 0.7,
    "agieval_aqua-rat": 0.65,
    "bbh": 0.6,
}
_ASSUMED_LEVEL_OF_VICUNA = {"code": 0.65, "math": 0.7, "reasoning": 0.6, "question": 0.22}
# Where each turn states the chance itself.
_LEVEL_BY_HAND = frozenset({"phrases", "asks", "self_instruct_seed", "self_instruct_user"})
# Two sets are scored by exact wording: what fails there is the form of an answer, not the answer.
# Word problems learn from the steps of their solutions alone, so that outcomes stay to check with.
_NOT_LEARNED_FROM = frozenset({"trivia_qa", "natural_qa", "gsm8k"})
# What one deviation in the steps of a solution, and one class of a contest, add to failure.
_PER_STEPS, _STEPS_LEVEL = 0.12, 0.55
# A long story is harder to follow at the same number of steps: its length counts by this much.
_SHARE_OF_LENGTH = 0.5
_PER_CONTEST_LEVEL, _CONTEST_LEVEL = 0.08, 0.42
# What a school level adds to a question of knowledge beyond what its words say.
_PER_SCHOOL_LEVEL = 0.03
_NUMBER = re.compile(r"\d+")


def levels(examples: Sequence[Example]) -> Floats:
    """Return the probability that a small model fails each example, NaN where nobody can say."""
    values = np.full(len(examples), np.nan)
    for source, rows in by_source(list(examples)).items():
        part = [examples[row] for row in rows]
        stated = np.array([example.level for example in part], float)
        if source in _NOT_LEARNED_FROM:
            continue
        if part[0].scores:
            values[rows] = failures(part)
        elif source in _LEVEL_BY_HAND:
            values[rows] = stated
        elif source == "gsm8k_train":
            stated[_also_with_outcomes(part, examples)] = np.nan
            lengths = np.log([len(example.text) for example in part])
            demand = _standard(_standard(stated) + _SHARE_OF_LENGTH * _standard(lengths))
            values[rows] = np.clip(_STEPS_LEVEL + _PER_STEPS * demand, 0.05, 0.95)
        elif source == "agieval_math":
            values[rows] = _CONTEST_LEVEL + _PER_CONTEST_LEVEL * (stated - 1)
        elif source != "mmlu_subjects":
            values[rows] = [_assumed(example) for example in part]
    values[rows_of_subjects(examples)] = _levels_of_subjects(examples, values)
    return values.astype(np.float32)


def _also_with_outcomes(part: Sequence[Example], examples: Sequence[Example]) -> NDArray[Any]:
    """Return which word problems stand in the data a second time, with outcomes: bool [part].

    Those are what the ranking of word problems is checked with, so their steps teach nothing.
    """
    known = {tuple(words_of(each.text)) for each in examples if each.source == "gsm8k"}
    return np.array([tuple(words_of(each.text)) in known for each in part], bool)


def _standard(values: NDArray[Any]) -> NDArray[Any]:
    return np.asarray((values - np.nanmean(values)) / max(float(np.nanstd(values)), 1e-6))


def _assumed(example: Example) -> float:
    if example.task in _ASSUMED_LEVEL:
        return _ASSUMED_LEVEL[example.task]
    if example.source == "vicuna_bench":
        return _ASSUMED_LEVEL_OF_VICUNA.get(example.task or "", 0.15)
    return _ASSUMED_LEVEL_OF_SOURCE.get(example.source, np.nan)


def rows_of_subjects(examples: Sequence[Example]) -> list[int]:
    """Return the rows of questions whose subject is known and whose outcomes are not."""
    return [row for row, example in enumerate(examples) if example.source == "mmlu_subjects"]


def _levels_of_subjects(examples: Sequence[Example], values: Floats) -> Floats:
    """Return what outcomes of other knowledge questions say of these, evened out by subject.

    A linear model of words learns from questions with outcomes; its mean over a subject is that
    subject's level, so that the network learns topics where no outcomes exist. Three quarters of
    what it says of a single question remain.
    """
    from scipy.sparse import hstack  # type: ignore[import-untyped]  # it ships no types
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import Ridge

    rows = rows_of_subjects(examples)
    known = [
        row
        for row, example in enumerate(examples)
        if example.format == "knowledge" and example.scores and np.isfinite(values[row])
    ]
    if not rows or not known:
        return np.full(len(rows), np.nan, np.float32)
    words = TfidfVectorizer(min_df=4, sublinear_tf=True, token_pattern=r"[a-zA-Z]+|\d|[^\w\s]")
    sizes = {
        source: len(found) for source, found in by_source([examples[r] for r in known]).items()
    }
    weight = np.array([1 / np.sqrt(sizes[examples[row].source]) for row in known])
    reads = {row: turn_text_of([Message("user", examples[row].text)]) for row in [*known, *rows]}
    words.fit([reads[row].current for row in known])

    def seen(chosen: list[int]) -> Any:
        # A longer question with more numbers is harder in every subject, known or not.
        shape = [
            [reads[r].facts[0], len(_NUMBER.findall(reads[r].current)) ** 0.5 / 10] for r in chosen
        ]
        return hstack([words.transform([reads[row].current for row in chosen]), np.array(shape)])

    model = Ridge(alpha=3.0).fit(seen(known), values[known], weight / weight.mean())
    said = model.predict(seen(rows))
    by_subject: dict[str | None, list[float]] = defaultdict(list)
    for row, value in zip(rows, said, strict=True):
        by_subject[examples[row].subject].append(float(value))
    middle = float(said.mean())
    even = np.array(
        # Four questions' worth of the whole mean steadies subjects with few questions.
        [
            (sum(v) + 4 * middle) / (len(v) + 4)
            for v in (by_subject[examples[r].subject] for r in rows)
        ]
    )
    school = np.array([examples[row].level - 1.5 for row in rows])
    return np.asarray(even + 0.75 * (said - even) + _PER_SCHOOL_LEVEL * school, dtype=np.float32)


def standardized_by_format(examples: Sequence[Example], level: Floats) -> tuple[Floats, Floats]:
    """Return levels in one column for each format, mean 0 and deviation 1, NaN elsewhere.

    Returns:
        float32 [examples, formats], and mean and deviation of each format, float32 [2, formats].
    """
    of = np.array([FORMATS.index(e.format) if e.format else -1 for e in examples])
    columns = np.full((len(examples), len(FORMATS)), np.nan, np.float32)
    shape = np.tile(np.array([[0.5], [1.0]], np.float32), (1, len(FORMATS)))
    for column in range(len(FORMATS)):
        rows = np.flatnonzero((of == column) & np.isfinite(level))
        if len(rows):
            shape[:, column] = level[rows].mean(), max(float(level[rows].std()), 1e-3)
            columns[rows, column] = (level[rows] - shape[0, column]) / shape[1, column]
    return columns, shape


def failures(examples: Sequence[Example]) -> Floats:
    """Return the share of the middling models that fail each example of one source, 0 to 1.

    Models that pass nearly always or never say nothing of an example, and models that fail for
    their format's sake (below one in five) blur it.
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
    shares = np.full(len(examples), np.nan, np.float32)
    for row, example in enumerate(examples):
        known = [example.scores[model] for model in middling if model in example.scores]
        if known:
            shares[row] = 1 - np.mean(known)
    return shares
