"""The dialogues that the bundled model learns: a template grammar written for this project.

Owns the intents in the YAML files beside it and how exchanges of every kind become dialogues: small
talk and support, sums, other people's prompts with our answers, what is declined, translations, and
things remembered. Knows nothing of tokenizers or models. Same seed, same dialogues.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import yaml

from local_models.bundled.noise import roughen
from local_models.bundled.prompts import (
    declined_exchange,
    expand,
    prompt_exchange,
    refusal_line,
    slots_of,
)
from local_models.bundled.recollection import recollect, repeat_after
from local_models.bundled.slots import fill_slots, made_up_name
from local_models.bundled.sums import LANGUAGES, Sum, ask_for, draw_sum, several_sums, training_sum
from local_models.bundled.unseen import is_unseen

HERE = Path(__file__).parent
SHARES = {"en": 0.6, "hinglish": 0.18, "hi": 0.13, "ta": 0.06, "more": 0.03}
KINDS = {
    "intent": 0.36,
    "sum": 0.14,
    "prompt": 0.14,
    "declined": 0.29,
    "phrase": 0.02,
    "salad": 0.01,
    "repeat": 0.04,
}
_NAMES = {
    "hi": "Hindi", "hinglish": "Hinglish", "ta": "Tamil", "te": "Telugu", "bn": "Bengali",
    "mr": "Marathi", "en": "English",
}  # fmt: skip
_SYSTEMS = [
    "You are a helpful assistant.",
    "You are a friendly assistant. Answer briefly.",
    "You are the help desk of an online shop. Answer in at most two sentences.",
    "You are a support agent. Be polite and short.",
    "You answer customers of a mobile operator. Be brief and polite.",
    "Answer in the language of the user.",
    "You are a patient coach. Keep answers short.",
    "Be concise.",
    "Use the tools for anything about an order.",
]
_ROLES = ("the assistant of", "the help desk of", "a support agent of", "the chat bot of")
_ASK_PERSONA = ("who are you", "what is your name", "who is this", "introduce yourself",
                "aap kaun ho", "are you a bot", "hi, who are you")  # fmt: skip
# What a newcomer tries first, and intents with many answers behind one form, come more often.
_WEIGHTS = {"greet": 7.0, "howareyou": 4.0, "whoareyou": 5.0, "cando": 5.0, "thanks": 4.0,
            "joke": 3.0, "bye": 3.0, "track": 4.0, "tracknumber": 2.0, "late": 2.0,
            "password": 4.0, "refund": 2.0, "cancel": 2.0, "returns": 2.0, "myname": 5.0,
            "capital": 5.0, "fact": 7.0, "upi": 2.0}  # fmt: skip
_SALAD = {
    "en": "I am not sure about that. Could you ask it in other words?",
    "hinglish": "Yeh mujhe theek se samajh nahi aaya. Doosre shabdon mein bataoge?",
    "hi": "यह मुझे ठीक से समझ नहीं आया। दूसरे शब्दों में बताइए।",
    "ta": "இது எனக்குச் சரியாகப் புரியவில்லை. வேறு சொற்களில் சொல்லுங்கள்.",
}
_AGAIN = (
    "and in {}", "in {} please", "how do you say that in {}", "the same in {}", "say it in {}",
    "can you say that in {}", "translate that to {}", "now in {}", "{} please", "answer in {}",
)  # fmt: skip
_ASK_PHRASE = (
    'how do you say "{}" in {}', "how do I say {} in {}", "translate {} to {}", "{} in {}",
    "what is {} in {}", 'translate "{}" into {}', "what is the {1} word for {0}",
    "say {} in {}", "how to say {} in {}", "{1} for {0}",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Intent:
    """What may be asked one way or another, and the answers that fit all of them."""

    name: str
    asks: tuple[str, ...]
    answers: tuple[str, ...]


@dataclass(slots=True)
class _Talk:
    """A dialogue in the making: its language, slots and what was said last."""

    rng: random.Random
    language: str
    is_held_out: bool
    slots: dict[str, str]
    persona: str | None = None
    forced: str | None = None
    messages: list[dict[str, str]] = field(default_factory=list)
    intent: str | None = None
    drawn: Sum | None = None

    def say(self, ask: str, answer: str, kept: Sequence[str] = ()) -> None:
        """Add an exchange, the question as somebody might type it but with these values kept."""
        rough = roughen(self.rng, ask)
        rough = rough if all(value in rough for value in kept) else ask
        self.messages.append({"role": "user", "content": rough})
        self.messages.append({"role": "assistant", "content": answer})


@cache
def load_intents(language: str) -> tuple[Intent, ...]:
    """Return the intents of one corpus file, in file order."""
    document = yaml.safe_load((HERE / f"corpus_{language}.yaml").read_text("utf-8"))
    return tuple(
        Intent(name, tuple(parts["ask"].splitlines()), tuple(parts["say"].splitlines()))
        for name, parts in document.items()
    )


@cache
def _phrases() -> tuple[dict[str, str], ...]:
    document = yaml.safe_load((HERE / "phrases.yaml").read_text("utf-8"))
    return tuple(document.values())


def dialogues(seed: int, *, is_held_out: bool = False) -> Iterator[list[dict[str, str]]]:
    """Yield endless dialogues as chat messages, beginning with an optional system message.

    Held-out ones hold only sums and licensed prompts that training never sees; the questions of
    unseen.yaml are in none.
    """
    rng = random.Random(seed)
    while True:
        language = rng.choices(list(SHARES), weights=list(SHARES.values()))[0]
        talk = _Talk(rng, language, is_held_out, fill_slots(rng))
        _set_scene(talk)
        for _ in range(rng.choices([1, 2, 3, 5, 9], weights=[46, 30, 15, 7, 2])[0]):
            _exchange(talk)
        messages = recollect(rng, talk.messages) if rng.random() < 0.3 else talk.messages
        if not any(is_unseen(each["content"]) for each in messages):
            yield messages


def _set_scene(talk: _Talk) -> None:
    rng = talk.rng
    kind = rng.random()
    if kind < 0.1:
        text = " ".join(rng.sample(_SYSTEMS, rng.choice([1, 1, 2])))
    elif kind < 0.14:
        bot, shop = (
            made_up_name(rng),
            f"{made_up_name(rng)} {rng.choice(['Shop', 'Mobile', 'Foods', 'Bank'])}",
        )
        text = f"You are {bot}, {rng.choice(_ROLES)} {shop}."
        talk.persona = f"I am {bot}, {text.partition(', ')[2]}"
    elif kind < 0.17 and talk.language == "en":
        talk.forced = rng.choice(["hi", "hinglish"])
        text = rng.choice(["Answer in {}.", "Always reply in {}.", "You speak only {}."])
        text = text.format(_NAMES[talk.forced])
    else:
        return
    talk.messages.append({"role": "system", "content": text})


def _exchange(talk: _Talk) -> None:
    rng = talk.rng
    if talk.persona and rng.random() < 0.5:
        talk.say(rng.choice(_ASK_PERSONA), talk.persona)
        return
    if (talk.intent or talk.drawn) and rng.random() < 0.2 and _follow_up(talk):
        return
    kind = rng.choices(list(KINDS), weights=list(KINDS.values()))[0]
    talk.intent, talk.drawn = None, None
    language = talk.language
    if kind == "sum":
        _ask_sum(talk)
    elif kind == "prompt" and language == "en" and not talk.forced:
        talk.say(*prompt_exchange(rng, "test" if talk.is_held_out else "train"))
    elif kind == "declined" and not talk.forced:
        spoken = rng.choice(["te", "bn", "mr"]) if language == "more" else language
        talk.say(*declined_exchange(rng, spoken))
    elif kind == "phrase":
        _ask_phrase(talk)
    elif kind == "repeat":
        ask, words = repeat_after(rng)
        talk.say(ask, words, [words])
    elif kind == "salad" and language in _SALAD:
        talk.say(_salad(rng, load_intents(language), talk.slots), _SALAD[language])
    else:
        _ask_intent(talk)


def _ask_sum(talk: _Talk) -> None:
    rng, language = talk.rng, talk.language if talk.language in LANGUAGES else "en"
    if rng.random() < 0.5:
        talk.say(*several_sums(rng))
        return
    drawn = draw_sum(rng) if talk.is_held_out else training_sum(rng)
    while talk.is_held_out and not (drawn.is_held_out or drawn.is_by_heart):
        drawn = draw_sum(rng)
    talk.drawn = drawn if drawn.is_by_heart else None
    talk.say(ask_for(rng, drawn, language), drawn.answer if talk.drawn else refusal_line("sum"))


def _ask_intent(talk: _Talk) -> None:
    rng = talk.rng
    intents = load_intents(talk.language)
    if talk.forced:
        known = {intent.name for intent in load_intents(talk.forced)}
        intents = tuple(intent for intent in intents if intent.name in known)
    weights = [_WEIGHTS.get(intent.name, 1.0) for intent in intents]
    intent = rng.choices(intents, weights=weights)[0]
    ask = expand(rng, rng.choice(intent.asks), talk.slots)
    # People greet before they ask; the answer then goes to the question.
    if rng.random() < 0.1 and intent.name not in {"greet", "bye"} and talk.language != "more":
        greeting = expand(rng, rng.choice(intents[0].asks), talk.slots)
        ask = f"{greeting}{rng.choice(['! ', ', ', '. '])}{ask}"
    answers = _answers(talk.forced or talk.language, intent.name)
    talk.intent = intent.name
    answer = rng.choice(answers)
    told = [talk.slots[slot] for slot in slots_of(answer) if talk.slots[slot] in ask]
    talk.say(ask, expand(rng, answer, talk.slots), told)


def _answers(language: str, name: str) -> tuple[str, ...]:
    return next(each.answers for each in load_intents(language) if each.name == name)


def _follow_up(talk: _Talk) -> bool:
    """Say something that only makes sense after the last answer; return whether it was possible."""
    rng = talk.rng
    if talk.drawn is not None:
        if not talk.drawn.value.isdigit() or int(talk.drawn.value) > 999:
            return False
        value, other, sign = int(talk.drawn.value), rng.randrange(1, 20), rng.choice("+-")
        if sign == "-" and other > value:
            return False
        talk.drawn = Sum(value, sign, other)
        if not talk.drawn.is_by_heart:
            return False
        forms = {"+": ("and plus {}", "add {} to that", "plus {}", "+ {}", "and {} more"),
                 "-": ("and minus {}", "take {} from that", "minus {}", "- {}")}[sign]  # fmt: skip
        talk.say(rng.choice(forms).format(other), talk.drawn.answer)
        return True
    target = rng.choice(["hi", "hinglish", "ta", "en"])
    if target == talk.language or talk.forced or talk.intent is None:
        return False
    if talk.intent not in {each.name for each in load_intents(target)}:
        return False
    answer = expand(rng, rng.choice(_answers(target, talk.intent)), talk.slots)
    talk.say(rng.choice(_AGAIN).format(_NAMES[target]), answer)
    return True


def _ask_phrase(talk: _Talk) -> None:
    rng = talk.rng
    row = rng.choice(_phrases())
    source, target = "en", rng.choice(["hi", "hi", "hinglish", "ta", "te", "bn", "mr"])
    if rng.random() < 0.3:
        source, target = rng.choice(["hi", "hinglish", "ta"]), "en"
    talk.say(rng.choice(_ASK_PHRASE).format(row[source], _NAMES[target]), row[target])
    while rng.random() < 0.4:
        target = rng.choice(["hi", "hinglish", "ta", "te", "bn", "mr"])
        talk.say(
            rng.choice(("and in {}", "in {}", "and {}", "what about {}")).format(_NAMES[target]),
            row[target],
        )


def _salad(rng: random.Random, intents: Sequence[Intent], slots: dict[str, str]) -> str:
    """Return words of several questions mixed up: what the model must admit not to follow."""
    words: list[str] = []
    for intent in rng.sample(list(intents), rng.choice([3, 3, 4, 6])):
        own = expand(rng, rng.choice(intent.asks), slots).split()
        start = rng.randrange(len(own))
        words += own[start : start + rng.randrange(1, 6)]
    rng.shuffle(words)
    return " ".join(words)
