r"""Search by words that works in the scripts our users write: tokenization and BM25.

Words keep their combining marks (a plain `\w` cuts Devanagari and Tamil words at every vowel
sign). Words outside ASCII also yield character trigrams, so that inflected forms still meet.
Latin words also meet through a phonetic key, so that "nahi", "nahin" and "naheen" are one; the key
is asked only at query time and never changes how English words count.

Knows term numbers and document numbers, nothing of conversations.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from memory.columns import Column

# Letters and digits with any combining marks; the Indic blocks' own marks are not `\w` in Python.
# Danda and double danda (U+0964, U+0965) are punctuation and stay out.
_WORD = re.compile(r"[\w\u0300-\u036f\u0900-\u0963\u0966-\u0dff\u200c\u200d]+", re.UNICODE)
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]")
_TRIGRAM_WEIGHT = 0.3
_VARIANT_WEIGHT = 0.5

_FUNCTION_WORDS = """
a about all also am an and any are as at be been being but by can could did do does doing for from
get got had has have having he her here hers him his how i if in into is it its just me my no not
of on or our out she should so some than that the their them then there these they this those to
too up us very was we were what when where which while who whom whose why will with would yes you
your
kya hai hain ka ki ke ko se mein main tha thi ho hi bhi aur ya ye yeh wo woh kab kaun kahan kaise
kyun tum aap mera meri mere
"""
STOPWORDS = frozenset(_FUNCTION_WORDS.split())


def words_of(text: str) -> list[str]:
    """Return the words of a text, folded in case and compatibility forms, in order."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text).replace("\u200c", "").replace("\u200d", "")
    return [word.strip("_") for word in _WORD.findall(text.casefold()) if word.strip("_")]


def terms_of(text: str) -> Counter[str]:
    """Return the index terms of a text and how much each counts; stop words are left out."""
    terms: Counter[str] = Counter()
    for word in words_of(text):
        if word in STOPWORDS:
            continue
        if word.isascii():
            terms[stem(word)] += 1
        elif _CJK.search(word):
            terms.update(word[i : i + 2] for i in range(max(1, len(word) - 1)))
        else:
            terms[word] += 1
            marked = "^" + word  # the first trigram also says that the word begins here
            terms.update("#" + marked[i : i + 3] for i in range(len(marked) - 2))
    return terms


@lru_cache(maxsize=65_536)
def stem(word: str) -> str:
    """Return an English word without its commonest endings; other Latin words mostly pass.

    Source: the plural and -ed/-ing steps of Porter (1980), then a final e or y is dropped.
    """
    if len(word) < 4 or not word.isalpha():
        return word
    if word.endswith("ies"):
        word = word[:-3] + "y"
    elif word.endswith("sses"):
        word = word[:-2]
    elif word.endswith("s") and word[-2] not in "sui":
        word = word[:-1]
    for ending in ("ing", "ed"):
        base = word[: -len(ending)]
        if word.endswith(ending) and len(base) >= 3 and re.search("[aeiouy]", base):
            word = base
            if word[-1] == word[-2] and word[-1] not in "lsz":
                word = word[:-1]
            break
    if len(word) > 3 and word[-1] in "ey":
        word = word[:-1]
    return word


@lru_cache(maxsize=65_536)
def phonetic_key(word: str) -> str:
    """Return a key that spellings of one romanised word share; empty for words it cannot help.

    Long vowels are shortened, w is v, ph is f, a final h or n after a vowel is dropped.
    """
    if not word.isascii() or not word.isalpha() or len(word) < 3:
        return ""
    key = word.replace("ph", "f").replace("w", "v").replace("z", "j").replace("q", "k")
    key = key.replace("ee", "i").replace("oo", "u").replace("ou", "u").replace("y", "i")
    key = re.sub(r"(.)\1+", r"\1", key)
    key = re.sub(r"(?<=[aeiou])[hn]$", "", key)
    return key.replace("ei", "i").replace("ai", "e")


class LexicalIndex:
    """BM25 over documents added in order; a document's neighbours lend it part of their words.

    Args:
        neighbour_weight: how much a word of the document before or after counts.
        k1, b: BM25's own. Source: Robertson and Zaragoza 2009, section 3.
    """

    def __init__(self, neighbour_weight: float = 0.3, k1: float = 1.2, b: float = 0.4) -> None:
        self._neighbour = neighbour_weight
        self._k1 = k1
        self._b = b
        # Document numbers and counts of each term, four bytes each.
        self._postings: dict[str, tuple[array[int], array[int]]] = {}
        self._variants: dict[str, list[str]] = {}
        self._lengths = Column(np.float32)

    def __len__(self) -> int:
        return len(self._lengths)

    def add(self, text: str) -> None:
        """Add the next document."""
        number = len(self._lengths)
        terms = terms_of(text)
        for term, count in terms.items():
            posting = self._postings.get(term)
            if posting is None:
                posting = self._postings[term] = (array("i"), array("i"))
                self._variants.setdefault(phonetic_key(term) or term, []).append(term)
            posting[0].append(number)
            posting[1].append(count)
        self._lengths.append(sum(c for t, c in terms.items() if t[0] != "#"))

    def scores(self, query: str) -> NDArray[np.float32]:
        """Return the BM25 score of every document: float32 [n], zero where no word is shared."""
        n = len(self._lengths)
        total = np.zeros(n, np.float32)
        if not n:
            return total
        norm = self._length_norm()
        for term, weight in self._query_terms(query).items():
            documents, counts = (np.array(column) for column in self._postings[term])
            frequency = np.zeros(n, np.float32)
            frequency[documents] = counts
            f = frequency.copy()
            if self._neighbour:
                f[:-1] += self._neighbour * frequency[1:]
                f[1:] += self._neighbour * frequency[:-1]
            idf = np.log1p((n - len(documents) + 0.5) / (len(documents) + 0.5))
            # On whole columns: picking out the documents that have the term costs more.
            total += np.float32(weight * idf * (self._k1 + 1)) * f / (f + norm)
        return total

    def _length_norm(self) -> NDArray[np.float32]:
        lengths: NDArray[np.float32] = self._lengths.values
        average = max(float(lengths.mean()), 1.0)
        slope = np.float32(self._k1 * self._b / average)
        norm: NDArray[np.float32] = lengths * slope + np.float32(self._k1 * (1 - self._b))
        return norm

    def _query_terms(self, query: str) -> dict[str, float]:
        """Return indexed terms with their weights, spelling variants of the query's among them."""
        weights: dict[str, float] = {}
        for term in terms_of(query):
            weight = _TRIGRAM_WEIGHT if term[0] == "#" else 1.0
            if term in self._postings:
                weights[term] = max(weights.get(term, 0), weight)
                continue
            for variant in self._variants.get(phonetic_key(term), ())[:8]:
                weights.setdefault(variant, _VARIANT_WEIGHT)
        return weights


def best_passage(text: str, query: Sequence[str], characters: int) -> str:
    """Return about `characters` of a text around the place richest in the query's words."""
    if len(text) <= characters:
        return text
    wanted = {stem(word) for word in query if word not in STOPWORDS}
    hits = [
        match.start()
        for match in _WORD.finditer(text.casefold() if text.isascii() else text)
        if stem(match.group().casefold()) in wanted
    ]
    best, start = 0, 0
    low = 0
    for high, position in enumerate(hits):
        while position - hits[low] > characters:
            low += 1
        if high - low + 1 > best:
            best, start = high - low + 1, max(0, hits[low] - characters // 8)
    cut = text[start : start + characters]
    return ("…" if start else "") + cut + ("…" if start + characters < len(text) else "")
