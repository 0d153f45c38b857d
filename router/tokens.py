"""Text to token ids: a capped, lower-cased, memoized word-piece lookup.

Owns how much of a text is read and how it falls into tokens. Knows nothing of scores.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

# A text is read at its two ends: questions stand at the start or the end of what they are about.
HEAD_CHARS = 1400
TAIL_CHARS = 600
UNKNOWN = 0
LEXICON_FILE = "lexicon.tsv"
VOCABULARY_FILE = "vocabulary.txt"

_LONGEST_WORD = 40
_MOST_REMEMBERED = 100_000
# Latin words, numbers, words in Indian scripts, ASCII punctuation, and single symbols of other
# blocks (mathematics, arrows, accented letters). What falls through (emoji, Han) has no token.
_WORDS = re.compile(r"[a-z]+|[0-9]+|[\u0900-\u0dff]+|[!-/:-@\[-`{-~]|[\u00a1-\u08ff\u2010-\u2bff]")


def capped(text: str) -> str:
    """Return the head and the tail of a text, at most HEAD_CHARS + TAIL_CHARS + 1 characters."""
    if len(text) <= HEAD_CHARS + TAIL_CHARS:
        return text
    return f"{text[:HEAD_CHARS]} {text[-TAIL_CHARS:]}"


def words_of(text: str) -> list[str]:
    """Return the words of a text as the vocabulary spells them: lower case, in order."""
    return _WORDS.findall(text.lower())


class Vocabulary:
    """Word pieces and their ids; row 0 stands for what is unknown.

    `pieces` are in the order of the token table, beginning with row 1; a piece that continues a
    word starts with `##`. `glosses` maps words of other languages to the English ones whose
    tokens they take, so that a question in Tamil is read by what was learned in English.
    """

    def __init__(self, pieces: list[str], glosses: Mapping[str, str] | None = None) -> None:
        self._ids = {piece: row for row, piece in enumerate(pieces, start=1)}
        self._known: dict[str, tuple[int, ...]] = {
            piece: (row,) for piece, row in self._ids.items() if not piece.startswith("##")
        }
        for word, english in (glosses or {}).items():
            self._known[word] = tuple(
                row for part in words_of(english) for row in self._pieces_of(part)
            )

    @classmethod
    def load(cls, folder: Path) -> Vocabulary:
        """Return the vocabulary of a model folder; raises OSError or ValueError."""
        pieces = (folder / VOCABULARY_FILE).read_text("utf-8").split("\n")
        return cls([piece for piece in pieces if piece], read_lexicon(folder / LEXICON_FILE))

    def __len__(self) -> int:
        return len(self._ids) + 1

    def ids_of(self, words: list[str]) -> list[int]:
        """Return the token ids of words, in order."""
        ids: list[int] = []
        known = self._known
        for word in words:
            pieces = known.get(word)
            if pieces is None:
                pieces = self._pieces_of(word)
                if len(known) < _MOST_REMEMBERED:
                    known[word] = pieces
            ids += pieces
        return ids

    def _pieces_of(self, word: str) -> tuple[int, ...]:
        """Return the longest pieces that make up a word, left to right."""
        word = word[:_LONGEST_WORD]
        if word[0] >= "\u0900":
            return self._stem_of(word)
        pieces: list[int] = []
        start, prefix = 0, ""
        while start < len(word):
            for end in range(len(word), start, -1):
                row = self._ids.get(prefix + word[start:end])
                if row is not None:
                    pieces.append(row)
                    break
            else:
                return (UNKNOWN,)
            start, prefix = end, "##"
        return tuple(pieces)

    def _stem_of(self, word: str) -> tuple[int, ...]:
        """Return the tokens of the longest known beginning: endings carry case, not topic."""
        for end in range(len(word) - 1, 2, -1):
            pieces = self._known.get(word[:end])
            if pieces is not None:
                return pieces
        return (UNKNOWN,)


def read_lexicon(path: Path) -> dict[str, str]:
    """Return word to English gloss from lines of `language<tab>word<tab>english`."""
    glosses = {}
    for line in path.read_text("utf-8").split("\n"):
        if line and not line.startswith("#"):
            _, word, english = line.split("\t")
            glosses[word] = english
    return glosses
