"""Everything about the CUDA path in one call: does it compute the right thing, and how fast.

    python -m benchmarks.engine.gpu                  # on a machine with a GPU
    python -m benchmarks.engine.gpu --rehearse       # the same code at tiny shapes on the CPU

First the tests that need a GPU, and every kind of weights against float32 on the CPU. Then random
weights of an 8B Llama's shapes: milliseconds of a decode step against the memory roofline, which is
the bytes of weights and of keys and values that the step must read, over the card's bandwidth. The
exit status is 1 when a check fails or a goal is missed.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from local_models.attention import Span
from local_models.bench import GREEDY
from local_models.config import EngineConfig
from local_models.cuda import CudaModel
from local_models.engine import Engine
from local_models.model import Model
from local_models.shape import ModelShape, shape_of
from local_models.weights import Weights

ROOT = Path(__file__).parents[2]
# Share of the roofline that a decode step must reach, by weights and batch.
GOALS = {("none", 1): 0.75, ("none", 32): 0.65, ("int4", 1): 0.50}
BITS = {"none": 16, "int8": 8 + 16 / 4096, "int4": 4 + 32 / 32}
# Of the data sheets, in bytes a second; what a copy reaches is printed beside it.
BANDWIDTH = {"H100": 3.35e12, "H200": 4.8e12, "A100": 2.04e12, "L40S": 0.864e12, "B200": 8e12}
LARGE = {"hidden": 4096, "intermediate": 14336, "layers": 32, "heads": 32, "kv_heads": 8}
SMALL = {"hidden": 256, "intermediate": 512, "layers": 2, "heads": 4, "kv_heads": 2}


def shape_with(sizes: Mapping[str, int], vocabulary: int) -> ModelShape:
    config = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": sizes["hidden"],
        "intermediate_size": sizes["intermediate"],
        "num_hidden_layers": sizes["layers"],
        "num_attention_heads": sizes["heads"],
        "num_key_value_heads": sizes["kv_heads"],
        "vocab_size": vocabulary,
        "max_position_embeddings": 4096,
    }
    return shape_of(config, 2)


class RandomTensors(Mapping[str, torch.Tensor]):
    """A checkpoint that is made up as it is read: a name gives the same tensor every time."""

    def __init__(self, shape: ModelShape, device: str) -> None:
        self._shape, self._device = shape, device

    def __getitem__(self, name: str) -> torch.Tensor:
        s = self._shape
        q, kv = s.n_heads * s.head_dim, s.n_kv_heads * s.head_dim
        sizes = {
            "embed_tokens": (s.vocabulary, s.hidden),
            "lm_head": (s.vocabulary, s.hidden),
            "q_proj": (q, s.hidden),
            "k_proj": (kv, s.hidden),
            "v_proj": (kv, s.hidden),
            "o_proj": (s.hidden, q),
            "gate_proj": (s.intermediate, s.hidden),
            "up_proj": (s.intermediate, s.hidden),
            "down_proj": (s.hidden, s.intermediate),
        }
        size = sizes.get(name.split(".")[-2])
        if size is None:
            return torch.ones(s.hidden, device=self._device)
        seed = sum(byte * 31**at for at, byte in enumerate(name.encode())) % 2**31
        random = torch.Generator(self._device).manual_seed(seed)
        values = torch.randn(size, generator=random, device=self._device, dtype=torch.bfloat16)
        return values.mul_(size[1] ** -0.5)

    def __iter__(self) -> Iterator[str]:
        raise NotImplementedError("nobody lists a made-up checkpoint")

    def __len__(self) -> int:
        raise NotImplementedError("nobody counts a made-up checkpoint")


def check(device: str, quantize: Any) -> bool:
    """Compare prompt and decode rows with the CPU's float32 over the same tensors."""
    shape = shape_with(SMALL, 512)
    tensors = RandomTensors(shape, "cpu")
    here = Model(shape, Weights(tensors, "none"))
    there = CudaModel(shape, Weights(tensors, quantize, device, torch.bfloat16))
    for model in (here, there):
        model.allocate(32, 16)
    first, second = [9, 4, 17, 2], [30, 5, 12, 1]
    steps = [
        (list(range(3, 63)), [Span(0, 40, 0, first), Span(40, 20, 0, second)]),
        ([70, 71], [Span(0, 1, 40, first), Span(1, 1, 20, second)]),
        ([72, 73, 74], [Span(0, 1, 41, first), Span(1, 2, 21, second)]),
        ([75, 76], [Span(0, 1, 42, first), Span(1, 1, 23, second)]),
    ]
    least = 1.0
    for tokens, spans in steps:
        wanted = range(len(tokens))
        found = there.forward(tokens, spans, wanted).float().cpu()
        likeness = torch.cosine_similarity(found, here.forward(tokens, spans, wanted))
        least = min(least, float(likeness.min()))
    wanted_likeness = {"none": 0.999, "int8": 0.998, "int4": 0.97}[quantize]
    print(f"| check {quantize} | least likeness to float32 {least:.4f}, wanted {wanted_likeness} |")
    return least >= wanted_likeness


