"""Ten unedited answers of the bundled model, as Markdown: `python -m local_models.bundled.samples`.

Greedy through the engine's int8 path, whatever comes out. Where a conversation has several turns,
the model's own earlier answers stand between them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from local_models.bundled.evaluate import converse
from local_models.config import EngineConfig
from local_models.engine import load_engine
from local_models.store import BUNDLED
from local_models.text import TextCodec

ROLES = ("user", "assistant")
CONVERSATIONS = (
    ("hey, how are you?",),
    ("What is 12 + 7?",),
    ("how much is 46 x 8",),
    ("where is my order",),
    ("how do I reset my password?", "and in Hindi?"),
    ("UPI kya hai?",),
    ("My name is Ananya.", "what is my name?"),
    ("How do you say good morning in Tamil?",),
    ("पैसे वापस आने में कितने दिन लगते हैं?",),
    ("Write a Python function that merges two sorted lists.",),
)


def main() -> int:
    """Print a table of questions and answers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="bundled")
    options = parser.parse_args()
    engine = load_engine(EngineConfig(model=options.model))
    codec = TextCodec.from_folder(BUNDLED if options.model == "bundled" else Path(options.model))
    sys.stdout.write("| asked | answered |\n|---|---|\n")
    for turns in CONVERSATIONS:
        messages = converse(engine, codec, turns)
        shown = (" / ".join(m["content"] for m in messages if m["role"] == r) for r in ROLES)
        sys.stdout.write(f"| {' | '.join(shown)} |\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
