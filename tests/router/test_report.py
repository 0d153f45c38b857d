"""The report's rows, controls and files, on turns whose right answer is plain."""

from __future__ import annotations

import pytest

from router.judged import Judged, read_judged, sets_of, write_judged
from router.report import MEAN, markdown_of, rows_of, write_report


def turns(source: str, *, is_right: bool, n: int = 40) -> list[Judged]:
    """Half easy for both models, half only for the strong one; scored well or upside down."""
    made = []
    for row in range(n):
        is_hard = row % 2 == 1
        score = 0.9 if is_hard == is_right else 0.1
        made.append(Judged(source, row, "en", 50, score, 0.0 if is_hard else 1.0, 1.0))
    return made


def test_a_score_that_knows_beats_chance_and_length_and_one_upside_down_loses():
    rows = rows_of([*turns("gsm8k", is_right=True), *turns("math", is_right=False)])
    assert rows["gsm8k"].apgr.low > 0.5 > rows["math"].apgr.high
    assert rows["gsm8k"].gain.low > 0
    assert rows["gsm8k"].half.value == 1.0
    assert rows["math"].half.value == 0.5
    assert rows["gsm8k"].random == pytest.approx(0.75)
    assert rows["gsm8k"].shuffled.value == pytest.approx(0.75, abs=0.05)


def test_formats_languages_and_the_mean_are_plain_means_over_sets():
    rows = rows_of([*turns("gsm8k", is_right=True), *turns("math", is_right=False)])
    for name in ("worked maths", "language en", MEAN):
        assert rows[name].apgr.value == pytest.approx(
            (rows["gsm8k"].apgr.value + rows["math"].apgr.value) / 2
        )
        assert rows[name].turns == 80


def test_a_set_without_a_gap_is_left_out():
    flat = [Judged("flat", row, "en", 9, 0.5, 1.0, 1.0) for row in range(10)]
    assert [each.name for each in sets_of([*flat, *turns("gsm8k", is_right=True)])] == ["gsm8k"]


def test_a_report_is_made_again_from_its_own_scores(tmp_path):
    pytest.importorskip("matplotlib")
    judged = turns("gsm8k", is_right=True)
    rows = write_report(judged, tmp_path)
    again = read_judged(tmp_path / "scores.jsonl")
    assert again == judged
    assert markdown_of(rows_of(again)) == (tmp_path / "evaluation.md").read_text()
    assert markdown_of(rows) == (tmp_path / "evaluation.md").read_text()
    assert (tmp_path / "evaluation.png").read_bytes().startswith(b"\x89PNG")


def test_a_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "scores.jsonl"
    path.write_text('{"a": 1}\n')
    with pytest.raises(ValueError, match="no scored turns"):
        read_judged(path)
    write_judged([], path)
    assert read_judged(path) == []


def test_a_set_with_next_to_no_gap_has_a_row_but_no_part_in_a_mean():
    tiny = [Judged("trivia_qa", row, "en", 9, row / 100, 0.49, 0.5) for row in range(100)]
    rows = rows_of([*tiny, *turns("gsm8k", is_right=True), *turns("math", is_right=True)])
    assert rows["trivia_qa"].turns == 100
    assert rows[MEAN].turns == 80
