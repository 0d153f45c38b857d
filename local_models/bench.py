"""Throughput against time to first token over concurrency: `turnwise engine bench`.

Owns the load (closed loop, random prompts), the table and the picture. Drives the engine in this
process, without HTTP, so that the figures are the engine's own.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from local_models.config import Device, EngineConfig, Quantize
from local_models.errors import LocalModelError
from local_models.sequence import SamplingParams
from local_models.stats import percentile

if TYPE_CHECKING:
    from rich.progress import Progress

    from local_models.engine import Engine

GREEDY = SamplingParams(temperature=0, ignore_eos=True)
_LEAST_REQUESTS = 24


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of the engine at one concurrency."""

    concurrency: int
    requests: int
    prompt_tokens: tuple[int, int]
    reply_tokens: int


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of one load; times in milliseconds, rates in generated tokens."""

    concurrency: int
    requests: int
    tokens_per_s: float
    tokens_per_cpu_s: float
    ttft_p50_ms: float
    ttft_p95_ms: float
    inter_token_p50_ms: float
    inter_token_p95_ms: float


def measure(engine: Engine, load: Load, seed: int = 0) -> Measured:
    """Keep `concurrency` requests in flight until all are done, and return the figures."""
    rng = random.Random(seed)
    prompts = [
        [rng.randrange(3, 200) for _ in range(rng.randint(*load.prompt_tokens))]
        for _ in range(load.requests)
    ]
    started_s, started_cpu_s = time.perf_counter(), time.process_time()
    asked_s: dict[int, float] = {}
    last_s: dict[int, float] = {}
    first: list[float] = []
    gaps: list[float] = []
    n_tokens = n_running = 0
    while prompts or n_running:
        while prompts and n_running < load.concurrency:
            sequence = engine.add(prompts.pop(), GREEDY, max_new_tokens=load.reply_tokens)
            asked_s[sequence.id] = time.perf_counter()
            n_running += 1
        for event in engine.step():
            now_s, key = time.perf_counter(), event.sequence.id
            n_tokens += len(event.tokens)
            if key in last_s:
                gaps.append((now_s - last_s[key]) / max(1, len(event.tokens)))
            else:
                first.append(now_s - asked_s[key])
            last_s[key] = now_s
            n_running -= event.finish is not None
    wall_s, cpu_s = time.perf_counter() - started_s, time.process_time() - started_cpu_s

    def ms(values: list[float], share: float) -> float:
        return round(1000 * (percentile(values, share) or 0.0), 2)

    return Measured(
        load.concurrency,
        load.requests,
        round(n_tokens / wall_s, 1),
        round(n_tokens / cpu_s, 1),
        ms(first, 0.5),
        ms(first, 0.95),
        ms(gaps, 0.5),
        ms(gaps, 0.95),
    )


def sweep(engine: Engine, loads: list[Load], progress: Progress | None = None) -> list[Measured]:
    """Return the figures of every load, after one small load to warm up."""
    measure(engine, Load(1, 2, (16, 16), 8))
    task = progress.add_task("concurrency", total=len(loads)) if progress is not None else None
    rows = []
    for load in loads:
        engine.pool.clear_idle()
        rows.append(measure(engine, load, seed=load.concurrency))
        if progress is not None and task is not None:
            progress.advance(task)
    return rows


def table_of(rows: list[Measured]) -> str:
    """Return the figures as a Markdown table."""
    names = list(asdict(rows[0]))
    lines = [" | ".join(names), " | ".join("---" for _ in names)]
    lines += [" | ".join(f"{value:g}" for value in asdict(row).values()) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def draw(rows: list[Measured], path: Path, title: str) -> None:
    """Save throughput against p50 and p95 time to first token as a PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5))
    rates = [row.tokens_per_s for row in rows]
    axes.plot([row.ttft_p50_ms for row in rows], rates, marker="o", label="p50")
    axes.plot([row.ttft_p95_ms for row in rows], rates, marker="s", linestyle="--", label="p95")
    for row in rows:
        axes.annotate(f" {row.concurrency}", (row.ttft_p50_ms, row.tokens_per_s))
    axes.set(xlabel="time to first token, ms", ylabel="generated tokens per second", title=title)
    axes.set_xscale("log")
    axes.set_ylim(0, 1.15 * max(rates))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the table, draw the picture; return the exit code."""
    parser = argparse.ArgumentParser(prog="turnwise engine bench", description=__doc__)
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--quantize", choices=get_args(Quantize), default="int8")
    parser.add_argument("--device", choices=get_args(Device), default="cpu")
    parser.add_argument("--concurrency", default="1,2,4,8,16,32", help="comma-separated")
    parser.add_argument("--prompt-tokens", default="32-256", help="lowest-highest")
    parser.add_argument("--reply-tokens", type=int, default=64)
    parser.add_argument("--requests-each", type=int, default=4, help="requests per unit in flight")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--png", type=Path, help="where the picture goes (needs matplotlib)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    low, _, high = options.prompt_tokens.partition("-")
    levels = [int(level) for level in options.concurrency.split(",")]
    loads = [
        Load(
            n,
            max(_LEAST_REQUESTS, n * options.requests_each),
            (int(low), int(high or low)),
            options.reply_tokens,
        )
        for n in levels
    ]
    config = EngineConfig(
        model=options.model,
        quantize=options.quantize,
        device=options.device,
        n_threads=options.threads,
        max_running=max(levels),
        scope_share=1.0,
    )
    from rich.console import Console
    from rich.progress import Progress

    from local_models.engine import load_engine

    try:
        engine = load_engine(config)
    except LocalModelError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        rows = sweep(engine, loads, progress)
    if options.json:
        sys.stdout.write(json.dumps([asdict(row) for row in rows]) + "\n")
    else:
        sys.stdout.write(table_of(rows) + "\n")
    if options.png:
        draw(rows, options.png, f"{options.model}, {options.quantize}, threads: {options.threads}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
