"""Prompts that people wrote (CLINC150, BANKING77), our answers to them, and what is declined.

Owns the reading of prompts.jsonl.gz, answers.yaml and refusals.yaml. The prompts are other people's
(CC BY 3.0 and CC BY 4.0, see the card); every answer was written for this project.
"""

from __future__ import annotations

import gzip
import json
import random
import re
from functools import cache
from pathlib import Path

import yaml

from local_models.bundled.sums import long_sum

HERE = Path(__file__).parent
_ALTERNATIVES = re.compile(r"\(([^()]*\|[^()]*)\)")
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


@cache
def _refusals() -> dict[str, dict[str, list[str]]]:
    document = yaml.safe_load((HERE / "refusals.yaml").read_text("utf-8"))
    return {
        "say": document["say"],
        "ask": {language: text.splitlines() for language, text in document["ask"].items()},
        "words": {name: text.split("; ") for name, text in document["words"].items()},
    }


def refusal_lines(language: str = "en") -> tuple[str, ...]:
    """Return the sentences with which the model declines in a language, or a long `sum`."""
    return tuple(_refusals()["say"][language])


def expand(rng: random.Random, template: str, slots: dict[str, str]) -> str:
    """Return the template with one alternative chosen of each (a|b) and its {slots} filled."""
    text = _ALTERNATIVES.sub(lambda match: rng.choice(match[1].split("|")), template)
    return _SLOT.sub(lambda match: slots[match[1]], text)


def prompt_exchange(rng: random.Random, split: str) -> tuple[str, str]:
    """Return a prompt of the licensed sets and an answer; every third is out of scope."""
    if rng.random() < 0.34:
        return rng.choice(prompts(split)["refuse"]), rng.choice(refusal_lines())
    texts = {name: each for name, each in prompts(split).items() if each and name != "refuse"}
    name = rng.choices(list(texts), weights=[len(each) ** 0.5 for each in texts.values()])[0]
    return rng.choice(texts[name]), rng.choice(groups()[name])


def declined_exchange(rng: random.Random, language: str) -> tuple[str, str]:
    """Return a question that the model must decline, and how it declines."""
    if rng.random() < 0.2:
        return long_sum(rng), refusal_lines("sum")[0]
    parts = _refusals()
    text = expand_words(rng, rng.choice(parts["ask"][language]), parts["words"])
    return text, rng.choice(refusal_lines(language))


def expand_words(rng: random.Random, template: str, words: dict[str, list[str]]) -> str:
    """Return the template with alternatives chosen and each slot drawn anew from its words."""
    text = _ALTERNATIVES.sub(lambda match: rng.choice(match[1].split("|")), template)
    text = _SLOT.sub(lambda match: rng.choice(words[match[1]]), text)
    return " ".join(text.replace("the a ", "the ").replace("the the ", "the ").split())
