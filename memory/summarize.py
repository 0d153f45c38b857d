"""Summary segments made of the conversation's own words: pure functions, no model.

Owns which sentences stand for a stretch of items and which exact values are kept beside them. A
segment is always made from its source items, never from another summary, so that facts do not
fade with each fold. Nothing here can invent: every line is a quotation.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from memory.conversation import Item
from memory.lexical import terms_of
from memory.quoting import speaker_of, time_said

BLOCK_ITEMS = 32
"""Items of the smallest segment; older segments cover 2, 4, 8 ... blocks."""

_LOOKED_AT_CLOSELY = 400

_SENTENCE = re.compile(r"[^.!?।॥\n]+(?:[.](?=\S)[^.!?।॥\n]*)*[.!?।॥]*")
_VALUE = re.compile(
    r"(?:₹|Rs\.?|INR|USD|EUR|[$€£])\s?\d[\d,.]*"  # amounts
    r"|\b[\w.+-]+@[\w-]+\.[\w.]+"  # addresses
    r"|https?://\S+|(?<!\w)[~/][\w./-]{3,}"  # links, paths
    r"|\b(?=\w*\d)(?=\w*[A-Za-z])[\w-]{3,}\b"  # order numbers, codes, times like 5pm
    r"|\d[\d,.:/%-]*",
)
_NAME = re.compile(r"(?<=[a-z,;] )[A-Z][a-z]{2,}(?: [A-Z][a-z]+)*")
_DATE = re.compile(
    r"\b(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\b|\b(?:mon|tues|wednes|thurs|fri"
    r"|satur|sun)day\b|\b(?:yesterday|tomorrow|today|tonight|last|next) ?(?:week|month|year)?\b",
    re.IGNORECASE,
)
_FACT = re.compile(
    r"\b(?:my|i am|i'm|i was|i have|i've|i like|i love|i hate|i prefer|we|our|name|live|work|born"
    r"|allergic|mera|meri|mere|mujhe|hamara|main)\b|मेर|मुझ|मैं|என்|எனக்கு|நான்|నా|నేను|আমার|আমি",
    re.IGNORECASE,
)
_CHANGE = re.compile(
    r"\b(?:remember|always|never|actually|instead|changed?|no longer|not any ?more|cancel\w*|must"
    r"|deadline|decided|agreed|moved|new)\b|याद|बदल|நினைவ|மாற",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Range:
    """Positions of items in the conversation's view: from `start` up to before `stop`."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class _Sentence:
    position: int
    order: int
    text: str
    speaker: str
    terms: frozenset[str]
    score: float


def segment_ranges(n_folded: int) -> list[Range]:
    """Return the segments that cover the first `n_folded` items, oldest and longest first.

    The binary digits of the number of whole blocks say their sizes, so that there are few
    segments, and a block is summarised again only as often as its segment doubles.
    """
    ranges: list[Range] = []
    start = 0
    n_blocks = n_folded // BLOCK_ITEMS
    for bit in range(n_blocks.bit_length() - 1, -1, -1):
        if n_blocks >> bit & 1:
            stop = start + (BLOCK_ITEMS << bit)
            ranges.append(Range(start, stop))
            start = stop
    if start < n_folded:
        ranges.append(Range(start, n_folded))
    return ranges


def summarise(items: Sequence[Item], limit_tokens: int, count: Callable[[str], int]) -> str:
    """Return the most telling sentences of the items, oldest first; empty when nothing fits.

    Args:
        items: the source.
        limit_tokens: the most tokens of the result.
        count: tokens of a text.
    """
    sentences = _scored(items)
    by_worth = sorted(sentences, key=lambda s: -s.score)
    room = limit_tokens
    kept: list[_Sentence] = []
    seen: Counter[str] = Counter()
    for sentence in by_worth:
        if room < 8:
            break
        known = sum(1 for term in sentence.terms if seen[term])
        if sentence.terms and known / len(sentence.terms) > 0.7:
            continue
        tokens = count(f"{sentence.speaker}: {sentence.text}") + 1
        if tokens <= room:
            room -= tokens
            kept.append(sentence)
            seen.update(sentence.terms)
    kept.sort(key=lambda s: (s.position, s.order))
    return _joined(kept, limit_tokens, count)


def shortened(summary: str, limit_tokens: int, count: Callable[[str], int]) -> str:
    """Return the most telling lines of a stored segment, in their order; they stay quotations."""
    lines = summary.splitlines()
    room = limit_tokens
    kept: set[int] = set()
    for i in sorted(range(len(lines)), key=lambda i: -_worth(lines[i])):
        tokens = count(lines[i]) + 1
        if tokens <= room:
            room -= tokens
            kept.add(i)
    text = "\n".join(lines[i] for i in sorted(kept))
    return text if count(text) <= limit_tokens else ""


def date_line(items: Sequence[Item]) -> str:
    """Return the dates a segment spans."""
    first, last = (time_said(item).strftime("%Y-%m-%d") for item in (items[0], items[-1]))
    return f"{first}:" if first == last else f"{first} to {last}:"


def values_of(text: str) -> list[str]:
    """Return the exact values in a text: amounts, numbers, codes, addresses, paths."""
    return [match.group().rstrip(".,:;-") for match in _VALUE.finditer(text)]


def _joined(kept: list[_Sentence], limit_tokens: int, count: Callable[[str], int]) -> str:
    while kept:
        text = "\n".join(f"{s.speaker}: {s.text}" for s in kept)
        if count(text) <= limit_tokens:
            return text
        kept.remove(min(kept, key=lambda s: s.score))
    return ""


def _scored(items: Sequence[Item]) -> list[_Sentence]:
    """Score every sentence by its form, and the best of them also by how often they recur."""
    found: list[tuple[float, int, int, str, Item]] = []
    for position, item in enumerate(items):
        if item.message.role == "tool":
            continue
        recent = 0.3 * position / len(items)
        for order, match in enumerate(_SENTENCE.finditer(item.message.text[:4000])):
            text = " ".join(match.group().split())
            if 8 <= len(text) <= 400:
                worth = _worth(text) + (0.6 if item.message.role == "user" else 0.0)
                found.append((worth + recent, position, order, text, item))
    found.sort(key=lambda entry: -entry[0])
    best = [
        (frozenset(t for t in terms_of(entry[3]) if t[0] != "#"), entry)
        for entry in found[:_LOOKED_AT_CLOSELY]
    ]
    frequency = Counter(term for terms, _ in best for term in terms)
    return [
        _Sentence(
            position,
            order,
            text,
            speaker_of(item),
            terms,
            worth + 0.15 * min(6, sum(1 for term in terms if frequency[term] > 1)),
        )
        for terms, (worth, position, order, text, item) in best
    ]


def _worth(text: str) -> float:
    score = 0.0
    score += 1.5 if _VALUE.search(text) else 0.0
    score += 1.0 if _NAME.search(text) else 0.0
    score += 0.8 if _DATE.search(text) else 0.0
    score += 0.8 if _FACT.search(text) else 0.0
    score += 1.0 if _CHANGE.search(text) else 0.0
    score -= 1.0 if text.endswith("?") else 0.0
    return score - 0.004 * len(text)
