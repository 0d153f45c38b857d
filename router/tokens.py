"""Text to token ids: a capped, lower-cased, memoized word-piece lookup.

Owns how much of a text is read and how it falls into tokens. Knows nothing of scores.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# A text is read at its two ends: questions stand at the start or the end of what they are about.
HEAD_CHARS = 1400
TAIL_CHARS = 600
UNKNOWN = 0
LEXICON_FILE = "lexicon.tsv"
VOCABULARY_FILE = "vocabulary.txt"

_LONGEST_WORD = 40
_MOST_REMEMBERED = 100_000
# Latin words, numbers, words in other scripts, ASCII punctuation, and single other symbols
# (mathematics, Greek, arrows, accented letters). What falls through (emoji) has no token.
_WORDS = re.compile(
    r"[a-z]+|[0-9]+|[!-/:-@\[-`{-~]|[\u0400-\u1fff\u3040-\ud7af]+|[\u00a1-\u03ff\u2010-\u2bff]"
)


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
        self._packed = _Remembered(self._pieces_of)
        # Apart from what is remembered: what a word means must not hang on what was read before.
        self._glosses = {
            word: b"".join(map(self._packed.__getitem__, words_of(english)))
            for word, english in (glosses or {}).items()
        }
        self._packed.update(self._glosses)

    @classmethod
    def load(cls, folder: Path) -> Vocabulary:
        """Return the vocabulary of a model folder; raises OSError or ValueError."""
        pieces = (folder / VOCABULARY_FILE).read_text("utf-8").split("\n")
        return cls([piece for piece in pieces if piece], read_lexicon(folder / LEXICON_FILE))

    def __len__(self) -> int:
        return len(self._ids) + 1

    def ids_of(self, words: Sequence[str]) -> NDArray[np.int32]:
        """Return the token ids of words in order, int32 [n]; without words the unknown token."""
        # Words are kept as the bytes of their ids: joining them is the cheapest way to an array.
        packed = b"".join(map(self._packed.__getitem__, words))
        return np.frombuffer(packed or _pack([UNKNOWN]), np.int32)

    def _pieces_of(self, word: str) -> bytes:
        """Return the packed ids of the longest pieces that make up a word, left to right."""
        whole = self._ids.get(word)
        if whole is not None:
            return _packed_one(whole)
        word = word[:_LONGEST_WORD]
        if "\u0400" <= word[0] < "\u2000" or word[0] > "\u3000":
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
                return _pack([UNKNOWN])
            start, prefix = end, "##"
        return _pack(pieces)

    def _stem_of(self, word: str) -> bytes:
        """Return the tokens of the longest known beginning: endings carry case, not topic."""
        for end in range(len(word) - 1, 2, -1):
            packed = self._glosses.get(word[:end])
            if packed is not None:
                return packed
        return _pack([UNKNOWN])


class _Remembered(dict[str, bytes]):
    """Words and their packed ids; a word not seen before is taken apart, and kept if room is."""

    def __init__(self, take_apart: Callable[[str], bytes]) -> None:
        super().__init__()
        self._take_apart = take_apart

    def __missing__(self, word: str) -> bytes:
        packed = self._take_apart(word)
        if len(self) < _MOST_REMEMBERED:
            self[word] = packed
        return packed


_packed_one = struct.Struct("=i").pack


def _pack(ids: Sequence[int]) -> bytes:
    return struct.pack(f"={len(ids)}i", *ids)


def read_lexicon(path: Path) -> dict[str, str]:
    """Return word to English gloss from lines of `language<tab>word<tab>english`."""
    glosses = {}
    for line in path.read_text("utf-8").split("\n"):
        if line and not line.startswith("#"):
            _, word, english = line.split("\t")
            glosses[word] = english
    return glosses
