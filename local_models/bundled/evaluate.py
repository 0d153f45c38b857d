"""What the bundled model gets right: `python -m local_models.bundled.evaluate`.

Greedy through the engine's own int8 path. Owns the questions' selection and what counts as right;
training sees none of the sums, prompts and made-up values asked here.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from local_models.bundled.prompts import (
    declined_exchange,
    groups,
    prompts,
    refusal_lines,
)
from local_models.bundled.recollection import recollect
from local_models.bundled.sums import Sum, ask_for, draw_sum
from local_models.config import EngineConfig
from local_models.engine import Engine, load_engine
from local_models.sequence import SamplingParams
from local_models.store import BUNDLED
from local_models.text import TextCodec

SEED = 9_000_001
LONGEST_REPLY_TOKENS = 160
Messages = list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Question:
    """A conversation up to the assistant's turn; right is a reply with one of these endings."""

    messages: Messages
    endings: tuple[str, ...]


def ask(engine: Engine, codec: TextCodec, asked: Sequence[Messages]) -> list[str]:
    """Return the model's greedy replies."""
    encoded = [codec.encode_chat(messages) for messages in asked]
    replies = engine.generate(encoded, SamplingParams(temperature=0), LONGEST_REPLY_TOKENS)
    return [codec.tokenizer.decode(tokens) for tokens in replies]


def refusals() -> tuple[str, ...]:
    """Return the English sentences that decline."""
    return refusal_lines() + refusal_lines("sum")


def sum_questions(rng: random.Random, sign: str, count: int) -> list[Question]:
    """Return sums of one kind that training never saw, as English questions."""
    found: dict[Sum, Question] = {}
    while len(found) < count:
        drawn = draw_sum(rng, sign)
        if drawn.is_held_out:
            found[drawn] = _question(ask_for(rng, drawn, "en"), f"{drawn.text} = {drawn.value}")
    return list(found.values())


def heart_questions(rng: random.Random, count: int) -> list[Question]:
    """Return small sums, answered by heart; training sees all of them."""
    drawn = [each for each in (draw_sum(rng, "+-x/") for _ in range(9 * count)) if each.is_by_heart]
    return [
        _question(f"what is {each.text}?", f"{each.text} = {each.value}") for each in drawn[:count]
    ]


def prompt_questions(rng: random.Random, count: int) -> list[Question]:
    """Return in-scope test prompts of CLINC150 and BANKING77; right is any answer of the group."""
    pairs = [(name, text) for name, texts in prompts("test").items() for text in texts]
    pairs = [(name, text) for name, text in pairs if groups()[name]]
    return [_question(text, *groups()[name]) for name, text in rng.sample(pairs, count)]


def outside_questions(rng: random.Random, count: int) -> list[Question]:
    """Return test prompts of what is declined: CLINC150's out of scope, spelling, definitions."""
    asked = rng.sample(prompts("test")["refuse"], count)
    return [_question(text, *refusals()) for text in asked]


def declined_questions(rng: random.Random, count: int) -> list[Question]:
    """Return questions of our own grammar that must be declined."""
    asked = [declined_exchange(rng, "en")[0] for _ in range(count)]
    return [_question(text, *refusals()) for text in asked]


def recall_questions(rng: random.Random, count: int) -> list[Question]:
    """Return dialogues that ask for something told before, quoted, or never told."""
    talks = [recollect(rng, []) for _ in range(count)]
    return [Question(talk[:-1], (talk[-1]["content"],)) for talk in talks]


def _question(text: str, *endings: str) -> Question:
    return Question([{"role": "user", "content": text}], endings)


def main() -> int:
    """Print one line per kind of question."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--count", type=int, default=100, help="questions of each kind")
    parser.add_argument("--wrong", type=int, default=0, help="show so many wrong answers a kind")
    options = parser.parse_args()
    engine = load_engine(EngineConfig(model=options.model))
    codec = TextCodec.from_folder(BUNDLED if options.model == "bundled" else Path(options.model))
    rng, n = random.Random(SEED), options.count
    kinds = {
        "sums by heart": heart_questions(rng, n),
        **{f"held-out sums, {sign}": sum_questions(rng, sign, n) for sign in "+-x/"},
        "held-out support and small talk": prompt_questions(rng, 2 * n),
        "out of scope declined (CLINC150)": outside_questions(rng, 2 * n),
        "out of scope declined (own grammar)": declined_questions(rng, n),
        "recalled from talk, memory, summary": recall_questions(rng, n),
    }
    for name, questions in kinds.items():
        replies = ask(engine, codec, [question.messages for question in questions])
        pairs = list(zip(questions, replies, strict=True))
        wrong = [(asked, reply) for asked, reply in pairs if not reply.endswith(asked.endings)]
        n_declined = sum(reply.endswith(refusals()) for _, reply in wrong)
        sys.stdout.write(
            f"{name}: {1 - len(wrong) / len(pairs):.1%} of {len(pairs)}; of the wrong ones "
            f"{n_declined} declined, {len(wrong) - n_declined} were something else\n"
        )
        for question, reply in wrong[: options.wrong]:
            sys.stdout.write(f"    {question.messages[-1]['content']!r} -> {reply!r}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
