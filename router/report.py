"""Figures, table and picture of scored turns: the score beside its controls, with intervals.

Owns the controls: always small, always strong, random and shuffled decisions at the same cost, and
length alone. Pure but for the picture. Needs matplotlib for that one only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from router.curves import (
    N_RESAMPLES,
    Interval,
    Outcomes,
    apgr,
    quality_at,
    recovered,
    shuffled_quality,
)
from router.judged import FORMATS, LEAST_GAP, SCORES_FILE, Judged, JudgedSet, sets_of, write_judged
from router.network import Floats

MEAN = "mean of the sets"


@dataclass(frozen=True, slots=True)
class Row:
    """What one set, or the mean of several, says.

    APGR is the area under the performance gap recovered as the share of strong turns grows: 0.5 is
    chance. `gain` is its lead over length alone on the same resamples. `half` is the quality
    when the half with the higher scores is strong, `shuffled` the same number of strong turns dealt
    by chance; `random` is what a coin of the same cost gives on average.
    """

    turns: int
    random: float
    shuffled: Interval
    apgr: Interval
    length: Interval
    gain: Interval
    always_small: Interval
    always_strong: Interval
    half: Interval


_FIGURES = ("apgr", "length", "gain", "always_small", "always_strong", "half")


def rows_of(judged: Sequence[Judged], *, seed: int = 0) -> dict[str, Row]:
    """Return a row for each set, for each format and language with several, and for their mean."""
    sets = sets_of(judged)
    resampled = {each.name: _resampled(each, seed) for each in sets}
    rows = {each.name: _row(each, resampled[each.name], seed) for each in sets}
    drawn = {
        name: values
        for name, values in resampled.items()
        if rows[name].always_strong.value - rows[name].always_small.value >= LEAST_GAP
    }
    languages = {turn.source: turn.language for turn in judged}
    groups: dict[str, list[str]] = {
        name: [source for source in members if source in drawn] for name, members in FORMATS.items()
    }
    for language in sorted(set(languages.values())):
        groups[f"language {language}"] = [s for s in drawn if languages[s] == language]
    groups[MEAN] = list(drawn)
    means = {
        name: _mean([rows[s] for s in members], [drawn[s] for s in members])
        for name, members in groups.items()
        if len(members) > 1
    }
    return {**rows, **means}


def _resampled(each: JudgedSet, seed: int) -> Floats:
    """Return figures of resampled turns, float32 [resamples, 6], in the order of `_FIGURES`."""
    draw = np.random.default_rng(seed)
    values = []
    for _ in range(N_RESAMPLES):
        rows = draw.integers(0, len(each.scores), len(each.scores))
        sample = Outcomes(each.outcomes.weak[rows], each.outcomes.strong[rows])
        if (sample.strong - sample.weak).sum() > 0:
            values.append(_figures(each.scores[rows], each.lengths[rows], sample))
    return np.array(values, np.float32)


def _figures(scores: Floats, lengths: Floats, outcomes: Outcomes) -> list[float]:
    by_score, by_length = apgr(scores, outcomes), apgr(lengths, outcomes)
    return [
        by_score,
        by_length,
        by_score - by_length,
        float(outcomes.weak.mean()),
        float(outcomes.strong.mean()),
        quality_at(_upper_half(scores), outcomes),
    ]


def _upper_half(scores: Floats) -> Any:
    is_strong = np.zeros(len(scores), bool)
    is_strong[np.argsort(-scores, kind="stable")[: len(scores) // 2]] = True
    return is_strong


def _row(each: JudgedSet, drawn: Floats, seed: int) -> Row:
    figures = _figures(each.scores, each.lengths, each.outcomes)
    intervals = [_interval(value, drawn[:, column]) for column, value in enumerate(figures)]
    shuffled = shuffled_quality(_upper_half(each.scores), each.outcomes, seed=seed)
    random = (intervals[3].value + intervals[4].value) / 2
    return Row(len(each.scores), random, shuffled, *intervals)


def _mean(rows: Sequence[Row], drawn: Sequence[Floats]) -> Row:
    """Return the plain mean over sets, each resampled on its own."""
    n = min(len(values) for values in drawn)
    together = np.mean([values[:n] for values in drawn], axis=0)
    intervals = [
        _interval(float(np.mean([getattr(row, name).value for row in rows])), together[:, column])
        for column, name in enumerate(_FIGURES)
    ]
    ends = ([getattr(row.shuffled, end) for row in rows] for end in Interval.__slots__)
    shuffled = Interval(*(float(np.mean(values)) for values in ends))
    random = float(np.mean([row.random for row in rows]))
    return Row(sum(row.turns for row in rows), random, shuffled, *intervals)


def _interval(value: float, drawn: Floats) -> Interval:
    if not len(drawn):
        return Interval(value, float("nan"), float("nan"))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(value, float(low), float(high))


def markdown_of(rows: Mapping[str, Row]) -> str:
    """Return the table of an evaluation; the model that scored a set saw neither it nor its kin."""
    lines = [
        "| set | turns | APGR | length alone | lead over length | always small | half strong "
        "| random, same cost | shuffled | always strong |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        lines.append(
            f"| {name} | {row.turns:,} | {row.apgr} | {row.length} | {row.gain} "
            f"| {row.always_small.value:.3f} | {row.half} | {row.random:.3f} | {row.shuffled} "
            f"| {row.always_strong.value:.3f} |"
        )
    return "\n".join(lines) + "\n"


def draw_curves(judged: Sequence[Judged], path: Path, *, seed: int = 0) -> None:
    """Write a PNG, one panel a set: quality over the share of strong turns, by score and controls.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    sets = sets_of(judged)
    n_columns = min(4, len(sets))
    n_rows = -(-len(sets) // n_columns)
    figure, axes = plt.subplots(n_rows, n_columns, figsize=(12, 2.7 * n_rows), squeeze=False)
    for panel, each in zip(axes.flat, sets, strict=False):
        _draw_set(panel, each, seed)
    for panel in list(axes.flat)[len(sets) :]:
        panel.axis("off")
    axes[0][0].legend(fontsize=6, frameon=False)
    figure.supxlabel("share of turns sent to the strong model (cost)", fontsize=9)
    figure.supylabel("share answered well (quality)", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def _draw_set(panel: Any, each: JudgedSet, seed: int) -> None:
    grid = np.linspace(0, 1, 101)
    draw = np.random.default_rng(seed)
    small, strong = each.outcomes.weak.mean(), each.outcomes.strong.mean()

    def quality(scores: Floats, outcomes: Outcomes) -> Any:
        curve = recovered(scores, outcomes)
        low, high = outcomes.weak.mean(), outcomes.strong.mean()
        return low + np.interp(grid, np.linspace(0, 1, len(curve)), curve) * (high - low)

    resampled, shuffled = [], []
    for _ in range(200):
        rows = draw.integers(0, len(each.scores), len(each.scores))
        sample = Outcomes(each.outcomes.weak[rows], each.outcomes.strong[rows])
        resampled.append(quality(each.scores[rows], sample))
        shuffled.append(quality(draw.permutation(each.scores), each.outcomes))
    panel.fill_between(grid, *np.percentile(shuffled, [2.5, 97.5], 0), color="0.85", lw=0)
    panel.fill_between(grid, *np.percentile(resampled, [2.5, 97.5], 0), alpha=0.2, lw=0)
    panel.plot(grid, quality(each.scores, each.outcomes), label="score", lw=1.4)
    panel.plot(grid, quality(each.lengths, each.outcomes), label="length alone", lw=0.9)
    panel.plot([0, 1], [small, strong], "--", color="0.4", lw=0.8, label="random, shuffled")
    panel.plot([0], [small], "v", color="0.2", ms=4, label="always small")
    panel.plot([1], [strong], "^", color="0.2", ms=4, label="always strong")
    panel.set_title(f"{each.name} ({len(each.scores):,})", fontsize=8)
    panel.tick_params(labelsize=6)


def write_report(judged: Sequence[Judged], out_dir: Path, *, seed: int = 0) -> dict[str, Row]:
    """Write the scored turns, evaluation.json, .md and .png into a folder; return the rows.

    Raises:
        ImportError: matplotlib is not installed; the other files are written by then.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    write_judged(judged, out_dir / SCORES_FILE)
    rows = rows_of(judged, seed=seed)
    figures = {name: asdict(row) for name, row in rows.items()}
    (out_dir / "evaluation.json").write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    (out_dir / "evaluation.md").write_text(markdown_of(rows), "utf-8")
    draw_curves(judged, out_dir / "evaluation.png", seed=seed)
    return rows
