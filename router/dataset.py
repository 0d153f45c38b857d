"""Labelled turns: read from a data folder, checked, and brought to one shape.

Owns which sources may shape the shipped weights: those whose licence asks for more than
attribution, or is unclear, are read for evaluation only.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

# Share-alike text (SIB-200, XQuAD, TOP, ARC, Natural Questions), or text whose origin has terms
# that are not those of the repository it was found in: never used to fit anything that ships.
EVALUATION_ONLY = frozenset(
    {
        "sib200",
        "xquad_hi",
        "hinglish_top",
        "arc_challenge",
        "natural_qa",
        "mmlu",  # of llmrouter: reading comprehension of unclear origin
        "agieval_logiqa-en",
        "agieval_lsat-ar",
        "agieval_lsat-lr",
        "agieval_lsat-rc",
        "agieval_sat-en",
        "agieval_sat-math",
    }
)

# How likely a small model fails a request of self-instruct, by reading each for this project:
# digest of the text, level. Requests that are not listed are as easy as most there.
OPEN_LEVELS_FILE = Path(__file__).with_name("open_levels.tsv")
_USUAL_OPEN_LEVEL = 0.15

_CHAT_INTENTS = frozenset(
    [
        "greeting",
        "goodbye",
        "thank_you",
        "tell_joke",
        "fun_fact",
        "meaning_of_life",
        "what_are_your_hobbies",
        "do_you_have_pets",
        "how_old_are_you",
        "who_made_you",
        "what_is_your_name",
        "are_you_a_bot",
        "where_are_you_from",
        "who_do_you_work_for",
        "what_can_i_ask_you",
        "yes",
        "no",
        "maybe",
    ]
)
_TASK_OF_SOURCE = {
    "banking77": "support",
    "human_eval": "code",
    "mbpp": "code",
    "bbh": "reasoning",
    "zeroeval_crux": "code",
    "zeroeval_math-l5": "math",
    "gsm8k": "math",
    "gsm8k_train": "math",
    "math": "math",
    "agieval_math": "math",
    "agieval_aqua-rat": "math",
    "agentverse-logicgrid": "reasoning",
    "commongen": "instruction",
    "arena_hard_v0.1": "instruction",
    "self_instruct_seed": "instruction",
    "self_instruct_user": "instruction",
}
_TASK_OF_VICUNA = {
    "math": "math",
    "coding": "code",
    "fermi": "reasoning",
    "generic": "question",
    "knowledge": "question",
    "roleplay": "instruction",
    "writing": "instruction",
}
_FORMAT_OF_SOURCE = {
    "banking77": "everyday",
    "commongen": "open",
    "arena_hard_v0.1": "open",
    "self_instruct_seed": "open",
    "self_instruct_user": "open",
    "trec_cast": "open",
    "mmlu_pro": "knowledge",
    "mmlu_subjects": "knowledge",
    "openbook_qa": "knowledge",
    "commonsense_qa": "knowledge",
    "arc_challenge": "knowledge",
    "mmlu": "knowledge",
    "gpqa": "knowledge",
    "trivia_qa": "knowledge",
    "natural_qa": "knowledge",
    "gsm8k": "story",
    "gsm8k_train": "story",
    "math": "contest",
    "zeroeval_math-l5": "contest",
    "agieval_math": "contest",
    "agieval_aqua-rat": "contest",
    "human_eval": "code",
    "mbpp": "code",
    "zeroeval_crux": "code",
    "bbh": "puzzle",
    "agentverse-logicgrid": "puzzle",
}
_FORMAT_OF_TASK = {
    "chat": "everyday",
    "command": "everyday",
    "support": "everyday",
    "math": "contest",
    "code": "code",
    "reasoning": "puzzle",
}
_DOMAIN_OF_TASK = {"chat": "general", "command": "general", "support": "business"}
_DOMAIN_WORDS = {
    "math": "math algebra statistics formal_logic grade_school_math stat calculus diff",
    "science": "physics chemistry biology astronomy genetics anatomy virology optics "
    "electromagnetics quan atkins fund matter class chemmc physicalchemistry organicchemistry "
    "mechanics",
    "technology": "computer electrical_engineering machine_learning computerscience code "
    "thermodynamics thermo transportphenomena electroniccommunications electricalmachines "
    "machinedesign eecs heattransfer fluidmechanics electriccircuits engineering",
    "humanities": "history philosophy religions prehistory moral geography sociology politics "
    "security_studies foreign_policy logical_fallacies global_facts human_sexuality psychology",
    "business": "business marketing management accounting macroeconomics microeconomics "
    "econometrics economics finance public_relations",
    "health": "medicine clinical nutrition human_aging medical health virology anatomy",
    "law": "law jurisprudence",
}


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled turn; None and NaN are labels that its source does not give.

    `source` names the set that targets are centred in. `scores` are right-or-wrong of models,
    0 to 1. `subject` is the narrowest topic its source names. `level` is a stated difficulty inside
    the source (steps of a solution, contest level, school level), on the source's own scale, or
    the chance that a small model fails, where it was set by hand.
    """

    source: str
    text: str
    task: str | None = None
    domain: str | None = None
    language: str | None = None
    is_unsafe: bool | None = None
    needs_context: bool | None = None
    level: float = float("nan")
    subject: str | None = None
    scores: dict[str, float] = field(default_factory=dict)

    @property
    def format(self) -> str | None:
        """Which of the formats that difficulty is learned for this is, None where none fits."""
        if self.is_unsafe:
            return None
        known = _FORMAT_OF_SOURCE.get(self.source)
        return known or (_FORMAT_OF_TASK.get(self.task, "open") if self.task else None)

    @property
    def may_shape_weights(self) -> bool:
        """Whether the licence of its source lets it into weights that ship."""
        return self.source not in EVALUATION_ONLY


