"""Train the bundled model from nothing: `python -m local_models.bundled.train --minutes 45`.

Owns the tokenizer, the model's shape, the training loop, the int8 file and the card. One CPU thread
is enough; the learning rate follows the clock, so a slower machine trains on fewer tokens.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import math
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.multiprocessing.spawn import spawn
from transformers import Qwen3Config, Qwen3ForCausalLM

from local_models.bundled.corpus import HERE, dialogues

log = logging.getLogger(__name__)
CONTEXT_TOKENS = 2048
BATCH_TOKENS = 1536
HELD_OUT_SEED = 7_000_001
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
# Marks (Mn, Mc) stay with their letters: Indic words would fall apart otherwise. Digits stand
# alone, so that a number of any length is copied digit by digit.
_WORDS = (
    r"'(?:s|t|re|ve|m|ll|d)|[^\r\n\p{L}\p{M}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{%- if tools %}{{ '<|im_start|>system\nTools: ' + (tools | tojson) + '<|im_end|>\n' }}"
    "{%- endif %}"
    "{%- for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + (message['content'] or '') + '<|im_end|>\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{%- endif %}"
)


def train_tokenizer(vocabulary: int) -> Tokenizer:
    """Return a byte-level BPE tokenizer fitted on the corpus."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (
        message["content"]
        for dialogue in itertools.islice(dialogues(1), 40_000)
        for message in dialogue
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def model_shape(vocabulary: int) -> Qwen3Config:
    """Return the configuration of the bundled model: 6.8 M parameters with tied embeddings."""
    return Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=CONTEXT_TOKENS,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=SPECIAL.index("<|im_end|>"),
        pad_token_id=SPECIAL.index("<|endoftext|>"),
    )


def encode_dialogue(
    tokenizer: Tokenizer, dialogue: list[dict[str, str]]
) -> tuple[list[int], list[bool]]:
    """Return the token ids of a dialogue and which of them the model must learn to say."""
    end, start, stop = range(len(SPECIAL))
    tokens: list[int] = []
    learned: list[bool] = []
    for message in dialogue:
        head = [start, *tokenizer.encode(message["role"] + "\n").ids]
        body = [*tokenizer.encode(message["content"]).ids, stop]
        tail = tokenizer.encode("\n").ids
        tokens += head + body + tail
        spoken = message["role"] == "assistant"
        learned += [False] * len(head) + [spoken] * len(body) + [False] * len(tail)
    return [*tokens, end], [*learned, False]


def packed_rows(
    tokenizer: Tokenizer, seed: int, length: int
) -> Iterator[tuple[list[int], list[int]]]:
    """Yield held-out rows of exactly `length` ids and labels (-100 where nothing is learned)."""
    ids: list[int] = []
    labels: list[int] = []
    for dialogue in dialogues(seed, is_held_out=True):
        tokens, learned = encode_dialogue(tokenizer, dialogue)
        ids += tokens
        labels += [
            token if is_learned else -100 for token, is_learned in zip(tokens, learned, strict=True)
        ]
        while len(ids) >= length:
            yield ids[:length], labels[:length]
            ids, labels = ids[length:], labels[length:]


