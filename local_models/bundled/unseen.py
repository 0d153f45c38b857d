"""Questions written by hand that no training dialogue holds, and what answers them.

Owns the reading of unseen.yaml and of what a newcomer tries first (newcomer.yaml). Knows no model.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import yaml

HERE = Path(__file__).parent
_MARKS = str.maketrans("", "", "?!.,:;…।🙂🙏😊")


@cache
def unseen_questions() -> tuple[tuple[str, tuple[str, ...], str], ...]:
    """Return (language, intents whose answers are right, question) of every line."""
    document = yaml.safe_load((HERE / "unseen.yaml").read_text("utf-8"))
    return tuple(
        (language, tuple(names.split()), question)
        for language, parts in document.items()
        for names, questions in parts.items()
        for question in questions.splitlines()
    )


@cache
def newcomer_conversations() -> tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]:
    """Return (the user's turns, what may be answered to the last) of a newcomer's first tries."""
    document = yaml.safe_load((HERE / "newcomer.yaml").read_text("utf-8"))
    return tuple((tuple(each["ask"]), tuple(each["right"])) for each in document)


def plain(text: str) -> str:
    """Return a question without case and marks: two that differ in nothing else are one."""
    return " ".join(text.casefold().translate(_MARKS).split())


@cache
def _plain_unseen() -> frozenset[str]:
    return frozenset(plain(question) for _, _, question in unseen_questions())


def is_unseen(text: str) -> bool:
    """Return whether training must leave this question out."""
    return plain(text) in _plain_unseen()
