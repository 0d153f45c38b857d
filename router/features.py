"""The newest turn and its recent conversation, as numbers for the classifier.

Owns which parts of a conversation are read. Reads no more than a few thousand characters of it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from memory.conversation import Message
from router.pleas import task_of
from router.tokens import HEAD_CHARS, TAIL_CHARS, capped

# A turn longer than this says itself what it wants; a shorter one may lean on the turn before.
SHORT_CHARS = 240
# How many user turns back a chain of "yes" and "go on" is followed.
MOST_TURNS_BACK = 4

FACTS = ("length", "lines", "turn", "follows_answer", "answers_question", "is_short", "is_choice")

# Where the answers of a question stand that gives several to choose from.
_CHOICES = re.compile(r"\n[ \t]*\(?A[.):][ \t]+(?=[^\n]*\n[ \t]*\(?B[.):])")
_MARK = re.compile(r"\n[ \t]*\(?[A-J][.):][ \t]+|\nAnswer:?\s*$")


@dataclass(frozen=True, slots=True)
class TurnText:
    """What is read of a conversation.

    `current` is the newest user turn and `earlier` the ones before it, newest first, as far as a
    short turn may lean on them; all are capped, and the letters of answers to choose from are left
    out. `facts` follow FACTS; the length is that of the question without such answers.
    """

    current: str
    earlier: tuple[str, ...]
    facts: tuple[float, ...]


def turn_text_of(messages: Sequence[Message]) -> TurnText:
    """Return what is read of a conversation, messages newest last.

    After a tool's result the turn is still the user's last one, so that a tool loop is scored as
    its question was.
    """
    at = _last_user(messages, len(messages))
    whole = messages[at].text if at >= 0 else ""
    answer = _last_answer(messages, at)
    is_short = len(whole) <= SHORT_CHARS
    earlier: list[str] = []
    previous = at
    while is_short and answer is not None and len(earlier) < MOST_TURNS_BACK:
        previous = _last_user(messages, previous)
        if previous < 0:
            break
        earlier.append(capped(messages[previous].text))
    n_turns = sum(message.role == "user" for message in messages[-64:])
    text, n_chars, n_lines, is_choice = _read(whole)
    facts = (
        math.log1p(n_chars) / 10,
        math.log1p(n_lines) / 5,
        math.log1p(n_turns) / 3,
        float(answer is not None),
        float(answer is not None and "?" in answer[-200:]),
        float(is_short),
        float(is_choice),
    )
    return TurnText(text, tuple(earlier), facts)


def _read(whole: str) -> tuple[str, int, int, bool]:
    """Return what is read of a turn, characters and lines of its question, and if it has choices.

    How many answers there are to choose from, and how they are lettered, are marks of where a
    question was found, not of how hard it is.
    """
    text = task_of(capped(whole))
    choices = _CHOICES.search(text) if "\n" in text else None
    if choices:
        at = choices.start()
        return _MARK.sub("\n", text), at, text.count("\n", 0, at), True
    n_unread = min(max(len(whole) - HEAD_CHARS - TAIL_CHARS, 0), 20_000)
    counted = whole if n_unread else text
    return text, len(text) + n_unread, counted.count("\n", 0, 20_000), False


def _last_user(messages: Sequence[Message], before: int) -> int:
    for index in range(before - 1, -1, -1):
        if messages[index].role == "user":
            return index
    return -1


def _last_answer(messages: Sequence[Message], before: int) -> str | None:
    for index in range(before - 1, -1, -1):
        if messages[index].role == "assistant":
            return messages[index].text
    return None
