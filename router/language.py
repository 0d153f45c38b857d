"""Which language a text is in: by script first, then by the small words every sentence needs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

LANGUAGES_FILE = "languages.tsv"
# More words, or characters, do not change the answer.
MOST_WORDS = 120
MOST_CHARS = 600

# Devanagari and Latin serve several languages and are told by words, others by script alone. One
# is known by its block of 128 code points; blocks without letters of words count for none.
_SCRIPTS = {18: "deva", 19: "bn", 23: "ta", 24: "te"}
_N_BLOCKS = 512
_OTHER_BLOCKS = np.array(
    [
        (7 <= block < 64 or 93 <= block < 432 or block >= 498) and block not in _SCRIPTS
        for block in range(_N_BLOCKS)
    ]
)
# What stands in any of these blocks: without it a text is Latin, whatever signs it has.
_NOT_LATIN = re.compile("[\u0380-\u1fff\u2e80-\ud7ff\uf900-\uffff]")

# Endings that tell the languages of one script apart where no small word does.
_MARATHI_ENDING = re.compile(
    "(?:च्या|ांनी|ांना|ातील|ण्या.{0,3}|ावर|साठी|मुळे|्यास|णे|तून|ाहून|ले|ात|ील|ेल|तो|ाला|ीला)$"
)
_NEPALI_ENDING = re.compile("(?:हरू.{0,3}|लाई|बाट|ेक[ोा]|न्छ.{0,3}|र्न[ुे]|.ेर|..को|..मा|यो|छ)$")
_HINGLISH_ENDINGS = (
    *("aayin", "aayein", "aayn", "aayen", "aao", "ayen", "iye", "iyega", "enge", "ega", "egi"),
    *("kar", "karke", "unga", "ungi", "wala", "wali", "wale"),
)
# Looked at first, because most words have none of them.
_LAST_LETTERS = frozenset(ending[-2:] for ending in _HINGLISH_ENDINGS)
# English has these words at most as names; between two others they are Hindi.
_POSTPOSITIONS = frozenset(("ki", "mein", "mei", "par"))


class Languages:
    """Tells the languages apart; `lists` maps hi, mr, ne, hi-Latn, either and en to their words.

    Words of `either` are English words or names too: they count only beside one of hi-Latn. After
    any word but those of `takes-me`, "me" says where, as Hindi does: "Dallas me events".
    """

    def __init__(self, lists: Mapping[str, frozenset[str]]) -> None:
        self._hindi, self._marathi, self._nepali = lists["hi"], lists["mr"], lists["ne"]
        self._either, self._english = lists["either"], lists["en"]
        self._hinglish = lists["hi-Latn"] - self._either
        self._takes_me = lists["takes-me"]

    @classmethod
    def load(cls, folder: Path) -> Languages:
        """Return the lists of a model folder; raises OSError, KeyError or ValueError."""
        lines = (folder / LANGUAGES_FILE).read_text("utf-8").split("\n")
        pairs = (line.split("\t") for line in lines if line and not line.startswith("#"))
        return cls({name: frozenset(words.split()) for name, words in pairs})

    def language_of(self, text: str, words: list[str]) -> str:
        """Return one of en hi hi-Latn ta te bn mr und for a text and its lower-cased words.

        `und` stands for every other language, and for texts without words.
        """
        if text.isascii():
            return self._latin(words)
        script = _script_of(text[:MOST_CHARS])
        if script == "other":
            return "und"
        if script == "latin":
            return self._latin(words)
        if script == "deva":
            return self._devanagari(words)
        if script == "bn" and ("\u09f0" in text or "\u09f1" in text):
            return "und"  # two letters that Assamese has and Bengali has not
        return script

    def _latin(self, words: list[str]) -> str:
        words = words[:MOST_WORDS]
        n_hindi = sum(map(self._hinglish.__contains__, words))
        n_english = sum(map(self._english.__contains__, words))
        if n_english <= 1:
            letters = [word for word in words if word[0].isalpha()]
            if not letters:
                return "und"
            likely = [word for word in letters if word[-2:] in _LAST_LETTERS]
            n_hindi += any(word.endswith(_HINGLISH_ENDINGS) and len(word) > 4 for word in likely)
        if n_hindi:
            n_either = sum(map(self._either.__contains__, words))
            if n_hindi >= 2 and 8 * (n_hindi + n_either) >= n_english:
                return "hi-Latn"
            if n_hindi == 1 and n_english <= (6 if n_either else 3):
                return "hi-Latn"
        elif n_english <= 1 and self._is_placed(words):
            return "hi-Latn"
        if n_english == 0 and len(letters) >= 6 and len(letters) > 0.7 * len(words):
            return "und"
        return "en"

    def _is_placed(self, words: list[str]) -> bool:
        """Return whether a word between two others is one that Hindi puts after a noun."""
        inner = words[1:-1]
        if not _POSTPOSITIONS.isdisjoint(inner):
            return True
        if "me" not in inner:
            return False
        before = words[inner.index("me")]
        return before[0].isalpha() and before not in self._takes_me

    def _devanagari(self, words: list[str]) -> str:
        votes = {"hi": 0, "mr": 0, "und": 0}
        for word in words[:MOST_WORDS]:
            votes["hi"] += 2 * (word in self._hindi)
            # U+0933 is a letter that Marathi has and Hindi has not.
            votes["mr"] += 2 * (word in self._marathi or "\u0933" in word)
            votes["und"] += 2 * (word in self._nepali)
            if len(word) > 3:
                votes["mr"] += _MARATHI_ENDING.search(word) is not None
                votes["und"] += _NEPALI_ENDING.search(word) is not None
        return max(votes, key=lambda language: votes[language])


def _script_of(text: str) -> str:
    """Return the script of most letters: latin, deva, bn, ta, te or other."""
    if not _NOT_LATIN.search(text):
        return "latin"
    points = np.frombuffer(text.encode("utf-16-le", "surrogatepass"), np.uint16)
    blocks = np.bincount(points >> 7, minlength=_N_BLOCKS)
    # Letters wrap around to 0-25 in either case, all else to more.
    n_latin = np.count_nonzero(((points | 32) - np.uint16(97)) < 26)
    counts = {"latin": int(n_latin), "other": int(blocks[_OTHER_BLOCKS].sum())}
    counts |= {name: int(blocks[block]) for block, name in _SCRIPTS.items()}
    return max(counts, key=lambda script: counts[script])
