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
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_DAYS = {name.casefold(): n for n, name in enumerate(_WEEKDAYS)}
_DAYS |= {name: n for n, name in enumerate(("mon", "tues", "wed", "thurs", "fri", "sat", "sun"))}
_NUMBERS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
_NUMBERS |= {"seven": 7, "eight": 8, "nine": 9, "ten": 10}
_DAY_WORDS = {"yesterday": -1, "last night": -1, "tomorrow": 1, "day before yesterday": -2}
_DAY_WORDS |= {"day after tomorrow": 2, "நேற்று": -1, "நாளை": 1, "నిన్న": -1, "రేపు": 1}
_DAY_WORDS |= {"গতকাল": -1, "আগামীকাল": 1, "ನಿನ್ನೆ": -1, "ನಾಳೆ": 1}
_UNITS = "day|weekend|week|month|year"
_COUNT = rf"\d{{1,2}}|{'|'.join(_NUMBERS)}"
_PHRASE = re.compile(
    r"(?<!\w)(?:"
    + f"(?P<day>{'|'.join(sorted(_DAY_WORDS, key=len, reverse=True))})"
    + r"|(?P<way>last|next|past) (?P<of>weekend|week|month|year|"
    + "|".join(sorted(_DAYS, key=len, reverse=True))
    + r"|"
    + "|".join(name.casefold() for name in _MONTHS)
    + rf")|(?P<count>{_COUNT}) (?P<unit>{_UNITS})s? (?P<ago>ago|back)"
    + r"|(?P<days>(?:a )?(?:few|couple(?: of)?) days ago|the other day)"
    + rf"|(?P<years>{_COUNT}) years now|(?P<this>this week)"
    + r")(?!\w)"
)
_BESIDE = {1: "after", -1: "before"}
_MOST = 3


def resolved_dates(text: str, said: date) -> list[str]:
    """Return the dates that a text's relative words named when it was said, at most three.

    As precise as the words: a day, a week, a weekend or a weekday beside the day they were said on
    (people differ about which Friday "last Friday" is, so both are told), a month or a year.
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
    if match["days"]:
        return f"a few days before {day_name(said)}"
    if match["years"]:
        return f"since {said.year - _number(match['years'])}"
    if match["this"]:
        return f"week of {day_name(said)}"
    if match["count"]:
        return _back(said, _number(match["count"]), match["unit"])
    sign = 1 if match["way"] == "next" else -1
    of = match["of"]
    if of in _DAYS:
        away = (sign * (_DAYS[of] - said.weekday())) % 7 or 7
        day = said + timedelta(sign * away)
        weekday = f"{_WEEKDAYS[_DAYS[of]]} {_BESIDE[sign]} {day_name(said)}"
        return f"the {weekday}, the {_ordinal(day.day)}"
    if of in ("week", "weekend"):
        return f"the {of} {_BESIDE[sign]} {day_name(said)}"
    if of in ("month", "year"):
        return _back(said, -sign, of)
    number = [name.casefold() for name in _MONTHS].index(of) + 1
    ahead = number > said.month if sign > 0 else number >= said.month
    year = said.year + (0 if ahead else 1) if sign > 0 else said.year - (1 if ahead else 0)
    return f"{_MONTHS[number - 1]} {year}"


def _ordinal(number: int) -> str:
    ending = "th" if number in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def _number(word: str) -> int:
    return _NUMBERS.get(word) or int(word)


def _back(said: date, count: int, unit: str) -> str:
    """Return the day, weekend, week, month or year that lies so many of them back."""
    if unit == "day":
        return day_name(said - timedelta(count))
    if unit == "weekend":
        weekends = f"{count} weekends" if count > 1 else "the weekend"
        return f"{weekends} before {day_name(said)}"
    if unit == "week":
        day = said - timedelta(7 * count)
        return f"week of {day_name(day - timedelta(day.weekday()))}"
    if unit == "month":
        months = said.year * 12 + said.month - 1 - count
        return f"{_MONTHS[months % 12]} {months // 12}"
    return str(said.year - count)
