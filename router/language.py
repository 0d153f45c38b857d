"""Which language a text is in: by script first, then by the small words every sentence needs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

LANGUAGES_FILE = "languages.tsv"
# More words, or characters, do not change the answer.
MOST_WORDS = 120
MOST_CHARS = 600

# Where each script lies; Devanagari and Latin serve several languages and are told by words.
_SCRIPTS = re.compile(
    "(?P<latin>[a-z])|(?P<deva>[\u0900-\u0963\u0966-\u097f])|(?P<bn>[\u0980-\u09ff])"
    "|(?P<ta>[\u0b80-\u0bff])|(?P<te>[\u0c00-\u0c7f])"
    "|(?P<other>[\u0370-\u08ff\u0a00-\u0b7f\u0c80-\u1fff\u2e80-\ud7ff\uf900-\uffdc])"
)

# Endings that tell the languages of one script apart where no small word does.
_MARATHI_ENDING = re.compile(
    "(?:च्या|ांनी|ांना|ातील|ण्या.{0,3}|ावर|साठी|मुळे|्यास|णे|तून|ाहून|ले|ात|ील|ेल|तो|ाला|ीला)$"
)
_NEPALI_ENDING = re.compile("(?:हरू.{0,3}|लाई|बाट|ेक[ोा]|न्छ.{0,3}|र्न[ुे]|.ेर|..को|..मा|यो|छ)$")
_HINGLISH_ENDING = re.compile(
    "[a-z]{2,}(?:aaye?i?n|aao|ayen|iye|iyega|enge|ega|egi|kar|karke|unga|ungi|wala|wali|wale)$"
)


class Languages:
    """Tells the languages apart; `lists` maps hi, mr, ne, hi-Latn, either and en to their words.

    Words of `either` are English words or names too: they count only beside one of hi-Latn.
    """

    def __init__(self, lists: Mapping[str, frozenset[str]]) -> None:
        self._hindi, self._marathi, self._nepali = lists["hi"], lists["mr"], lists["ne"]
        self._either, self._english = lists["either"], lists["en"]
        self._hinglish = lists["hi-Latn"] - self._either

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
        counts: dict[str, int] = {}
        for match in _SCRIPTS.finditer(text[:MOST_CHARS].lower()):
            script = match.lastgroup or ""
            counts[script] = counts.get(script, 0) + 1
        script, count = max(counts.items(), key=lambda item: item[1], default=("latin", 0))
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
        letters = [word for word in words[:MOST_WORDS] if word[0].isalpha()]
        if not letters:
            return "und"
        n_hindi = sum(word in self._hinglish for word in letters)
        n_either = sum(word in self._either for word in letters)
        n_english = sum(word in self._english for word in letters)
        if n_english <= 1:
            n_hindi += any(map(_HINGLISH_ENDING.match, letters))
        if n_hindi >= 2 and 2 * (n_hindi + n_either) >= n_english:
            return "hi-Latn"
        if n_hindi == 1 and n_english - (n_either > 0) <= 1:
            return "hi-Latn"
        if n_english == 0 and len(letters) >= 6 and len(letters) > 0.7 * len(words[:MOST_WORDS]):
            return "und"
        return "en"

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
