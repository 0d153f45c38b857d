"""From a conversation and a new turn to a context: plan, summarise, rank, assemble.

Synchronous and free of waiting, so that it runs in a worker thread for long conversations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from memory.context import Shares, assemble, plan_context, weight_of
from memory.conversation import Context, Item, Message
from memory.counting import TokenCounter
from memory.embedder import Encoding
from memory.lexical import best_passage, words_of
from memory.recall import RecallWeights, Signals, rank
from memory.remembered import Remembered
from memory.summarize import date_line, segment_ranges, shortened, summarise
from memory.vector_sets import Found

_MOST_QUOTED = 1000
_ALSO_COMPARED = 60
"""Documents compared by meaning because their words match, in conversations too long for all."""


@dataclass(frozen=True, slots=True)
class ContextRequest:
    """One turn's wish for a context; see Memory.build_context."""

    items: Sequence[Item]
    new: Sequence[Message]
    instructions: str | None
    window_tokens: int
    reserved_tokens: int
    use_summary: bool
    use_recall: bool


def context_of(
    wanted: ContextRequest,
    remembered: Remembered | None,
    counter: TokenCounter,
    shares: Shares,
    recall: RecallWeights,
    encoding: Encoding | None = None,
    found: Found | None = None,
) -> Context:
    """Return the context of a turn; `encoding` is the query's, None to recall by words alone.

    `found` holds the vectors to compare where the process does not hold the conversation's.

    Raises:
        ContextTooLarge: if instructions and the last user message do not fit.
    """
    items = wanted.items
    is_plain = remembered is None or remembered.is_linear
    weights = (
        remembered.weights
        if remembered and is_plain
        else list(accumulate(weight_of(item.message) for item in items))
    )
    plan = plan_context(
        items,
        wanted.new,
        weights=weights,
        instructions=wanted.instructions,
        limit_tokens=wanted.window_tokens - wanted.reserved_tokens,
        window_tokens=wanted.window_tokens,
        counter=counter,
        shares=shares,
    )
    folded = items[: plan.tail_start]
    query = query_of(items, wanted.new)
    summary, ranked = "", list[Item]()
    if folded and remembered:
        if wanted.use_summary and plan.summary_tokens:
            summary = _summary(folded, plan.summary_tokens, remembered, counter)
        if wanted.use_recall and query:
            ranked = _ranked(folded, query, encoding, remembered, recall, found)
    words = words_of(query)
    return assemble(
        plan,
        instructions=wanted.instructions,
        summary=summary,
        ranked=ranked,
        n_items=len(items),
        counter=counter,
        recall_tokens=shares.recall_tokens,
        excerpt=lambda text, characters: best_passage(text, words, characters),
    )


def query_of(items: Sequence[Item], new: Sequence[Message]) -> str:
    """Return the words of the last user message, what recall looks for."""
    for message in reversed(new):
        if message.role == "user":
            return message.text
    for item in reversed(items):
        if item.message.role == "user":
            return item.message.text
    return ""


def best_by_words(remembered: Remembered, query: str) -> NDArray[np.intp]:
    """Return the documents that share most with the query's words, to be compared by meaning."""
    return _best_of(remembered.indexed().scores(query))


def _best_of(lexical: NDArray[np.float32]) -> NDArray[np.intp]:
    return np.argpartition(-lexical, min(_ALSO_COMPARED, len(lexical) - 1))[:_ALSO_COMPARED]


def _ranked(
    folded: Sequence[Item],
    query: str,
    encoding: Encoding | None,
    remembered: Remembered,
    recall: RecallWeights,
    found: Found | None,
) -> list[Item]:
    if remembered.is_linear:
        documents = np.arange(len(folded))
    else:
        documents = np.fromiter((item.seq - 1 for item in folded), np.intp, len(folded))
    lexical = remembered.indexed().scores(query)
    signals = Signals(lexical)
    if encoding is not None and found is not None:
        signals = Signals(lexical, found.scores(encoding, len(lexical)))
    elif encoding is not None and len(remembered.vectors):
        vectors = remembered.vectors
        also = _best_of(lexical)
        meaning = vectors.scores(encoding, also[also < len(vectors)])
        signals = Signals(lexical, meaning, vectors)
    order = rank(documents, query, remembered.traits, signals, recall, _MOST_QUOTED)
    return [folded[i] for i in order.tolist()]


def _summary(
    folded: Sequence[Item], limit_tokens: int, remembered: Remembered, counter: TokenCounter
) -> str:
    """Return the segments' text; each is worked out once per range, size and counter."""
    ranges = segment_ranges(len(folded))
    each = limit_tokens // len(ranges)
    texts: list[str] = []
    for part in ranges:
        stored = remembered.segments.get((part.start, part.stop), "")
        source = folded[part.start : part.stop]
        key = (source[0].id, source[-1].id, each, hash((id(counter), stored)))
        text = remembered.summaries.get(key)
        if text is None:
            dates = date_line(source)
            room = each - counter.text(dates) - 2
            text = ""
            if stored and remembered.is_linear:
                text = stored if counter.text(stored) <= room else ""
                text = text or shortened(stored, room, counter.text)
            text = text or summarise(source, room, counter.text)
            text = f"{dates}\n{text}" if text else ""
            if len(remembered.summaries) > 256:
                remembered.summaries.clear()
            remembered.summaries[key] = text
        texts.append(text)
    return "\n".join(text for text in texts if text)
