"""How a question is put to the encoder: as asked, and as those whom it names would put it.

People speak of themselves as "I", and their names stand in what others tell them. Pure functions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

from memory.embedder import Encoding


def phrasings(query: str, names: Iterable[str]) -> tuple[str, ...]:
    """Return the query and, where it names speakers, the query with "I" and "my" in their place.

    Args:
        query: the user's words.
        names: of those who speak in the conversation.
    """
    spoken = query
    lowered = query.casefold()
    for name in sorted(names, key=len, reverse=True):
        if name.casefold() in lowered:
            pattern = rf"(?<!\w){re.escape(name)}(?P<of>['\u2019]s)?(?!\w)"
            spoken = re.sub(pattern, _first_person, spoken, flags=re.IGNORECASE)
    return (query,) if spoken == query else (query, spoken)


def joined(encodings: Sequence[Encoding]) -> Encoding:
    """Return one encoding with the tokens of all: each phrasing asks for itself."""
    if len(encodings) == 1:
        return encodings[0]
    tokens = np.concatenate([encoding.tokens for encoding in encodings])
    return Encoding(encodings[0].sentence, tokens)


def _first_person(match: re.Match[str]) -> str:
    return "my" if match["of"] else "I"
