"""Examples as the numbers that training needs, with copies that ask the same in other words.

Owns which rows of a source are drawn and where in a conversation an example is taken to stand.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from memory.conversation import Message
from router.augment import augmented
from router.dataset import Example, by_source
from router.features import FACTS, turn_text_of
from router.network import Floats
from router.targets import levels
from router.tokens import UNKNOWN, Vocabulary, words_of

# No source gives more rows than this: intents of banking and of an assistant repeat themselves.
MOST_ROWS_OF_A_SOURCE = 5000
# What cannot be read is no harder for that: some copies of everyday and open turns lose most words.
UNREAD_FORMATS = ("everyday", "open")
UNREAD_SHARE = 0.3
# Few, and written to teach what no source does.
COPIES_OF_PHRASES = 3


@dataclass(frozen=True, slots=True)
class Prepared:
    """Examples as numbers; copies that ask the same in other words stand after the originals.

    level: float32 [examples], the chance that a small model fails, NaN where unknown.
    """

    examples: list[Example]
    ids: list[NDArray[np.int32]]
    facts: Floats
    level: Floats

    def without(self, sources: Collection[str]) -> Prepared:
        """Return the examples of all other sources."""
        rows = [row for row, e in enumerate(self.examples) if e.source not in sources]
        return Prepared(
            [self.examples[row] for row in rows],
            [self.ids[row] for row in rows],
            self.facts[rows],
            self.level[rows],
        )


def prepare(examples: Sequence[Example], vocabulary: Vocabulary, *, seed: int) -> Prepared:
    """Return examples, sampled and with copies, as the numbers that training needs."""
    draw = random.Random(seed)
    examples = _sampled(examples, draw)
    level = levels(examples)
    copied = [row for row, example in enumerate(examples) if _deserves_copy(example, draw)]
    copied += COPIES_OF_PHRASES * [r for r, e in enumerate(examples) if e.source == "phrases"]
    rows = [*range(len(examples)), *copied]
    copies = [replace(examples[r], text=augmented(examples[r].text, draw)) for r in copied]
    examples = [*examples, *copies]
    reads = [turn_text_of([Message("user", example.text)]) for example in examples]
    ids = [vocabulary.ids_of(words_of(read.current)) for read in reads]
    for row in range(len(level), len(ids)):
        if (
            examples[row].source != "phrases"
            and examples[row].format in UNREAD_FORMATS
            and draw.random() < UNREAD_SHARE
        ):
            ids[row] = _unread(ids[row], draw)
    return Prepared(
        examples,
        ids,
        np.array([_placed(read.facts, draw) for read in reads], np.float32),
        level[rows],
    )


def _unread(ids: NDArray[np.int32], draw: random.Random) -> NDArray[np.int32]:
    """Return tokens of which most are unknown, as those of a language without a lexicon."""
    share = draw.uniform(0.5, 1.0)
    return np.array([UNKNOWN if draw.random() < share else token for token in ids], np.int32)


def _sampled(examples: Sequence[Example], draw: random.Random) -> list[Example]:
    kept = []
    for rows in by_source(list(examples)).values():
        chosen = rows.tolist()
        # Steps of solutions differ from row to row, intents do not.
        if len(chosen) > MOST_ROWS_OF_A_SOURCE and examples[chosen[0]].source != "gsm8k_train":
            chosen = draw.sample(chosen, MOST_ROWS_OF_A_SOURCE)
        kept += sorted(chosen)
    return [examples[row] for row in kept]


def _deserves_copy(example: Example, draw: random.Random) -> bool:
    is_judged = bool(example.scores) or np.isfinite(example.level)
    return draw.random() < (0.6 if is_judged else 0.5)


def _placed(facts: Sequence[float], draw: random.Random) -> tuple[float, ...]:
    """Return the facts of a turn as if it stood somewhere in a conversation.

    Where it stands is drawn, because no source tells: so nothing is learned from it.
    """
    placed = dict(zip(FACTS, facts, strict=True))
    if draw.random() < 0.6:
        placed["follows_answer"] = 1.0
        placed["answers_question"] = float(draw.random() < 0.3)
        placed["turn"] = float(np.log1p(draw.randint(2, 40)) / 3)
    return tuple(placed.values())
