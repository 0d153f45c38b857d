"""Dates named in a question, and how near a day is to them: pure functions."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_MONTHS = {
    name: number
    for number, names in enumerate(
        (
            "january jan जनवरी janvari ஜனவரி జనవరి জানুয়ারি",
            "february feb फरवरी फ़रवरी பிப்ரவரி ఫిబ్రవరి ফেব্রুয়ারি",
            "march मार्च மார்ச் మార్చి মার্চ",
            "april apr अप्रैल ஏப்ரல் ఏప్రిల్ এপ্রিল",
            "may मई மே మే মে",
            "june jun जून ஜூன் జూన్ জুন",
            "july jul जुलाई ஜூலை జూలై জুলাই",
            "august aug अगस्त ஆகஸ்ட் ఆగస్టు আগস্ট",
            "september sep sept सितंबर செப்டம்பர் సెప్టెంబర్ সেপ্টেম্বর",
            "october oct अक्टूबर அக்டோபர் అక్టోబర్ অক্টোবর",
            "november nov नवंबर நவம்பர் నవంబర్ নভেম্বর",
            "december dec दिसंबर டிசம்பர் డిసెంబర్ ডিসেম্বর",
        ),
        1,
    )
    for name in names.split()
}
_ISO = re.compile(r"\b(\d{4})-(\d{2})(?:-(\d{2}))?\b")
_YEAR = re.compile(r"\b((?:19|20)\d\d)\b")
_DAY = re.compile(r"\b(\d{1,2})(?:st|nd|rd|th)?\b")
_WORD = re.compile(r"[^\W\d_]+[\u0900-\u0dff]*(?:[^\W\d_]|[\u0900-\u0dff])*")
_AFTERWARDS_DAYS = 3


@dataclass(frozen=True, slots=True)
class NamedDates:
    """Months, days of them and years that a text names; empty where it names none."""

    months: frozenset[int] = frozenset()
    days: frozenset[int] = frozenset()
    years: frozenset[int] = frozenset()


def dates_in(text: str) -> NamedDates:
    """Return the dates a text names; a lone day or year says too little and is not one."""
    iso = _ISO.search(text)
    if iso:
        days = {int(iso[3])} if iso[3] else set()
        return NamedDates(frozenset({int(iso[2])}), frozenset(days), frozenset({int(iso[1])}))
    words = _WORD.findall(text.casefold())
    # "may" is a month only beside a number: "what may I eat" names no date.
    has_number = bool(_DAY.search(text) or _YEAR.search(text))
    months = {_MONTHS[w] for w in words if w in _MONTHS and (has_number or w not in ("may", "मई"))}
    if not months:
        return NamedDates()
    years = {int(year) for year in _YEAR.findall(text)}
    days = {int(day) for day in _DAY.findall(_YEAR.sub(" ", text)) if 1 <= int(day) <= 31}
    return NamedDates(frozenset(months), frozenset(days), frozenset(years))


def nearness(days: NDArray[np.datetime64], named: NamedDates) -> NDArray[np.float32]:
    """Return how well each day fits the named dates: float32 [n], 0 to 1.

    What happened on a day is often told a few days later, and what happened in a month early in
    the next one.

    Args:
        days: datetime64[D] [n].
        named: the dates of a question.
    """
    if not named.months:
        return np.zeros(len(days), np.float32)
    month_starts = days.astype("datetime64[M]")
    months = month_starts.astype(int) % 12 + 1
    of_month = (days - month_starts.astype("datetime64[D]")).astype(int) + 1
    is_month = np.isin(months, list(named.months))
    fit = np.where(is_month, 0.5, 0.0)
    is_next = np.isin((months - 2) % 12 + 1, list(named.months))
    fit = np.maximum(fit, np.where(is_next, 0.15, 0.0))
    for day in named.days:
        later = of_month - day
        fit = np.where(is_month & (later >= 0) & (later <= _AFTERWARDS_DAYS), 1.0, fit)
    if named.years:
        years = days.astype("datetime64[Y]").astype(int) + 1970
        fit = np.where(np.isin(years, list(named.years)), fit, 0.3 * fit)
    return fit.astype(np.float32)
