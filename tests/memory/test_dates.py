from __future__ import annotations

import numpy as np
import pytest

from memory.dates import NamedDates, dates_in, nearness


@pytest.mark.parametrize(
    ("text", "months", "days", "years"),
    [
        ("What happened on 18 August, 2023?", {8}, {18}, {2023}),
        ("in June?", {6}, set(), set()),
        ("since 2026-05-03", {5}, {3}, {2026}),
        ("14 जून को क्या हुआ?", {6}, {14}, set()),
        ("ஜூலை மாதம்?", {7}, set(), set()),
        ("What may I eat?", set(), set(), set()),
        ("on 3 May", {5}, {3}, set()),
        ("how many in 2023", set(), set(), set()),
    ],
)
def test_dates_of_a_question_are_found(
    text: str, months: set[int], days: set[int], years: set[int]
) -> None:
    assert dates_in(text) == NamedDates(frozenset(months), frozenset(days), frozenset(years))


def test_the_day_itself_fits_best_then_the_days_after_then_the_month() -> None:
    days = np.array(["2023-08-18", "2023-08-20", "2023-08-02", "2023-09-02", "2023-05-01"], "M8[D]")
    fit = nearness(days, dates_in("on 18 August 2023")).tolist()
    assert fit[0] == fit[1] > fit[2] > fit[3] > fit[4] == 0


def test_another_year_fits_less() -> None:
    days = np.array(["2023-08-18", "2022-08-18"], "M8[D]")
    fit = nearness(days, dates_in("on 18 August 2023"))
    assert fit[0] > fit[1] > 0
