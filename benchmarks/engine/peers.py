"""The engine at int8 against ctranslate2 and transformers' continuous batching, in one run.

    python -m benchmarks.engine.peers [--size 60]

Needs `pip install ctranslate2` for the first part. Random-weight Llama, one thread, tokens per
CPU-second. The second part is the mix that continuous batching is for: prompts of 32 to 1,024
tokens, 32 requests at once. transformers has no int8 kernel of its own on a CPU, so it runs twice:
in float32, and with this engine's int8 weights in its linear layers, behind torch's integer
product.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.engine.run import PROMPT, REPLY, build, engine_over, engine_rate, prompts
from local_models.bench import GREEDY
from local_models.store import BUNDLED
from local_models.weights import Int8Linear, quantize_rows


def ctranslate2_generator(folder: Path) -> tuple[Any, dict[int, str]]:
    """Return a generator over the converted folder and the names of its tokens."""
    import ctranslate2

    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(BUNDLED / name, folder)
    out = folder / "ct2"
    ctranslate2.converters.TransformersConverter(str(folder)).convert(
        str(out), quantization="int8", force=True
    )
    # The converter leaves tokens empty that the loader wants as text.
    config = json.loads((out / "config.json").read_text())
    for name in ("bos_token", "eos_token", "unk_token"):
        config[name] = config.get(name) or "<|endoftext|>"
    (out / "config.json").write_text(json.dumps(config))
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    generator = ctranslate2.Generator(
        str(out), device="cpu", compute_type="int8", intra_threads=1, inter_threads=1
    )
    return generator, {at: name for name, at in vocabulary.items()}


def against_ctranslate2(size: int, folder: Path) -> None:
    generator, names = ctranslate2_generator(folder)
    engine = engine_over(folder, "int8")
    for n in (1, 8, 32):
        words = [[names.get(token, "a") for token in prompt] for prompt in prompts(n, PROMPT)]

        def peer(words: list[list[str]] = words) -> float:
            started = time.process_time()
            found = generator.generate_batch(
                words,
                max_length=REPLY,
                min_length=REPLY,
                sampling_topk=1,
                include_prompt_in_result=False,
                end_token=[],
                max_batch_size=32,
            )
            n_tokens = sum(len(each.sequences_ids[0]) for each in found)
            return n_tokens / (time.process_time() - started)

        peer()
        pairs = [(peer(), engine_rate(engine, n)) for _ in range(5)]
        theirs, ours = (statistics.median(side) for side in zip(*pairs, strict=True))
        print(
            f"{size} M, {n} concurrent: ctranslate2 int8 {theirs:.0f}, engine int8 {ours:.0f} "
            f"({ours / theirs:.2f}x)",
            flush=True,
        )


class Int8Module(torch.nn.Module):
    """transformers' linear layer with the engine's int8 weights in it."""

    def __init__(self, layer: torch.nn.Linear) -> None:
        super().__init__()
        self._linear = Int8Linear(*quantize_rows(layer.weight.detach()), layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the product; `Int8Linear` takes rows."""
        return self._linear(x.flatten(0, -2)).view(*x.shape[:-1], -1)


def to_int8(model: Any) -> None:
    """Replace every linear layer of the model in place."""
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, torch.nn.Linear):
                setattr(parent, name, Int8Module(layer))


def against_continuous_batching(size: int, folder: Path, model: Any) -> None:
    from transformers import GenerationConfig

    rng = random.Random(6)
    mixed = [[rng.randrange(3, 8000) for _ in range(rng.randint(32, 1024))] for _ in range(32)]
    config = GenerationConfig(
        max_new_tokens=REPLY, do_sample=False, eos_token_id=-1, pad_token_id=0, use_cuda_graph=False
    )

    def peer(given: list[list[int]]) -> float:
        started = time.process_time()
        found = model.generate_batch(inputs=given, generation_config=config, progress_bar=False)
        n_tokens = sum(len(each.generated_tokens) for each in found.values())
        return n_tokens / (time.process_time() - started)

    def own(given: list[list[int]]) -> float:
        engine = engine_over(folder, "int8", reuse_prefixes=False)
        engine.generate(given[:1], GREEDY, 4)
        started = time.process_time()
        found = engine.generate(given, GREEDY, REPLY)
        return sum(map(len, found)) / (time.process_time() - started)

    ours = own(mixed)
    for weights in ("fp32", "the same int8"):
        if weights != "fp32":
            to_int8(model)
        peer(mixed[:2])
        theirs = peer(mixed)
        print(
            f"{size} M, 32 mixed prompts: continuous batching with {weights} weights "
            f"{theirs:.0f}, engine int8 {ours:.0f} ({ours / theirs:.2f}x)",
            flush=True,
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=60, choices=(5, 60, 200))
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = build(options.size, folder)
        try:
            against_ctranslate2(options.size, folder)
        except ImportError:
            print("ctranslate2 is not installed: its part is left out")
        against_continuous_batching(options.size, folder, model)
    return 0


if __name__ == "__main__":
    sys.exit(main())