def step_s(engine: Engine, batch: int, prompt_tokens: int, n_steps: int) -> float:
    """Return the median seconds of a decode step, sampling and scheduling included."""
    for at in range(batch):
        prompt = [3 + (7 * at + i) % 500 for i in range(prompt_tokens)]
        engine.add(prompt, GREEDY, max_new_tokens=n_steps + 16)
    while any(s.n_output < 8 for s in engine.scheduler.everyone()):
        engine.step()
    times = []
    for _ in range(n_steps):
        started = time.perf_counter()
        engine.step()  # ends with the chosen tokens on the host, so the device has finished
        times.append(time.perf_counter() - started)
    for sequence in engine.scheduler.everyone():
        engine.cancel(sequence)
    engine.step()
    return statistics.median(times)


def bytes_read(shape: ModelShape, quantize: str, batch: int, seen: int) -> float:
    """Return what one decode step must read: every matrix once, and what each sequence sees."""
    per_layer = shape.hidden * shape.head_dim * (2 * shape.n_heads + 2 * shape.n_kv_heads)
    per_layer += 3 * shape.hidden * shape.intermediate
    n_weights = shape.n_layers * per_layer + shape.vocabulary * shape.hidden
    return n_weights * BITS[quantize] / 8 + batch * seen * shape.kv_bytes_per_token("full", "cuda")


def copied_bytes_per_s(device: str) -> float:
    """Return the bandwidth that a large copy reaches; reading and writing both count."""
    source = torch.empty(1 << (30 if device == "cuda" else 26), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        target.copy_(source)
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * len(source) / best


def against_the_roofline(device: str, sizes: Mapping[str, int], kinds: list[Any]) -> bool:
    shape = shape_with(sizes, 128_256 if device == "cuda" else 512)
    n_prompt = 512 if device == "cuda" else 32
    copied = copied_bytes_per_s(device)
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    sheet = next((v for k, v in BANDWIDTH.items() if k in name), copied)
    print(f"\n{name}: {sheet / 1e12:.2f} TB/s, a copy reaches {copied / 1e12:.2f}; torch", end=" ")
    print(f"{torch.__version__}, random weights, prompts of {n_prompt} tokens")
    print("| weights | batch | ms per step | tokens per s | of the roofline | goal |")
    print("|---|---|---|---|---|---|")
    is_good = True
    for quantize in kinds:
        weights = Weights(RandomTensors(shape, device), quantize, device, torch.bfloat16)
        config = EngineConfig(
            kv_memory_bytes=12 << 30, scope_share=1.0, draft_tokens=0, context_tokens=2048
        )
        # The pages' size follows from where the model runs; the device itself is loaded already.
        config = dataclasses.replace(config, device="cuda", reuse_prefixes=False)
        engine = Engine(config, CudaModel(shape, weights))
        for batch in (1, 32):
            took_s = step_s(engine, batch, n_prompt, 64 if device == "cuda" else 4)
            share = bytes_read(shape, quantize, batch, n_prompt + 40) / sheet / took_s
            goal = GOALS.get((quantize, batch), 0.0)
            is_good = is_good and (device != "cuda" or share >= goal)
            print(
                f"| {quantize} | {batch} | {1e3 * took_s:.2f} | {batch / took_s:.0f} | "
                f"{share:.0%} | {f'{goal:.0%}' if goal else ''} |",
                flush=True,
            )
        del engine, weights
        if device == "cuda":
            torch.cuda.empty_cache()
    return is_good


def main() -> int:
    """Check, then time; return 1 when something is wrong or too slow."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rehearse", action="store_true", help="tiny shapes on the CPU")
    parser.add_argument("--quantize", default="none,int8,int4", help="comma-separated")
    options = parser.parse_args()
    if not options.rehearse and not torch.cuda.is_available():
        print("no CUDA device here: nothing was run (--rehearse runs the code on the CPU)")
        return 0
    kinds = options.quantize.split(",")
    if options.rehearse:
        device, sizes = "cpu", SMALL
        kinds.remove("int4")  # its packing and product exist on CUDA only
    else:
        device, sizes = "cuda", LARGE
        tests = [sys.executable, "-m", "pytest", "-q", "tests/local_models/test_cuda.py"]
        if subprocess.run(tests, cwd=ROOT, check=False).returncode:
            return 1
    if not all([check(device, quantize) for quantize in kinds]):
        return 1
    return 0 if against_the_roofline(device, sizes, kinds) else 1


if __name__ == "__main__":
    sys.exit(main())
