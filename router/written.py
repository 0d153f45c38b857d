"""Turns written for this project: phrases one by one, and asks drawn from a small grammar.

Owns how hard each kind is taken to be, which is set by hand: no outcomes exist for open requests.
Topics and names of the grammar stand in every kind of ask, so that what is asked for is learned
and not what it is about.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from router.dataset import Example

PHRASES_FILE = Path(__file__).with_name("phrases.tsv")
ASKS_FILE = Path(__file__).with_name("asks.tsv")
# The share of such turns that a small model is taken to fail: talk; one-line asks; writing and
# playing a part; explaining what every textbook has; what takes study; what has to be exact; what
# has to be worked out; and what experts are asked. The rest of the phrases have none.
_LEVELS = {
    "chat": 0.03,
    "easy": 0.1,
    "plain": 0.15,
    "explained": 0.22,
    "studied": 0.35,
    "exact": 0.5,
    "worked": 0.65,
    "hard": 0.85,
}
ASKS_PER_KIND = 500
_SLOT = re.compile(r"\{(\w+)\}")


def read_written(seed: int) -> list[Example]:
    """Return the phrases and the asks that a seed draws."""
    return [*read_phrases(), *drawn_asks(random.Random(seed))]


def read_phrases(path: Path = PHRASES_FILE) -> list[Example]:
    """Return small talk, short replies, and asks of every kind.

    Easy and hard ones are of one length, so that length alone cannot tell them apart.
    """
    examples = []
    for kind, language, text in _lines(path):
        kind, _, task = kind.partition(":")
        is_reply = kind == "follow_up"
        examples.append(_example("phrases", kind, task, text, language, needs_context=is_reply))
    return examples


def drawn_asks(
    draw: random.Random, per_kind: int = ASKS_PER_KIND, path: Path = ASKS_FILE
) -> Iterator[Example]:
    """Yield asks made from templates, `per_kind` for each kind and task."""
    slots: dict[str, list[str]] = {}
    templates: dict[tuple[str, str], list[str]] = defaultdict(list)
    for kind, name, text in _lines(path):
        if kind == "slot":
            slots[name] = text.split("|")
        else:
            templates[kind, name].append(text)
    for (kind, task), texts in templates.items():
        for number in range(per_kind):
            text = _filled(texts[number % len(texts)], slots, draw)
            yield _example("asks", kind, task, text, "en", needs_context=False)


def _lines(path: Path) -> Iterator[list[str]]:
    for line in path.read_text("utf-8").split("\n"):
        if line and not line.startswith("#"):
            yield line.split("\t")


def _filled(template: str, slots: dict[str, list[str]], draw: random.Random) -> str:
    """Return the template with every slot drawn; a slot that comes again gets another value."""
    left = {name: draw.sample(values, len(values)) for name, values in slots.items()}
    return _SLOT.sub(lambda slot: left[slot[1]].pop(), template)


def _example(
    source: str, kind: str, task: str, text: str, language: str, *, needs_context: bool
) -> Example:
    return Example(
        source=source,
        text=text,
        task=task or "chat",
        domain=None if task else "general",
        language=language,
        is_unsafe=False,
        needs_context=needs_context,
        level=_LEVELS.get(kind, float("nan")),
    )
