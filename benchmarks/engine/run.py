"""The engine against transformers' static batching: tokens per CPU-second, one thread, one run.

    python -m benchmarks.engine.run [--sizes 5,60] [--quick]

Random-weight Llamas (the arithmetic does not depend on the values), prompts and replies of 64
tokens, greedy, end of text ignored. `generate` runs in float32 over a full static batch, its best:
no padding, nothing arrives late.
Also printed: prompt lookup on text that repeats itself, a prefix
hit against a miss, a quiet caller beside a noisy one, and what rounding costs the bundled model.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from local_models.bench import GREEDY, Load, measure
from local_models.config import EngineConfig
from local_models.engine import Engine, load_engine
from local_models.speculate import draft_by_lookup
from local_models.store import BUNDLED
from local_models.text import TextCodec

PROMPT, REPLY = 64, 64
SHAPES = {
    # millions of parameters: hidden, intermediate, layers, heads, kv heads
    5: (256, 768, 4, 4, 2),
    60: (768, 2048, 8, 12, 4),
    200: (1024, 2816, 16, 16, 8),
}


def build(size: int, folder: Path) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    hidden, intermediate, layers, heads, kv_heads = SHAPES[size]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(folder)
    return model


def engine_over(folder: Path | str, quantize: Any, **changes: Any) -> Engine:
    config = {"model": str(folder), "quantize": quantize, "scope_share": 1.0} | changes
    return load_engine(EngineConfig(**config))


def prompts(n: int, length: int, seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(3, 8000) for _ in range(length)] for _ in range(n)]


@torch.no_grad()
def generate_rate(model: Any, n: int) -> float:
    ids = torch.tensor(prompts(n, PROMPT))
    mask = torch.ones_like(ids)
    options = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0, "attention_mask": mask}
    model.generate(ids, max_new_tokens=4, **options)
    started = time.process_time()
    model.generate(ids, max_new_tokens=REPLY, **options)
    return n * REPLY / (time.process_time() - started)


def engine_rate(engine: Engine, n: int) -> float:
    load = Load(n, n, (PROMPT, PROMPT), REPLY)
    measure(engine, Load(1, 1, (PROMPT, PROMPT), 4))
    engine.pool.clear_idle()
    return measure(engine, load, seed=n).tokens_per_cpu_s


def against_generate(sizes: list[int], repeats: int) -> None:
    print("tokens per CPU-second (median of interleaved runs); ratio to generate fp32")
    print("| model | concurrent | generate fp32 | engine fp32 | engine int8 | engine int4 |")
    print("|---|---|---|---|---|---|")
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            model = build(size, Path(folder))
            engines = {q: engine_over(folder, q) for q in ("none", "int8", "int4")}
            for n in (1, 8, 32):
                rates: dict[str, list[float]] = {name: [] for name in ("generate", *engines)}
                for _ in range(repeats):
                    rates["generate"].append(generate_rate(model, n))
                    for name, engine in engines.items():
                        rates[name].append(engine_rate(engine, n))
                middle = {name: statistics.median(values) for name, values in rates.items()}
                base = middle["generate"]
                cells = [f"{middle[q]:.0f} ({middle[q] / base:.2f}x)" for q in engines]
                print(f"| {size} M | {n} | {base:.0f} | {' | '.join(cells)} |", flush=True)


class Dictated:
    """A model that computes as ever and then says what it is told: the next token of a script.

    Random weights neither quote nor edit, and what a model says costs nothing by itself: this is
    the arithmetic of the real model under the text of a real task.
    """

    def __init__(self, model: Any, script: list[int]) -> None:
        self.shape, self._model, self._script = model.shape, model, script

    def allocate(self, n_pages: int, page_tokens: int, kv_cache: Any = "full") -> None:
        """Take memory for the KV pages."""
        self._model.allocate(n_pages, page_tokens, kv_cache)

    def forward(self, tokens: Any, spans: Any, wanted: Any) -> torch.Tensor:
        """Return the model's logits with the script's next token on top."""
        logits = self._model.forward(tokens, spans, wanted)
        first = spans[0].position - spans[0].first
        for row, at in enumerate(wanted):
            logits[row, self._script[min(first + at + 1, len(self._script) - 1)]] = 1e9
        return logits


def edited(text: list[int], every: int, rng: random.Random) -> list[int]:
    """Return the text with one token in so many replaced by another."""
    return [rng.randrange(3, 8000) if at % every == every - 1 else t for at, t in enumerate(text)]


def lookup(folder: Path) -> None:
    """Drafts on and off: replies that quote the prompt, ever less of it, and ones that do not."""
    codec = TextCodec.from_folder(BUNDLED)
    docs = Path(__file__).parents[2] / "docs"
    text, other = (
        codec.encode((docs / name).read_text("utf-8"))[:256] for name in ("engine.md", "memory.md")
    )
    rng = random.Random(1)
    replies = {
        "quotes the prompt": text,
        "edits one token in 24": edited(text, 24, rng),
        "edits one token in 12": edited(text, 12, rng),
        "edits one token in 6": edited(text, 6, rng),
        "is other prose": other,
        "is 32 tokens of other prose": other[:32],
        "is random tokens": [rng.randrange(3, 8000) for _ in text],
    }
    print("\nprompt lookup, batch 1, int8: CPU time of the same reply without guesses / with them")
    plain = [engine_over(folder, "int8", reuse_prefixes=False) for _ in range(2)]
    for name, reply in replies.items():
        pair = [Engine(e.config, Dictated(e._runner._model, [*text, *reply])) for e in plain]
        ratios = []
        for _ in range(max(5, 5 * len(text) // len(reply))):
            # Each engine guesses once: where its weights happen to lie in memory cancels out.
            one, other_way = (
                guessing_gains(*pair, text, len(reply)),
                guessing_gains(*pair[::-1], text, len(reply)),
            )
            ratios.append((one * other_way) ** 0.5)
        n_right = sum(e.stats.accepted_tokens for e in pair)
        n_guessed = sum(e.stats.drafted_tokens for e in pair)
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(
            f"the reply {name}: {middle:.3f}x (quartiles {low:.3f} to {high:.3f} of {len(ratios)}; "
            f"{n_right} of {n_guessed} guesses right)",
            flush=True,
        )


def guessing_gains(guesses: Engine, plain: Engine, prompt: list[int], n_new: int) -> float:
    """Return the plain engine's CPU time for the reply over that of the one that guesses.

    They take turns step by step, so that whatever else the machine does, and however fast its
    clock is just then, touches both alike.
    """
    guesses.scheduler._draft, plain.scheduler._draft = draft_by_lookup, None
    engines = (guesses, plain)
    sequences = [engine.add(prompt, GREEDY, max_new_tokens=n_new) for engine in engines]
    for sequence, engine in zip(sequences, engines, strict=True):
        while not sequence.n_output:
            engine.step()
    took = [0.0, 0.0]
    while any(engine.has_work for engine in engines):
        for at, engine in enumerate(engines):
            started = time.process_time()
            if engine.has_work:
                engine.step()
                took[at] += time.process_time() - started
    if sequences[0].tokens != sequences[1].tokens:
        raise AssertionError("guessing changed the output")
    return took[1] / took[0]


def prefix(folder: Path) -> None:
    engine = engine_over(folder, "int8")
    shared = prompts(1, 1000, seed=3)[0]
    times = []
    for tail in range(12):
        started = time.process_time()
        engine.generate([[*shared, 5 + tail, 6]], GREEDY, 1)
        times.append(time.process_time() - started)
    hit = statistics.median(times[1:])
    figures = f"miss {times[0] * 1e3:.1f} ms, hit {hit * 1e3:.1f} ms ({hit / times[0]:.0%})"
    print(f"\nprefix of 1,000 tokens, CPU time to first token: {figures}")


def neighbours(folder: Path) -> None:
    """One request at a time from the quiet caller, ten in flight from the noisy one.

    The engine's one thread does all the work, so its CPU time is the clock: other programs on the
    machine do not count.
    """

    def quiet_ttft(noisy: int) -> float:
        engine = engine_over(folder, "int8", scope_share=0.75, reuse_prefixes=False)
        rng = random.Random(4)
        found: list[float] = []
        n_noisy, quiet, asked, pause, before = 0, None, 0.0, 0, 0.0
        while len(found) < 60:
            while n_noisy < noisy:
                prompt = [rng.randrange(3, 8000) for _ in range(rng.randrange(32, 512))]
                engine.add(prompt, GREEDY, max_new_tokens=64, scope="noisy")
                n_noisy += 1
            if quiet is None and (pause == 0 or not noisy):
                prompt = [rng.randrange(3, 8000) for _ in range(256)]
                quiet = engine.add(prompt, GREEDY, max_new_tokens=8, scope="quiet")
                # It arrives anywhere inside the step before: so much has passed already.
                asked = time.process_time()
                waited = rng.random()
                is_first = True
            pause = max(0, pause - 1)
            started = time.process_time()
            for event in engine.step():
                if event.sequence is quiet and event.tokens and is_first:
                    found.append(time.process_time() - asked + waited * before)
                    is_first = False
                if event.finish is None:
                    continue
                if event.sequence is quiet:
                    quiet, pause = None, rng.randrange(20)
                else:
                    n_noisy -= 1
            before = time.process_time() - started
        return statistics.quantiles(found, n=20)[-1]

    solo, beside = quiet_ttft(0), quiet_ttft(10)
    print(
        f"\nquiet caller's p95 CPU time to first token: alone {solo * 1e3:.1f} ms, beside ten "
        f"noisy requests {beside * 1e3:.1f} ms ({beside / solo:.2f}x)"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="5,60")
    parser.add_argument("--quick", action="store_true", help="one repeat, the smallest model")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sizes = [5] if options.quick else [int(size) for size in options.sizes.split(",")]
    against_generate(sizes, 1 if options.quick else 3)
    with tempfile.TemporaryDirectory() as folder:
        build(sizes[-1], Path(folder))
        print(f"\nbelow: the {sizes[-1]} M model")
        lookup(Path(folder))
        prefix(Path(folder))
        neighbours(Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
