"""Whether a summary holds nothing that its source lacks: pure functions, no model.

A paraphrase can pass; an invented number, date or name, or a negation turned round, mostly cannot.
When in doubt the answer is no, because sentences of the source then stand instead.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from memory.conversation import Item
from memory.lexical import words_of
from memory.quoting import speaker_of, time_said
from memory.summarize import values_of

_WORD = re.compile(r"[^\W\d_][\w'’\u0900-\u0dff\u200c\u200d]*")
_SENTENCE_START = re.compile(r"(?:^|[.!?।॥:\n•*\-]\s*)[\"'(]*$")
_NEGATIONS = frozenset(
    ["not", "no", "never", "none", "nobody", "cannot", "can't", "don't", "won't", "isn't"]
    + ["doesn't", "didn't", "nahi", "nahin", "नहीं", "मत", "இல்லை"]
)
# Words that begin an English sentence without naming anybody.
_OPENERS_TEXT = (
    "the a an in on at to for from with by of as and but or so if when while after before since "
    "then now later also both all each some most many it its this that these those there here he "
    "she they we you i his her their our your my user users assistant speaker conversation summary "
    "part discussion asked said told wants wanted needs has have had is are was were will would "
    "because however although during over about what which who how one another first second next "
    "finally earlier other no not never"
)
_COUNTED_TEXT = (
    "two three four five six seven eight nine ten eleven twelve fifteen twenty thirty forty fifty "
    "sixty seventy eighty ninety hundred thousand lakh crore million billion dozen half"
)
_CALENDAR_TEXT = (
    "january february march april may june july august september october november december monday "
    "tuesday wednesday thursday friday saturday sunday yesterday tomorrow today tonight"
)
_OPENERS, _COUNTED, _CALENDAR = (
    frozenset(text.split()) for text in (_OPENERS_TEXT, _COUNTED_TEXT, _CALENDAR_TEXT)
)
_STEM = 3


def is_faithful(text: str, items: Sequence[Item]) -> bool:
    """Return whether every number, date, name and negation of the text stands in the items.

    In scripts without capitals nothing marks a name: there every word must begin as a word of the
    source does.
    """
    source = "\n".join(f"{speaker_of(item)} {item.message.text}" for item in items)
    said = {part for item in items for part in time_said(item).strftime("%Y %-m %-d").split()}
    if not text.strip() or not set(values_of(text)) <= said.union(values_of(source)):
        return False
    known = set(words_of(source))
    known |= {time_said(item).strftime(name).casefold() for item in items for name in ("%B", "%A")}
    stems = {word[:_STEM] for word in known}
    for match in _WORD.finditer(text):
        is_first = bool(_SENTENCE_START.search(text[max(0, match.start() - 8) : match.start()]))
        if not _may_stand(match.group(), is_first, known, stems):
            return False
    negations = _NEGATIONS & set(text.casefold().split())
    return not negations or bool(_NEGATIONS & set(source.casefold().split()))


def _may_stand(word: str, is_first: bool, known: set[str], stems: set[str]) -> bool:
    """Return whether a word of a summary could come from its source."""
    plain = word.casefold().removesuffix("'s").removesuffix("’s")
    if plain in known:
        return True
    if plain in _COUNTED or plain in _CALENDAR:
        return False
    if word[0].isupper():
        return is_first and plain in _OPENERS
    if not word[0].islower():  # a script without capitals
        return len(word) <= _STEM or plain[:_STEM] in stems
    return True
