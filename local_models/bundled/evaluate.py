"""What the bundled model gets right: `python -m local_models.bundled.evaluate`.

Greedy through the engine's own int8 path. Owns the questions' selection and what counts as right;
training sees none of the unseen questions, sums past the tables, prompts and made-up values.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from local_models.bundled.corpus import load_intents
from local_models.bundled.prompts import (
    declined_exchange,
    groups,
    prompts,
    refusal_line,
    refusal_lines,
)
from local_models.bundled.recollection import HEADER, recollect
from local_models.bundled.sums import Sum, ask_for, draw_sum
from local_models.bundled.unseen import newcomer_conversations, unseen_questions
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


def converse(engine: Engine, codec: TextCodec, turns: Sequence[str]) -> Messages:
    """Return the conversation in which these are the user's turns and the model answers each."""
    messages: Messages = []
    for turn in turns:
        messages.append({"role": "user", "content": turn})
        reply = ask(engine, codec, [messages])[0]
        messages.append({"role": "assistant", "content": reply})
    return messages


def heart_questions(rng: random.Random, count: int) -> list[Question]:
    """Return small sums, answered by heart; training sees all of them."""
    drawn = [each for each in (draw_sum(rng, "+-x/") for _ in range(9 * count)) if each.is_by_heart]
    return [_question(f"what is {each.text}?", each.answer) for each in drawn[:count]]


def long_sum_questions(rng: random.Random, sign: str, count: int) -> list[Question]:
    """Return sums of one kind past the tables that training never saw; right is to decline."""
    found: dict[Sum, Question] = {}
    while len(found) < count:
        drawn = draw_sum(rng, sign)
        if drawn.is_held_out:
            found[drawn] = _question(ask_for(rng, drawn, "en"), refusal_line("sum"))
    return list(found.values())


def right_answers(language: str, names: Sequence[str]) -> tuple[str, ...]:
    """Return the answers of these intents; `declined` stands for every line that declines."""
    right: list[str] = []
    for name in names:
        if name == "declined":
            right += refusal_lines(language)
        elif name in ("code", "text"):
            right.append(refusal_line(name, language))
        else:
            intents = [each for each in load_intents(language) if each.name == name]
            right += [answer for each in intents for answer in each.answers if "{" not in answer]
            right += groups().get(name, ()) if language == "en" else ()
    return tuple(right)


def hand_written_questions(language: str, *, are_declined: bool) -> list[Question]:
    """Return the questions of unseen.yaml in a language, those to be declined or the others."""
    return [
        _question(text, *right_answers(language, names))
        for each, names, text in unseen_questions()
        if each == language and bool({"declined", "code", "text"} & set(names)) == are_declined
    ]


def prompt_questions(rng: random.Random, count: int) -> list[Question]:
    """Return in-scope test prompts of CLINC150 and BANKING77; right is any answer of the group."""
    pairs = [(name, text) for name, texts in prompts("test").items() for text in texts]
    pairs = [(name, text) for name, text in pairs if groups()[name]]
    return [_question(text, *groups()[name]) for name, text in rng.sample(pairs, count)]


def outside_questions(rng: random.Random, count: int) -> list[Question]:
    """Return test prompts of what is declined: CLINC150's out of scope, spelling, definitions."""
    asked = rng.sample(prompts("test")["refuse"], count)
    return [_question(text, *refusal_lines()) for text in asked]


def declined_questions(rng: random.Random, count: int) -> list[Question]:
    """Return questions of our own grammar that must be declined, each for what it is."""
    return [_question(*declined_exchange(rng, "en")) for _ in range(count)]


def recall_questions(rng: random.Random, place: str, count: int) -> list[Question]:
    """Return dialogues that ask for a made-up value from the talk, from memory, or never told."""
    found: list[Question] = []
    while len(found) < count:
        talk = recollect(rng, [])
        if _place(talk) == place:
            found.append(Question(talk[:-1], (talk[-1]["content"],)))
    return found


def _place(talk: Messages) -> str:
    if any(line in talk[-1]["content"] for line in ("not told me", "nahi bataya", "नहीं बताया")):
        return "never told"
    is_quoted = any(each["content"].startswith((HEADER, "[Summary")) for each in talk)
    return "memory" if is_quoted else "talk"


def _question(text: str, *endings: str) -> Question:
    return Question([{"role": "user", "content": text}], endings)


def _kinds(count: int) -> dict[str, list[Question]]:
    rng = random.Random(SEED)
    return {
        **{
            f"unseen, written by hand, {language}": hand_written_questions(
                language, are_declined=False
            )
            for language in ("en", "hinglish", "hi", "ta")
        },
        **{
            f"unseen, to be declined, {language}": hand_written_questions(
                language, are_declined=True
            )
            for language in ("en", "hinglish", "hi")
        },
        "sums by heart": heart_questions(rng, count),
        **{
            f"longer sums declined, {sign}": long_sum_questions(rng, sign, count) for sign in "+-x/"
        },
        "test prompts in scope": prompt_questions(rng, 2 * count),
        "out of scope declined (CLINC150)": outside_questions(rng, 2 * count),
        "out of scope declined (own grammar)": declined_questions(rng, count),
        **{
            f"made-up values, {place}": recall_questions(rng, place, count)
            for place in ("talk", "memory", "never told")
        },
    }


def main() -> int:
    """Print one line per kind of question."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--count", type=int, default=100, help="questions of each kind")
    parser.add_argument("--wrong", type=int, default=0, help="show so many wrong answers a kind")
    options = parser.parse_args()
    engine = load_engine(EngineConfig(model=options.model))
    codec = TextCodec.from_folder(BUNDLED if options.model == "bundled" else Path(options.model))
    for turns, right in newcomer_conversations():
        reply = converse(engine, codec, turns)[-1]["content"]
        sys.stdout.write(f"{'right' if reply in right else 'WRONG'}: {turns[-1]} -> {reply}\n")
    for name, questions in _kinds(options.count).items():
        replies = ask(engine, codec, [question.messages for question in questions])
        pairs = list(zip(questions, replies, strict=True))
        wrong = [(asked, reply) for asked, reply in pairs if not reply.endswith(asked.endings)]
        n_declined = sum(reply.endswith(refusal_lines()) for _, reply in wrong)
        sys.stdout.write(
            f"{name}: {1 - len(wrong) / len(pairs):.1%} of {len(pairs)}; of the wrong ones "
            f"{n_declined} declined, {len(wrong) - n_declined} were something else\n"
        )
        for question, reply in wrong[: options.wrong]:
            sys.stdout.write(f"    {question.messages[-1]['content']!r} -> {reply!r}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
