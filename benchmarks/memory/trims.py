"""Random conversations with tool calls, cut to random windows: is anything ever torn apart?

    python -m benchmarks.memory.trims [--trims 100000]

Counts contexts with a tool result without its call or a call without its results, contexts over
their window and parts that overlap. Then one long conversation, turn by turn: in how many turns
outside folds does the part before the recalled items extend the last turn's byte for byte?
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import orjson

from memory import Context, Conversation, Item, Message
from memory.building import ContextRequest, context_of
from memory.context import Shares
from memory.counting import TokenCounter
from memory.errors import ContextTooLarge
from memory.recall import RecallWeights
from memory.remembered import Remembered
from memory.replies import Loaded

WORDS = [
    "rain",
    "tea",
    "train",
    "ticket",
    "paid",
    "moved",
    "Madurai",
    "Asha",
    "puppy",
    "invoice",
    "4500",
    "yesterday",
    "மழை",
    "किताब",
]
START = datetime(2026, 5, 1, tzinfo=UTC)
COUNTER = TokenCounter(lambda text: len(text.split()))


def text_of(rng: random.Random, longest: int) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(0, longest)))


def messages_of(rng: random.Random, n_turns: int, longest: int = 40) -> list[Message]:
    """Return turns with parallel calls; some results are missing, doubled or without a call."""
    messages: list[Message] = []
    for _ in range(n_turns):
        messages.append(Message("user", text_of(rng, longest)))
        for _ in range(rng.choice((0, 0, 1, 2))):
            ids = rng.sample("abcdefgh", rng.randint(1, 4))
            calls = tuple({"id": i, "type": "function", "function": {"name": "f"}} for i in ids)
            messages.append(Message("assistant", None, tool_calls=calls))
            answered = rng.sample(ids, rng.randint(0, len(ids))) + rng.choices(
                "ax", k=rng.choice((0, 0, 1))
            )
            messages += [Message("tool", text_of(rng, longest), tool_call_id=i) for i in answered]
        if rng.random() < 0.9:
            messages.append(Message("assistant", text_of(rng, longest)))
    return messages


def remembered_of(messages: Sequence[Message]) -> Remembered:
    conversation = Conversation("chat", "bench", START, n_items=len(messages))
    held = Remembered(Loaded(conversation, "g", "0", 1, ()))
    for n, message in enumerate(messages, 1):
        parent = held.items[-1].id if held.items else None
        held.extend([Item(f"msg_{n:x}_a", n, message, START + timedelta(minutes=n), parent)])
    return held


def context(held: Remembered, n_items: int, new: Message, window: int) -> Context:
    wanted = ContextRequest(held.view(n_items), (new,), None, window, 0, True, True)
    return context_of(wanted, held, COUNTER, Shares(), RecallWeights())


def faults_of(built: Context, window: int) -> list[str]:
    """Return what is wrong with a context."""
    faults, waiting = [], list[str]()
    for message in built.messages:
        if message.role == "tool" and message.tool_call_id in waiting:
            waiting.remove(message.tool_call_id)
        elif message.role == "tool":
            faults.append("result without its call")
        else:
            faults += ["call without its result"] * len(waiting)
            waiting = [str(call["id"]) for call in message.tool_calls]
    if built.tokens > window or sum(map(COUNTER.message, built.messages)) > built.tokens:
        faults.append("over the window")
    if set(built.recalled) & set(built.recent):
        faults.append("parts overlap")
    return faults


def trims(n_trims: int, rng: random.Random) -> Counter[str]:
    found: Counter[str] = Counter()
    while found["trims"] < n_trims:
        held = remembered_of(messages_of(rng, rng.randint(1, 30)))
        for _ in range(min(20, n_trims - found["trims"])):
            window = rng.randint(10, 900)
            n_items = rng.randint(1, len(held.items))
            found["trims"] += 1
            try:
                built = context(held, n_items, Message("user", text_of(rng, 20)), window)
            except ContextTooLarge:
                found["refused: the turn alone is larger than the window"] += 1
                continue
            found.update(faults_of(built, window) or ["whole"])
    return found


def stable_share(rng: random.Random, window: int, n_turns: int = 400) -> tuple[float, int]:
    """Return the share of turns outside folds whose stable part extends the last one's; folds."""
    held = remembered_of(messages_of(rng, n_turns))
    previous, first, n_same, n_kept, n_folds = b"", "", 0, 0, 0
    for item in held.items[40:]:
        if item.message.role != "user":
            continue
        built = context(held, item.seq - 1, item.message, window)
        end = len(built.messages) - 1 - bool(built.recalled)
        stable = b"".join(orjson.dumps(m.to_wire()) for m in built.messages[:end])
        if built.recent and built.recent[0] == first:
            n_kept += 1
            n_same += stable.startswith(previous)
        else:
            n_folds += 1
        previous, first = stable, built.recent[0] if built.recent else ""
    return n_same / max(1, n_kept), n_folds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trims", type=int, default=100_000)
    options = parser.parse_args()
    rng = random.Random(0)
    for window in (2048, 8192):
        share, n_folds = stable_share(rng, window)
        print(f"window {window}: {100 * share:.1f} % extend the last; {n_folds} folds", flush=True)
    for name, count in trims(options.trims, rng).most_common():
        print(f"{count:8} {name}")


if __name__ == "__main__":
    main()
