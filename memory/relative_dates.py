"""What "yesterday" or "two weeks ago" meant on the day it was said: pure functions.

Quoted months later, such words mislead; their date is written beside the quotation. English, and
the unambiguous words for yesterday and tomorrow of four Indic languages ("kal" may be either).
"""

from __future__ import annotations

import re
from datetime import date, timedelta

_MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
_WEEKDAYS = {
    name: n
    for n, name in enumerate(
        ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
    )
}
_NUMBERS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
_NUMBERS |= {"seven": 7, "eight": 8, "nine": 9, "ten": 10}
_DAY_WORDS = {"yesterday": -1, "last night": -1, "tomorrow": 1, "day before yesterday": -2}
_DAY_WORDS |= {"day after tomorrow": 2, "நேற்று": -1, "நாளை": 1, "నిన్న": -1, "రేపు": 1}
_DAY_WORDS |= {"গতকাল": -1, "আগামীকাল": 1, "ನಿನ್ನೆ": -1, "ನಾಳೆ": 1}
_UNITS = "day|week|month|year"
_PHRASE = re.compile(
    r"(?<!\w)(?:"
    + f"(?P<day>{'|'.join(sorted(_DAY_WORDS, key=len, reverse=True))})"
    + r"|(?P<way>last|next|past) (?P<of>weekend|week|month|year|"
    + "|".join(_WEEKDAYS)
    + r"|"
    + "|".join(name.casefold() for name in _MONTHS)
    + rf")|(?P<count>\d{{1,2}}|{'|'.join(_NUMBERS)}) (?P<unit>{_UNITS})s? (?P<ago>ago|back)"
    + r")(?!\w)"
)
_MOST = 3


def resolved_dates(text: str, said: date) -> list[str]:
    """Return the dates that a text's relative words named when it was said, at most three.

    As precise as the words: a day, a weekend, "the week of" its Monday, a month or a year.
    """
    found: dict[str, None] = {}
    for match in _PHRASE.finditer(text.casefold()):
        try:
            found[_resolved(match, said)] = None
        except OverflowError:  # said in the calendar's first or last days
            continue
        if len(found) == _MOST:
            break
    return list(found)


def day_name(day: date) -> str:
    """Return a day as quotations spell it: 7 May 2023."""
    return f"{day.day} {_MONTHS[day.month - 1]} {day.year}"


def _resolved(match: re.Match[str], said: date) -> str:
    if match["day"]:
        return day_name(said + timedelta(_DAY_WORDS[match["day"]]))
    if match["count"]:
        count = _NUMBERS.get(match["count"]) or int(match["count"])
        return _back(said, count, match["unit"])
    sign = 1 if match["way"] == "next" else -1
    of = match["of"]
    if of in _WEEKDAYS:
        away = (sign * (_WEEKDAYS[of] - said.weekday())) % 7 or 7
        return day_name(said + timedelta(sign * away))
    if of == "weekend":
        saturday = said + timedelta((5 - said.weekday()) % 7 or 7)
        saturday -= timedelta(7 if sign < 0 else 0)
        if sign < 0 and saturday + timedelta(1) >= said:
            saturday -= timedelta(7)
        return f"{day_name(saturday)} weekend"
    if of in ("week", "month", "year"):
        return _back(said, -sign, of)
    number = [name.casefold() for name in _MONTHS].index(of) + 1
    ahead = number > said.month if sign > 0 else number >= said.month
    year = said.year + (0 if ahead else 1) if sign > 0 else said.year - (1 if ahead else 0)
    return f"{_MONTHS[number - 1]} {year}"


def _back(said: date, count: int, unit: str) -> str:
    """Return the day, week, month or year that lies so many of them back."""
    if unit == "day":
        return day_name(said - timedelta(count))
    if unit == "week":
        day = said - timedelta(7 * count)
        return f"week of {day_name(day - timedelta(day.weekday()))}"
    if unit == "month":
        months = said.year * 12 + said.month - 1 - count
        return f"{_MONTHS[months % 12]} {months // 12}"
    return str(said.year - count)
