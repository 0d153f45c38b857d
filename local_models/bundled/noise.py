"""How people type: case, end marks, slips, missing apostrophes, emoji.

Owns the roughening of the questions that the bundled model is trained on; answers stay clean.
"""

from __future__ import annotations

import random
import re

_ENDS = (
    "",
    "",
    "",
    "?",
    ".",
    "!",
    "?",
    " ?",
    "??",
    "!!",
    "...",
    " 🙂",
    " 🙏",
    " 😊",
    " please",
    " pls",
)
_SHORT = {"please": "pls", "you": "u", "your": "ur", "are": "r", "what is": "whats",
          "thanks": "thx", "okay": "ok", "tomorrow": "tmrw", "with": "w/", "and": "n",
          "before": "b4"}  # fmt: skip


def roughen(rng: random.Random, text: str) -> str:
    """Return the text as somebody might type it."""
    if ", " in text and rng.random() < 0.3:
        first, _, rest = text.partition(", ")
        text = first + rng.choice(["! ", ". ", " "]) + rest[:1].upper() + rest[1:]
    kind = rng.random()
    if kind < 0.5:
        text = text[:1].upper() + text[1:]
    elif kind < 0.75:
        text = text.lower()
    elif kind < 0.78:
        text = text.upper()
    if rng.random() < 0.3:
        text = text.replace("'", "")
    if rng.random() < 0.08:
        word = rng.choice(list(_SHORT))
        text = re.sub(rf"\b{word}\b", _SHORT[word], text)
    # A slip in a sum or a number would ask for something else.
    if rng.random() < 0.14 and not any(character.isdigit() for character in text):
        text = _with_slip(rng, text)
    return text if text.endswith(("?", "!", "=")) else text + rng.choice(_ENDS)


def _with_slip(rng: random.Random, text: str) -> str:
    """Return the text with one letter swapped, dropped or doubled; digits are left alone."""
    places = [at for at in range(1, len(text) - 1) if text[at : at + 2].isalpha()]
    if not places:
        return text
    at = rng.choice(places)
    middle = rng.choice([text[at + 1] + text[at], text[at], text[at] * 2 + text[at + 1]])
    return text[:at] + middle + text[at + 2 :]