def read_examples(folder: Path) -> list[Example]:
    """Return every labelled turn of a data folder, in the order of its files.

    Raises:
        FileNotFoundError: if one of the files is missing.
        ValueError: if a row is not what its file promises.
    """
    examples = [
        *map(_of_correctness, _rows(folder / "correctness.jsonl.gz")),
        *map(_of_difficulty, _rows(folder / "difficulty.jsonl.gz")),
        *map(_of_subject, _rows(folder / "mmlu_val_dev_subjects.jsonl.gz")),
        *(_of_turn(row) for row in _rows(folder / "turns_labelled.jsonl.gz") if _is_read(row)),
    ]
    for row in _rows(folder / "multi_turn.jsonl.gz"):
        examples += _of_conversation(row)
    return examples


def by_source(examples: list[Example]) -> dict[str, np.ndarray[Any, np.dtype[np.int64]]]:
    """Return the row numbers of each source."""
    rows: dict[str, list[int]] = defaultdict(list)
    for row, example in enumerate(examples):
        rows[example.source].append(row)
    return {source: np.array(numbers) for source, numbers in rows.items()}


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"{path.name}, line {number}: an object is expected")
            yield row


def _of_correctness(row: dict[str, Any]) -> Example:
    source = row["task"] if row["source"] == "llmrouter" else row["source"]
    return Example(
        source=source,
        text=row["prompt"],
        # Problems to work out and questions of knowledge mix there: no one task fits.
        task=None if source == "mmlu_pro" else _TASK_OF_SOURCE.get(source, "question"),
        domain=_domain_of(row.get("sub") or row["domain"]),
        language="en",
        is_unsafe=False,
        needs_context=False,
        scores={model: float(score) for model, score in row["scores"].items()},
    )


def _of_difficulty(row: dict[str, Any]) -> Example:
    level = row.get("level")
    if row["source"] == "gsm8k_train":
        level = row["steps"]
    return Example(
        source=row["source"],
        text=row["prompt"],
        task=_TASK_OF_SOURCE.get(row["source"], "reasoning"),
        domain=_domain_of(row["domain"]),
        language="en",
        is_unsafe=False,
        needs_context=False,
        level=float(level) if level is not None else float("nan"),
    )


_SCHOOL_LEVELS = {"elementary": 0.0, "high": 1.0, "college": 2.0, "professional": 2.5}


def _of_subject(row: dict[str, Any]) -> Example:
    domain = _domain_of(row["domain"])
    return Example(
        source="mmlu_subjects",
        text=row["prompt"],
        task="math" if domain == "math" else "question",
        domain=domain,
        language="en",
        is_unsafe=False,
        needs_context=False,
        level=_SCHOOL_LEVELS.get(row["domain"].split("_")[0], 1.5),
        subject=row["domain"],
    )


def _is_read(row: dict[str, Any]) -> bool:
    """Return whether the row's words have tokens: an unknown word must not look like harm."""
    return bool(row["task"] != "unsafe_request" or row["lang"] == "en")


def _of_turn(row: dict[str, Any]) -> Example:
    source, label = row["source"], row.get("label")
    language = {"hi-en": "hi-Latn"}.get(row["lang"], row["lang"])
    task = _TASK_OF_SOURCE.get(source)
    if source == "clinc_oos":
        is_question = label == "oos"
        task = "chat" if label in _CHAT_INTENTS else "question" if is_question else "command"
    elif source == "hinglish_top":
        task = "command"
    elif source == "vicuna_bench":
        task = _TASK_OF_VICUNA.get(label or "", "question")
    is_unsafe = row["task"] in ("unsafe_request", "jailbreak_template")
    return Example(
        source=source,
        text=row["prompt"],
        task=None if is_unsafe else task,
        domain="technology" if task == "code" else _DOMAIN_OF_TASK.get(task or ""),
        language=language,
        is_unsafe=is_unsafe,
        needs_context=None if source in ("sib200", "xquad_hi") else False,
        level=_open_level_of(row["prompt"]) if source.startswith("self_instruct") else float("nan"),
    )


@cache
def _open_levels() -> dict[str, float]:
    lines = OPEN_LEVELS_FILE.read_text("utf-8").splitlines()
    return {digest: float(level) for digest, level in (line.split("\t") for line in lines)}


def _open_level_of(text: str) -> float:
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return _open_levels().get(digest, _USUAL_OPEN_LEVEL)


def _of_conversation(row: dict[str, Any]) -> list[Example]:
    return [
        Example(
            source="trec_cast",
            text=text,
            task="question",
            language="en",
            is_unsafe=False,
            needs_context=_leans(text) if number else False,
        )
        for number, text in enumerate(row["turns"])
    ]


_POINTERS = frozenset(
    ("it", "its", "they", "them", "their", "that", "this", "these", "those", "he", "she", "his")
    + ("her", "him", "there", "one", "ones", "other", "others", "else", "more")
)


def _leans(text: str) -> bool | None:
    """Return whether a later turn points back; None where it could stand alone as well."""
    words = text.lower().replace("?", " ").replace(".", " ").split()
    return True if len(words) <= 3 or _POINTERS.intersection(words) else None


def _domain_of(name: str) -> str | None:
    name = name.lower()
    if name in ("mbpp", "human_eval", "code"):
        return "technology"
    for domain, words in _DOMAIN_WORDS.items():
        if any(word in name for word in words.split()):
            return domain
    return None
