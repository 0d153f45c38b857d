"""Ten unedited answers of the bundled model, as Markdown: `python -m local_models.bundled.samples`.

Greedy, one turn each, whatever comes out.
"""

from __future__ import annotations

import sys

from local_models.config import EngineConfig
from local_models.engine import load_engine
from local_models.sequence import SamplingParams
from local_models.store import BUNDLED
from local_models.text import TextCodec

QUESTIONS = (
    "Hi there! How is your day going?",
    "Where is my order 51077 right now?",
    "What is your return policy for shoes?",
    "What is 15% of 240?",
    "What is the capital of Japan?",
    "Mera parcel kab aayega? Order number 73318 hai.",
    "Weekend pe kya karun, bore ho raha hoon",
    "पैसे वापस आने में कितने दिन लगते हैं?",
    "வணக்கம்! எப்படி இருக்கீங்க?",
    "Prove that there are infinitely many primes.",
)


def main() -> int:
    """Print a table of questions and answers."""
    engine, codec = load_engine(EngineConfig()), TextCodec.from_folder(BUNDLED)
    sys.stdout.write("| asked | answered |\n|---|---|\n")
    for question in QUESTIONS:
        prompt = codec.encode_chat([{"role": "user", "content": question}])
        tokens = engine.generate([prompt], SamplingParams(temperature=0), 120)[0]
        sys.stdout.write(f"| {question} | {codec.tokenizer.decode(tokens)} |\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
