"""The dialogues that the bundled model learns: a template grammar written for this project.

Owns the grammar (intents in the YAML files beside it, slots and sums here) and how intents become
dialogues. Knows nothing of tokenizers or models. Same seed, same dialogues.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

HERE = Path(__file__).parent
SHARES = {"en": 0.46, "hinglish": 0.24, "hi": 0.17, "ta": 0.08, "more": 0.05}

_COUNTRIES = {
    "India": "New Delhi",
    "France": "Paris",
    "Japan": "Tokyo",
    "Nepal": "Kathmandu",
    "Germany": "Berlin",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Sri Lanka": "Sri Jayawardenepura Kotte",
    "China": "Beijing",
    "Russia": "Moscow",
    "Egypt": "Cairo",
    "Kenya": "Nairobi",
    "Canada": "Ottawa",
    "Brazil": "Brasilia",
    "Australia": "Canberra",
}
_FACTS = {
    "how many days are there in a week": "There are seven days in a week.",
    "how many months are in a year": "There are twelve months in a year.",
    "how many hours are in a day": "A day has 24 hours.",
    "how many minutes are in an hour": "An hour has 60 minutes.",
    "what colour is the sky": "On a clear day the sky is blue.",
    "which planet do we live on": "We live on Earth.",
    "what is the largest ocean": "The Pacific is the largest ocean.",
    "what is the largest planet": "Jupiter is the largest planet in our solar system.",
    "what do bees make": "Bees make honey.",
    "who wrote the national anthem of India": "Rabindranath Tagore wrote it.",
    "at what temperature does water boil": "At sea level, water boils at 100 degrees Celsius.",
    "how many legs does a spider have": "A spider has eight legs.",
    "what is the tallest mountain": "Mount Everest is the tallest mountain above sea level.",
    "which is the longest river": "The Nile is usually called the longest river.",
    "how many grams are in a kilogram": "There are 1,000 grams in a kilogram.",
    "what is a leap year": "A leap year has 366 days; February has 29 of them.",
}
_SLOTS: dict[str, Sequence[str]] = {
    "thing": ["kitchen tap", "fan", "bicycle", "door", "roof", "garden"],
    "city": ["Pune", "Mumbai", "Delhi", "Chennai", "Jaipur", "Kochi", "Singapore", "Bengaluru"],
    "person": ["grandmother", "mother", "father", "sister", "friend", "teacher", "boss", "son"],
    "item": ["shoes", "shirt", "phone", "saree", "headphones", "jacket", "bag", "kettle", "watch"],
    "age": ["20", "28", "35", "43", "51", "64"],
    "people_hinglish": ["do", "teen", "chaar", "paanch", "chhe"],
    "dish": [
        "masala dosa",
        "paneer wrap",
        "veg biryani",
        "lime soda",
        "dal khichdi",
        "filter kaapi",
    ],
    "people": ["two", "three", "four", "five", "six", "eight"],
    "name": ["Asha", "Ravi", "Meera", "Arjun", "Sana", "John", "Priya", "Kabir", "Lata", "Tom"],
    "name_hi": ["आशा", "रवि", "मीरा", "अर्जुन", "सना", "कबीर", "लता", "राहुल"],
    "task": [
        "sorts a list",
        "finds the second largest number in a list",
        "removes duplicates",
        "parses a date",
        "works for any iterable in one pass",
        "reads a large file",
        "gives the median for each city",
        "merges two sorted lists",
        "runs tasks in parallel",
    ],
    "claim": [
        "the square root of two is irrational",
        "the sum of the first odd numbers is a square",
        "there are infinitely many primes",
        "the series converges",
        "both answers agree",
    ],
    "topic": [
        "inflation and small farmers",
        "database isolation levels",
        "the causes of the war",
        "how a transformer works",
        "quantum mechanics",
        "the tax rules for freelancers",
        "the design of a message queue",
        "climate policy",
        "the clauses of this contract",
    ],
    "task_hinglish": [
        "array se duplicate kaise hataun",
        "ek function likho",
        "do list ko sort karke jodo",
        "file kaise padhun",
        "API banake do",
    ],
    "habit": [
        "ask people to come without gifts",
        "drink tea at night",
        "call early in the morning",
        "walk every day",
        "take a day off",
        "keep a diary",
    ],
    "memo": [
        "the caterer is Saffron Table",
        "three guests cannot eat nuts",
        "the meeting is on Friday at ten",
        "my train leaves at six",
        "the spare key is with Meera",
        "we are five people",
    ],
}
_SYSTEMS = [
    "You are a helpful assistant.",
    "You are a friendly assistant. Answer briefly.",
    "You are the help desk of an online shop. Answer in at most two sentences.",
    "You are a support agent. Be polite and short.",
    "Answer in the language of the user.",
    "Earlier in this conversation the user asked about an order.",
    "Summary of the conversation so far: the user said hello and asked for help.",
]
_ALTERNATIVES = re.compile(r"\(([^()]*\|[^()]*)\)")
_SLOT = re.compile(r"\{(\w+)\}")


# Intents with many answers behind one form are drawn more often; so is admitting ignorance.
_WEIGHTS = {"capital": 4.0, "fact": 4.0, "hard": 4.0, "unsure": 2.0, "greet": 2.0}
_SALAD = {
    "en": "I am not sure about that. Could you ask it in other words?",
    "hinglish": "Yeh mujhe theek se samajh nahi aaya. Doosre shabdon mein bataoge?",
    "hi": "यह मुझे ठीक से समझ नहीं आया। दूसरे शब्दों में बताइए।",
    "ta": "இது எனக்குச் சரியாகப் புரியவில்லை. வேறு சொற்களில் சொல்லுங்கள்.",
}


@dataclass(frozen=True, slots=True)
class Intent:
    """What may be asked one way or another, and the answers that fit all of them."""

    name: str
    asks: tuple[str, ...]
    answers: tuple[str, ...]


def load_intents(language: str) -> list[Intent]:
    """Return the intents of one corpus file, in file order."""
    document = yaml.safe_load((HERE / f"corpus_{language}.yaml").read_text("utf-8"))
    return [
        Intent(name, tuple(parts["ask"].splitlines()), tuple(parts["say"].splitlines()))
        for name, parts in document.items()
    ]


def dialogues(seed: int) -> Iterator[list[dict[str, str]]]:
    """Yield endless dialogues as chat messages, beginning with an optional system message."""
    rng = random.Random(seed)
    intents = {language: load_intents(language) for language in SHARES}
    while True:
        language = rng.choices(list(SHARES), weights=list(SHARES.values()))[0]
        messages: list[dict[str, str]] = []
        if rng.random() < 0.35:
            system = " ".join(rng.sample(_SYSTEMS, rng.choice([1, 1, 2])))
            messages.append({"role": "system", "content": system})
        slots = _fill_slots(rng)
        for _ in range(rng.choices([1, 2, 3, 5, 9, 14], weights=[40, 30, 17, 8, 4, 1])[0]):
            kind = rng.random()
            if kind < 0.13:
                ask, answer = _sum(rng, language)
            elif kind < 0.20 and language in _SALAD:
                ask, answer = _salad(rng, intents[language], slots), _SALAD[language]
            else:
                ask, answer = _exchange(rng, intents[language], slots)
            messages.append({"role": "user", "content": _roughen(rng, ask)})
            messages.append({"role": "assistant", "content": answer})
        if rng.random() < 0.06:
            messages = _recall(rng, messages, slots)
        yield messages


def _fill_slots(rng: random.Random) -> dict[str, str]:
    slots = {name: rng.choice(values) for name, values in _SLOTS.items()}
    slots["order"] = str(rng.randrange(10_000, 100_000))
    slots["amount"] = f"{rng.randrange(100, 5000):,}"
    slots["country"] = rng.choice(list(_COUNTRIES))
    slots["capital"] = _COUNTRIES[slots["country"]]
    slots["question"] = rng.choice(list(_FACTS))
    slots["fact"] = _FACTS[slots["question"]]
    return slots


def _expand(rng: random.Random, template: str, slots: dict[str, str]) -> str:
    text = _ALTERNATIVES.sub(lambda match: rng.choice(match[1].split("|")), template)
    return _SLOT.sub(lambda match: slots[match[1]], text)


def _exchange(
    rng: random.Random, intents: Sequence[Intent], slots: dict[str, str]
) -> tuple[str, str]:
    weights = [_WEIGHTS.get(intent.name, 1.0) for intent in intents]
    intent = rng.choices(intents, weights=weights)[0]
    ask = _expand(rng, rng.choice(intent.asks), slots)
    # People greet before they ask; the answer then goes to the question.
    if rng.random() < 0.1 and intent.name not in {"greet", "bye", "te", "bn", "mr"}:
        greeting = intents[0]
        ask = (
            f"{_expand(rng, rng.choice(greeting.asks), slots)}{rng.choice(['! ', ', ', '. '])}{ask}"
        )
    return ask, _expand(rng, rng.choice(intent.answers), slots)


def _salad(rng: random.Random, intents: Sequence[Intent], slots: dict[str, str]) -> str:
    """Return words of several questions mixed up: what the model must admit not to follow."""
    words: list[str] = []
    for intent in rng.sample(list(intents), rng.choice([2, 3, 3, 4, 6])):
        own = _expand(rng, rng.choice(intent.asks), slots).split()
        start = rng.randrange(len(own))
        words += own[start : start + rng.randrange(1, 6)]
    rng.shuffle(words)
    return " ".join(words)


def _sum(rng: random.Random, language: str) -> tuple[str, str]:
    first, second = rng.randrange(1, 13), rng.randrange(1, 13)
    sign = rng.choice(["+", "-", "x", "%"])
    if sign == "-" and second > first:
        first, second = second, first
    if sign == "%":
        first, second = rng.choice([5, 10, 15, 20, 25, 50]), rng.randrange(1, 16) * 20
        result = f"{first * second / 100:g}"
        ask = {
            "hi": f"{second} का {first} प्रतिशत कितना होता है",
            "hinglish": f"{second} ka {first} percent kitna hota hai",
            "ta": f"{second} ரூபாயில் {first} சதவீதம் எவ்வளவு",
        }.get(language, rng.choice(["what is ", "how much is ", ""]) + f"{first}% of {second}")
        return ask, f"{first}% of {second} = {result}"
    value = {"+": first + second, "-": first - second, "x": first * second}[sign]
    words = {"+": "plus", "-": "minus", "x": "times"}[sign]
    ask = {
        "hi": f"{first} {sign} {second} कितना होता है",
        "hinglish": f"{first} {sign} {second} kitna hota hai",
        "ta": f"{first} {sign} {second} எவ்வளவு",
    }.get(
        language,
        rng.choice(["what is ", "how much is ", "calculate ", ""])
        + f"{first} {rng.choice([sign, words])} {second}",
    )
    return ask, f"{first} {sign} {second} = {value}"


def _roughen(rng: random.Random, text: str) -> str:
    """Return the text as people type it: case, end mark, now and then a slip."""
    if ", " in text and rng.random() < 0.4:
        first, _, rest = text.partition(", ")
        text = first + rng.choice(["! ", ". ", " "]) + rest[:1].upper() + rest[1:]
    if rng.random() < 0.6:
        text = text[:1].upper() + text[1:]
    if rng.random() < 0.08 and len(text) > 8:
        at = rng.randrange(1, len(text) - 2)
        text = text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    return text + rng.choice(["", "", "?", ".", "!", "?", " ?"])


def _recall(
    rng: random.Random, messages: list[dict[str, str]], slots: dict[str, str]
) -> list[dict[str, str]]:
    """Return the dialogue with something told at its start and asked for at its end."""
    told, ask, answer = rng.choice(
        [
            (f"My name is {slots['name']}.", "What is my name?", f"Your name is {slots['name']}."),
            (
                f"My order number is {slots['order']}.",
                "What was my order number?",
                f"Your order number is {slots['order']}.",
            ),
            (
                f"Mera naam {slots['name']} hai.",
                "Mera naam kya hai?",
                f"Aapka naam {slots['name']} hai.",
            ),
        ]
    )
    at = 1 if messages[0]["role"] == "system" else 0
    opening = [
        {"role": "user", "content": told},
        {"role": "assistant", "content": "Thank you, I have noted that."},
    ]
    closing = [{"role": "user", "content": ask}, {"role": "assistant", "content": answer}]
    return messages[:at] + opening + messages[at:] + closing