def batches(
    tokenizer: Tokenizer, stream: Iterator[list[dict[str, str]]]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield ids and labels [rows, longest], each row a dialogue from its start, alike in length.

    One row in eight goes on with other dialogues; -100 where nothing is learned.
    """
    rng = random.Random(0)
    while True:
        rows: list[tuple[list[int], list[bool]]] = []
        for dialogue in itertools.islice(stream, 512):
            ids, learned = encode_dialogue(tokenizer, dialogue)
            if rows and rng.random() < 0.12:
                ids, learned = rows[-1][0] + ids, rows[-1][1] + learned
                rows.pop()
            rows.append((ids[:CONTEXT_TOKENS], learned[:CONTEXT_TOKENS]))
        rows.sort(key=lambda row: len(row[0]))
        groups: list[list[tuple[list[int], list[bool]]]] = [[]]
        for row in rows:
            if len(row[0]) * (len(groups[-1]) + 1) > BATCH_TOKENS and groups[-1]:
                groups.append([])
            groups[-1].append(row)
        rng.shuffle(groups)
        yield from map(_padded, groups)


def _padded(group: list[tuple[list[int], list[bool]]]) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(len(row) for row, _ in group)
    ids = torch.zeros(len(group), width, dtype=torch.int64)
    labels = torch.full_like(ids, -100)
    for at, (row, learned) in enumerate(group):
        ids[at, : len(row)] = torch.tensor(row)
        mask = torch.tensor(learned)
        labels[at, : len(row)][mask] = ids[at, : len(row)][mask]
    return ids, labels


def loss_of(model: Any, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean loss over labelled positions; logits are computed for those alone."""
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    wanted = labels[:, 1:]
    mask = wanted != -100
    logits = model.lm_head(hidden[mask]).float()
    return torch.nn.functional.cross_entropy(logits, wanted[mask])


def train(
    model: Any, tokenizer: Tokenizer, seed: int, minutes: float, peak: float, keep: Path
) -> int:
    """Train the model in place for so many minutes; return the number of tokens this worker saw.

    The rate rises over 30 steps, holds at `peak`, and falls over the last 60 % of the time. The
    first worker leaves a checkpoint in `keep` every four minutes.
    """
    # Rows are short: plain attention takes 0.88 of the fused kernel's time, gradients included.
    model.set_attn_implementation("eager")
    parameters = list(model.parameters())
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizers: list[torch.optim.Optimizer] = [
        # Its steps cost as much as a third of the gradients, so each worker takes its share.
        torch.optim.Muon(
            matrices[_rank() :: _n_workers()],
            lr=1.0,
            weight_decay=0.01,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(others, lr=1.0, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    started, saved, seen, progress = time.monotonic(), time.monotonic(), 0, 0.0
    for step, (ids, labels) in enumerate(batches(tokenizer, dialogues(seed + _rank()))):
        rate = min(1.0, (step + 1) / 30) * min(1.0, (1 - progress) / 0.6)
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = peak * max(rate, 0.01)
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model, ids, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        progress = _averaged(parameters, (time.monotonic() - started) / (minutes * 60))
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        model.zero_grad(set_to_none=True)
        _share(matrices)
        seen += int((ids != 0).sum())
        if step % 20 == 0:
            log.info("step %d, %.0f %%, %d tokens, %.3f", step, 100 * progress, seen, loss.item())
        is_over = progress >= 1
        if _rank() == 0 and (is_over or time.monotonic() - saved > 240):
            model.save_pretrained(keep)
            tokenizer.save(str(keep / "tokenizer.json"))
            saved = time.monotonic()
        if is_over:
            return seen
    raise AssertionError("the stream of dialogues is endless")


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _n_workers() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


@torch.no_grad()
def _share(matrices: list[torch.Tensor]) -> None:
    """Give every worker the matrices that the others have stepped."""
    for source in range(_n_workers() if dist.is_initialized() else 0):
        stepped = matrices[source :: _n_workers()]
        flat = torch.cat([matrix.flatten() for matrix in stepped])
        dist.broadcast(flat, source)
        for matrix, part in zip(
            stepped, torch.split(flat, [m.numel() for m in stepped]), strict=True
        ):
            matrix.copy_(part.view_as(matrix))


def _averaged(parameters: list[torch.Tensor], progress: float) -> float:
    """Average the gradients over all workers, in place; return the workers' mean progress."""
    if not dist.is_initialized():
        return progress
    grads = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([*(grad.flatten() for grad in grads), torch.tensor([progress])])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    parts = torch.split(flat[:-1], [grad.numel() for grad in grads])
    for grad, part in zip(grads, parts, strict=True):
        grad.copy_(part.view_as(grad))
    return float(flat[-1])


def load_floats(folder: Path) -> Any:
    """Return a model with the weights of a folder, float32, whether they are int8 there or not."""
    tensors = load_file(folder / "model.safetensors")
    state = {
        name: tensor.float() * tensors[f"{name}_scale"][:, None]
        if tensor.dtype == torch.int8
        else tensor.float()
        for name, tensor in tensors.items()
        if not name.endswith("_scale")
    }
    model = Qwen3ForCausalLM(model_shape(len(state["model.embed_tokens.weight"])))
    model.load_state_dict(state, strict=False)
    model.tie_weights()
    return model


@torch.no_grad()
def perplexity(model: Any, tokenizer: Tokenizer, rows: int = 40) -> float:
    """Return the perplexity of the answers in dialogues whose seed was never trained on."""
    losses = []
    for ids, labels in itertools.islice(packed_rows(tokenizer, HELD_OUT_SEED, 512), rows):
        losses.append(loss_of(model, torch.tensor([ids]), torch.tensor([labels])).item())
    return math.exp(sum(losses) / len(losses))


def quantize_int8(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the state with every matrix as int8 rows beside float32 scales, one a row."""
    packed = {}
    for name, tensor in state.items():
        if tensor.ndim != 2:
            packed[name] = tensor.float().contiguous()
            continue
        scale = tensor.float().abs().amax(dim=1).clamp(min=1e-8) / 127
        packed[name] = (tensor.float() / scale[:, None]).round().clamp(-127, 127).to(torch.int8)
        packed[f"{name}_scale"] = scale
    return packed


def save(folder: Path, model: Any, tokenizer: Tokenizer) -> None:
    """Write weights, configuration and tokenizer in the layout that transformers reads."""
    state = {k: v.detach() for k, v in model.state_dict().items() if k != "lm_head.weight"}
    save_file(quantize_int8(state), folder / "model.safetensors")
    config = model.config.to_dict()
    config["architectures"] = ["Qwen3ForCausalLM"]
    config["turnwise_quantization"] = {"bits": 8, "granularity": "per_channel"}
    _write_json(folder / "config.json", config)
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "model_max_length": CONTEXT_TOKENS,
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE,
        },
    )
    _write_json(
        folder / "generation_config.json",
        {
            "do_sample": False,
            "temperature": 0.0,
            "eos_token_id": model.config.eos_token_id,
            "pad_token_id": model.config.pad_token_id,
        },
    )


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", "utf-8")


def work(rank: int, options: argparse.Namespace, meeting: str) -> None:
    """Train as one of the workers; the first one measures and saves."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    if options.workers > 1:
        dist.init_process_group(
            "gloo", init_method=f"file://{meeting}", rank=rank, world_size=options.workers
        )
    if options.begin is None:
        tokenizer = train_tokenizer(options.vocabulary)
        model = Qwen3ForCausalLM(model_shape(tokenizer.get_vocab_size()))
    else:
        tokenizer = Tokenizer.from_file(str(options.begin / "tokenizer.json"))
        model = load_floats(options.begin)
    options.keep_float.mkdir(parents=True, exist_ok=True)
    seen = train(model, tokenizer, options.seed, options.minutes, options.peak, options.keep_float)
    if rank == 0:
        options.out.mkdir(parents=True, exist_ok=True)
        save(options.out, model, tokenizer)
        log.info("%d tokens, held-out perplexity %.3f", seen, perplexity(model, tokenizer))
    if options.workers > 1:
        dist.destroy_process_group()


def main() -> None:
    """Train, measure and save; progress goes to the log."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=45)
    parser.add_argument("--peak", type=float, default=4e-3, help="the highest learning rate")
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--workers", type=int, default=1, help="processes of one thread each")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument(
        "--keep-float", type=Path, required=True, help="float32 checkpoints go here"
    )
    parser.add_argument("--begin", type=Path, help="go on from the weights of this folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.workers > 1:
            spawn(work, (options, f"{folder}/meeting"), options.workers)  # type: ignore[no-untyped-call]
        else:
            work(0, options, "")


if __name__ == "__main__":
    main()
