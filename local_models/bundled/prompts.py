"""Prompts that people wrote (CLINC150, BANKING77), our answers to them, and what is declined.

Owns the reading of prompts.jsonl.gz, answers.yaml and refusals.yaml. The prompts are other people's
(CC BY 3.0 and CC BY 4.0, see the card); every answer was written for this project.
"""

from __future__ import annotations

import gzip
import json
import random
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from local_models.bundled.sums import long_sum

HERE = Path(__file__).parent
_ALTERNATIVES = re.compile(r"\(([^()]*\|[^()]*)\)")
_KINDS = {"open": 0.6, "code": 0.25, "text": 0.15}
_SLOT = re.compile(r"\{(\w+)\}")


@cache
def groups() -> dict[str, tuple[str, ...]]:
    """Return the answers of each group; the group `refuse` is answered by declining."""
    document = yaml.safe_load((HERE / "answers.yaml").read_text("utf-8"))
    return {name: tuple(part["say"]) for name, part in document.items()}


@cache
def prompts(split: str) -> dict[str, tuple[str, ...]]:
    """Return the prompts of each group in the training or test split, as they were written."""
    document = yaml.safe_load((HERE / "answers.yaml").read_text("utf-8"))
    group_of = {intent: name for name, part in document.items() for intent in part["for"].split()}
    found: dict[str, list[str]] = {name: [] for name in document}
    with gzip.open(HERE / "prompts.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if row["split"] == split and row["intent"] in group_of:
                found[group_of[row["intent"]]].append(row["text"])
    return {name: tuple(texts) for name, texts in found.items()}


@dataclass(frozen=True, slots=True)
class _Refusals:
    """By language and kind of question: how it is asked, and the one line that declines it."""

    say: dict[str, dict[str, str]]
    ask: dict[str, dict[str, list[str]]]
    words: dict[str, list[str]]


@cache
def _refusals() -> _Refusals:
    document = yaml.safe_load((HERE / "refusals.yaml").read_text("utf-8"))
    return _Refusals(
        document["say"],
        {
            language: {kind: text.splitlines() for kind, text in kinds.items()}
            for language, kinds in document["ask"].items()
        },
        {name: text.split("; ") for name, text in document["words"].items()},
    )


def refusal_line(kind: str, language: str = "en") -> str:
    """Return the line that declines a kind of question: open, code, text or sum."""
    return _refusals().say[language][kind]


def refusal_lines(language: str = "en") -> tuple[str, ...]:
    """Return all lines with which the model declines in a language."""
    return tuple(_refusals().say[language].values())


def expand(rng: random.Random, template: str, slots: dict[str, str]) -> str:
    """Return the template with one alternative chosen of each (a|b) and its {slots} filled."""
    text = _ALTERNATIVES.sub(lambda match: rng.choice(match[1].split("|")), template)
    return _SLOT.sub(lambda match: slots[match[1]], text)


def slots_of(template: str) -> list[str]:
    """Return the names of the template's slots, in order."""
    return _SLOT.findall(template)


def prompt_exchange(rng: random.Random, split: str) -> tuple[str, str]:
    """Return a prompt of the licensed sets and an answer; half are out of scope."""
    if rng.random() < 0.55:
        return rng.choice(prompts(split)["refuse"]), refusal_line("open")
    texts = {name: each for name, each in prompts(split).items() if each and name != "refuse"}
    name = rng.choices(list(texts), weights=[len(each) ** 0.5 for each in texts.values()])[0]
    return rng.choice(texts[name]), rng.choice(groups()[name])


def declined_exchange(rng: random.Random, language: str) -> tuple[str, str]:
    """Return a question that the model must decline, and how it declines."""
    if language == "en" and rng.random() < 0.12:
        return long_sum(rng), refusal_line("sum")
    parts = _refusals()
    kinds = parts.ask[language]
    kind = rng.choices(list(kinds), weights=[_KINDS[kind] for kind in kinds])[0]
    text = expand_words(rng, rng.choice(kinds[kind]), parts.words)
    return text, refusal_line(kind, language)


def expand_words(rng: random.Random, template: str, words: dict[str, list[str]]) -> str:
    """Return the template with alternatives chosen and each slot drawn anew from its words."""
    text = _ALTERNATIVES.sub(lambda match: rng.choice(match[1].split("|")), template)
    text = _SLOT.sub(lambda match: rng.choice(words[match[1]]), text)
    return " ".join(text.replace("the a ", "the ").replace("the the ", "the ").split())
