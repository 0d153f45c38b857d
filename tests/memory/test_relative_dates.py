from __future__ import annotations

from datetime import date

import pytest

from memory.relative_dates import resolved_dates

WEDNESDAY = date(2026, 5, 6)


@pytest.mark.parametrize(
    ("text", "resolved"),
    [
        ("We met yesterday.", ["5 May 2026"]),
        ("I saw it LAST NIGHT", ["5 May 2026"]),
        ("the day before yesterday", ["4 May 2026"]),
        (
            "exam tomorrow, results next Friday",
            ["7 May 2026", "the Friday after 6 May 2026, the 8th"],
        ),
        ("last Wednesday", ["the Wednesday before 6 May 2026, the 29th"]),
        ("last Sat", ["the Saturday before 6 May 2026, the 2nd"]),
        ("last weekend", ["the weekend before 6 May 2026"]),
        ("next weekend", ["the weekend after 6 May 2026"]),
        ("last week", ["the week before 6 May 2026"]),
        ("this week", ["week of 6 May 2026"]),
        ("two weekends ago", ["2 weekends before 6 May 2026"]),
        ("a few days ago", ["a few days before 6 May 2026"]),
        ("the other day", ["a few days before 6 May 2026"]),
        ("seven years now", ["since 2019"]),
        ("two weeks ago", ["week of 20 April 2026"]),
        ("3 days ago", ["3 May 2026"]),
        ("six months ago", ["November 2025"]),
        ("next month", ["June 2026"]),
        ("last year", ["2025"]),
        ("ten years back", ["2016"]),
        ("last May", ["May 2025"]),
        ("next June", ["June 2026"]),
        ("நேற்று வந்தான்", ["5 May 2026"]),
    ],
)
def test_relative_words_mean_the_day_they_were_said_from(text: str, resolved: list[str]) -> None:
    assert resolved_dates(text, WEDNESDAY) == resolved


@pytest.mark.parametrize("text", ["kal milte hain", "at last", "the last weekday", "", "today"])
def test_what_names_no_other_day_is_left_alone(text: str) -> None:
    assert resolved_dates(text, WEDNESDAY) == []


def test_a_date_before_the_calendar_begins_is_no_error() -> None:
    assert resolved_dates("99 weeks ago, yesterday", date(1, 1, 1)) == []
