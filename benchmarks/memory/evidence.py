"""How much of what a question needs is in a context of N tokens, with no model involved.

    python -m benchmarks.memory.evidence --data DIR [--tokens 500,1000,2000,4000]

DIR holds conversations in the schema `turnwise-memory-bench/1`: turns with ids, questions with the
ids of the turns that hold the answer. Each question becomes the last user message; an item counts
as found when the context quotes or keeps it. The tokenizer is the bundled encoder's unless
--tokenizer names another tokenizer.json.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from memory import Conversation, Item, MemoryConfig, Message
from memory.building import ContextRequest, context_of
from memory.counting import TokenCounter
from memory.embedder import OnnxEmbedder
from memory.phrasing import joined, phrasings
from memory.remembered import Remembered, said_before, spoken
from memory.replies import Loaded


@dataclass(frozen=True, slots=True)
class Outcome:
    """One question at one budget: the share of its evidence found, whether the answer stands."""

    category: str
    share: float
    answer: bool | None
    tokens: int
    seconds: float


def conversation_of(data: dict[str, Any]) -> Remembered:
    """Return a benchmark conversation as if it had been posted item by item."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    conversation = Conversation(data["id"], "bench", now, n_items=len(data["turns"]))
    remembered = Remembered(Loaded(conversation, "g", "0", 1, ()))
    parent = None
    for seq, turn in enumerate(data["turns"], 1):
        text = turn["text"] + (f" [image: {turn['image']}]" if turn.get("image") else "")
        role = "user" if turn["speaker"] == data["speakers"][0] else "assistant"
        metadata = {"name": turn["speaker"], "time": turn["time"]}
        item = Item(turn["id"], seq, Message(role, text), now, parent, metadata)  # type: ignore[arg-type]
        remembered.extend([item])
        parent = item.id
    return remembered


def outcomes(
    data: dict[str, Any],
    remembered: Remembered,
    embedder: OnnxEmbedder | None,
    limit: int,
    count: Callable[[str], int],
    config: MemoryConfig,
) -> Iterator[Outcome]:
    """Yield what each question with evidence found."""
    counter = TokenCounter(count)
    items = remembered.view(len(remembered.items))
    for question in data["questions"]:
        if not question["evidence"]:
            continue
        request = ContextRequest(
            items=items,
            new=(Message("user", question["question"]),),
            instructions=None,
            window_tokens=limit,
            reserved_tokens=0,
            use_summary=True,
            use_recall=True,
        )
        started = time.perf_counter()
        texts = phrasings(question["question"], remembered.names)
        encoding = joined(embedder.encode_now(texts)) if embedder else None
        context = context_of(request, remembered, counter, config.shares, config.recall, encoding)
        seconds = time.perf_counter() - started
        assert context.tokens <= limit
        found = {*context.recalled, *context.recent}
        gold = set(question["evidence"])
        yield Outcome(
            question["category"],
            len(gold & found) / len(gold),
            _has_answer(question["answer"], " ".join(m.text for m in context.messages[:-1])),
            context.tokens,
            seconds,
        )


def _has_answer(answer: object, text: str) -> bool | None:
    if answer is None:
        return None
    return _plain(str(answer)) in _plain(text)


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tokens", default="500,1000,2000,4000")
    parser.add_argument("--tokenizer", type=Path, default=Path("memory/model/tokenizer.json"))
    parser.add_argument("--words-only", action="store_true", help="recall without the encoder")
    options = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(options.tokenizer))
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def count(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    embedder = None if options.words_only else OnnxEmbedder.from_folder()
    conversations = [json.loads(path.read_text()) for path in sorted(options.data.glob("*.json"))]
    remembered = [conversation_of(data) for data in conversations]
    for held in remembered:
        if embedder is None:
            continue
        for n, item in enumerate(held.items):
            before = said_before(held.items, n)
            held.vectors.add(embedder.encode_now([spoken(item)], before)[0].tokens)
    rows: dict[str, dict[int, float]] = defaultdict(dict)
    for limit in map(int, options.tokens.split(",")):
        found = [
            outcome
            for data, held in zip(conversations, remembered, strict=True)
            for outcome in outcomes(data, held, embedder, limit, count, MemoryConfig())
        ]
        rows["all"][limit] = _mean([o.share for o in found])
        for category in sorted({o.category for o in found}):
            rows[category][limit] = _mean([o.share for o in found if o.category == category])
        rows["answer string"][limit] = _mean([o.answer for o in found if o.answer is not None])
        rows["tokens used"][limit] = _mean([o.tokens / limit for o in found])
        rows["ms (warm mean)"][limit] = _mean([o.seconds for o in found[1:]]) * 10
    for name, row in rows.items():
        print(f"{name:16}", *(f"{100 * value:7.1f}" for value in row.values()))


def _mean(values: list[Any]) -> float:
    return sum(values) / len(values) if values else 0.0


if __name__ == "__main__":
    main()
