"""What the shipped classifier costs and how steady it is.

python -m benchmarks.router.run                 CPU per turn, open asks; no data needed
python -m benchmarks.router.run --data DIR      and: languages, robustness, pleas, ranking
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))  # runs from a checkout without installing

from memory.conversation import Message
from router.augment import (
    with_markdown,
    with_other_case,
    with_plea,
    with_politeness,
    with_typos,
)
from router.classifier import MODEL_FOLDER, OnnxClassifier
from router.curves import Outcomes, apgr_interval
from router.dataset import read_examples
from router.targets import failures
from router.tokens import VOCABULARY_FILE

N_REPEATS = 2000
TEXTS = Path(__file__).parents[2] / "tests" / "data"
PLEAS_FILE = TEXTS / "pleas.txt"
OPEN_ASKS_FILE = TEXTS / "open_asks.tsv"
# What a strong model is taken to gain on each kind of open ask: an opinion, no outcomes exist.
GAINS = {
    "coding": 1.0,
    "maths": 1.0,
    "reasoning": 1.0,
    "extraction": 0.5,
    "science": 0.2,
    "humanities": 0.1,
    "writing": 0.1,
    "roleplay": 0.1,
}


def timings(classifier: OnnxClassifier) -> None:
    """Print CPU per turn; each repeat is a text never seen before."""
    print("\ntokens    p50 ms   p99 ms   (CPU of the calling thread, tokenizing included)")
    draw = random.Random(0)
    pieces = (MODEL_FOLDER / VOCABULARY_FILE).read_text("utf-8").split("\n")[:8000]
    common = [piece for piece in pieces if not piece.startswith("##")]
    for n_tokens in (20, 100, 1500):
        taken = []
        for _ in range(N_REPEATS):
            text = " ".join(draw.choices(common, k=n_tokens - 4))
            # A word of its own in each text, so that no text's tokens are all remembered.
            text += f" {draw.choice('bcdfgh')}{draw.randrange(10**6):x}ion"
            messages = [Message("user", text)]
            started_ns = time.thread_time_ns()
            classifier.predict(messages)
            taken.append((time.thread_time_ns() - started_ns) / 1e6)
        p50, p99 = np.percentile(taken, [50, 99])
        print(f"{n_tokens:6d}    {p50:.3f}    {p99:.3f}")


def rows_of(data: Path) -> list[dict[str, str]]:
    """Return the labelled turns of the data folder."""
    with gzip.open(data / "turns_labelled.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def languages(classifier: OnnxClassifier, data: Path) -> None:
    """Print the share of right language labels.

    Word lists were mended on these sets; Hinglish-TOP's test split stood apart in the last round.
    """
    right: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    known = {"en", "hi", "ta", "te", "bn", "mr"}
    for row in rows_of(data):
        if row["source"] not in ("sib200", "hinglish_top", "xquad_hi", "xcopa_ta"):
            continue
        wanted = row["lang"] if row["lang"] in known else "und"
        wanted = "hi-Latn" if row["lang"] == "hi-en" else wanted
        is_held_out = row["source"] == "hinglish_top" and row["split"] == "test"
        label = classifier.predict([Message("user", row["prompt"])]).labels.language
        name = f"{wanted} test" if is_held_out else wanted
        seen[name] += 1
        right[name] += label == wanted
    print("\nlanguage   sentences   right")
    for language, n_seen in seen.items():
        print(f"{language:12s}  {n_seen:6d}   {right[language] / n_seen:.4f}")


def steadiness(classifier: OnnxClassifier, data: Path) -> None:
    """Print how often a change that asks nothing new keeps the tier.

    Texts are of the training data but for XQuAD's; pleas are forty that training never saw, each
    before and after every thirtieth text.
    """
    draw = random.Random(1)
    rows = [row for row in rows_of(data) if row["source"] in ("arena_hard_v0.1", "mbpp", "bbh")]
    rows += [row for row in rows_of(data) if row["source"] in ("clinc_oos", "xquad_hi")][:1500]
    texts = [row["prompt"] for row in draw.sample(rows, 1200)]

    def score(text: str) -> float:
        return classifier.predict([Message("user", text)]).score

    def unseen_plea(text: str, draw: random.Random) -> str:
        plea = draw.choice(pleas)
        return f"{plea}\n{text}" if draw.random() < 0.5 else f"{text}\n{plea}"

    pleas = pleas_of(PLEAS_FILE)
    before = np.array([score(text) for text in texts])
    changes: tuple[Callable[[str, random.Random], str], ...] = (
        *(with_typos, with_other_case, with_politeness, with_markdown, with_plea, unseen_plea),
    )
    for change in changes:
        after = np.array([score(change(text, draw)) for text in texts])
        for threshold in (0.45, 0.55):
            same = np.mean((before >= threshold) == (after >= threshold))
            gained = np.mean(after >= threshold) - np.mean(before >= threshold)
            print(
                f"threshold {threshold}  {change.__name__:16s} same tier {same:.3f}   strong share "
                f"{np.mean(before >= threshold):.3f} {gained:+.3f}"
            )


# Whose outcomes shape no weight: what the score ranks here it has not seen.
UNSEEN = ("gsm8k", "arc_challenge", "mmlu", "natural_qa")


def ranking(classifier: OnnxClassifier, data: Path) -> None:
    """Print APGR on unseen sets: middling models against one that never fails, beside length."""
    examples = read_examples(data)
    print("\nset              turns   score                  length")
    for source in UNSEEN:
        members = [example for example in examples if example.source == source]
        scores = [classifier.predict([Message("user", e.text)]).score for e in members]
        outcomes = Outcomes(1 - failures(members), np.ones(len(members), np.float32))
        lengths = np.array([len(e.text) for e in members], np.float32)
        score = apgr_interval(np.array(scores, np.float32), outcomes)
        print(f"{source:15s} {len(members):5d}   {score}   {apgr_interval(lengths, outcomes)}")


def open_asks(classifier: OnnxClassifier) -> None:
    """Print the mean score of each kind of open ask, and APGR were the gains as GAINS has them."""
    lines = OPEN_ASKS_FILE.read_text("utf-8").split("\n")
    asks = [line.split("\t") for line in lines if line and not line.startswith("#")]
    scores = np.array([classifier.predict([Message("user", t)]).score for _, t in asks], np.float32)
    gains = np.array([GAINS[kind] for kind, _ in asks], np.float32)
    lengths = np.array([len(text) for _, text in asks], np.float32)
    print("\nopen asks    mean score")
    for kind in GAINS:
        of_kind = [score for score, (each, _) in zip(scores, asks, strict=True) if each == kind]
        print(f"{kind:12s} {np.mean(of_kind):.2f}")
    outcomes = Outcomes(1 - gains, np.ones_like(gains))
    for name, by in (("score", scores), ("length", lengths), ("gain itself", gains)):
        print(f"{name:12s} {apgr_interval(by, outcomes)}")


def pleas_of(path: Path) -> list[str]:
    """Return the pleas of a file, one a line after its heading."""
    return [line for line in path.read_text("utf-8").split("\n")[1:] if line]


def main() -> None:
    """Run what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--model", type=Path)
    arguments = parser.parse_args()
    classifier = OnnxClassifier.load(*([arguments.model] if arguments.model else []))
    print(f"classifier {classifier.version}")
    timings(classifier)
    open_asks(classifier)
    if arguments.data:
        languages(classifier, arguments.data)
        steadiness(classifier, arguments.data)
        ranking(classifier, arguments.data)


if __name__ == "__main__":
    main()
