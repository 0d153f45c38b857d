"""What rounding costs the bundled model: held-out perplexity and first-token agreement.

    python -m benchmarks.engine.quality [--float FOLDER]

The base is the float32 folder that training kept (`--keep-float`), else the shipped int8 weights
computed in float32. Perplexity counts the answers of dialogues that training never saw. The exit
status is 1 when int8 costs more than 1 % of it, or int4 more than 4 %.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))  # runs from a checkout without installing

from local_models.attention import Span
from local_models.bundled.corpus import HERE
from local_models.bundled.train import HELD_OUT_SEED, packed_rows
from local_models.config import EngineConfig
from local_models.engine import load_engine
from local_models.text import TextCodec

ROWS, LENGTH = 40, 512
# How much worse perplexity may be than that of the base.
GATES = {"int8": 0.01, "int4": 0.04}


def measure(
    model: str, quantize: Any, rows: list[tuple[list[int], list[int]]], kv_cache: Any = "full"
) -> tuple[float, torch.Tensor]:
    """Return the mean loss over learned tokens and the likeliest token at each of them."""
    config = EngineConfig(model=model, quantize=quantize, kv_cache=kv_cache, max_running=1)
    engine = load_engine(config)
    executor = engine._runner._model
    pages = list(range(LENGTH // engine.config.page_tokens))
    loss, n_learned, likeliest = 0.0, 0, []
    for ids, labels in rows:
        logits = executor.forward(ids, [Span(0, len(ids), 0, pages)], range(len(ids)))[:-1]
        wanted = torch.tensor(labels[1:])
        mask = wanted != -100
        picked = logits[mask].log_softmax(-1).gather(1, wanted[mask][:, None])
        loss -= float(picked.sum())
        n_learned += int(mask.sum())
        likeliest.append(logits[mask].argmax(-1))
    return loss / n_learned, torch.cat(likeliest)


def main() -> int:
    """Print one line per kind of weights; return 1 when one is worse than its gate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--float", dest="base", default="bundled")
    options = parser.parse_args()
    tokenizer = TextCodec.from_folder(Path(HERE)).tokenizer
    rows = list(itertools.islice(packed_rows(tokenizer, HELD_OUT_SEED, LENGTH), ROWS))
    base_loss, base_best = measure(options.base, "none", rows)
    print(f"base ({options.base}, float32): perplexity {math.exp(base_loss):.4f}")
    is_good = True
    kinds = [(q, "full") for q in GATES] + [(q, "int8") for q in ("none", *GATES)]
    for quantize, kv_cache in kinds:
        # A cache in integers must not cost more than int8 weights may.
        gate = GATES.get(quantize, GATES["int8"])
        for source in dict.fromkeys(("bundled", options.base)):
            loss, best = measure(source, quantize, rows, kv_cache)
            change = math.exp(loss - base_loss) - 1
            is_good = is_good and change <= gate
            agreement = float((best == base_best).float().mean())
            print(
                f"{quantize}, cache {kv_cache}, from {source}: perplexity {math.exp(loss):.4f} "
                f"({change:+.2%}), same first choice {agreement:.2%}"
            )
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
