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
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Qwen3Config, Qwen3ForCausalLM

from local_models.bundled.corpus import HERE, dialogues

log = logging.getLogger(__name__)
CONTEXT_TOKENS = 2048
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
    """Yield rows of exactly `length` ids and labels (-100 where nothing is learned)."""
    ids: list[int] = []
    labels: list[int] = []
    for dialogue in dialogues(seed):
        tokens, learned = encode_dialogue(tokenizer, dialogue)
        ids += tokens
        labels += [
            token if is_learned else -100 for token, is_learned in zip(tokens, learned, strict=True)
        ]
        while len(ids) >= length:
            yield ids[:length], labels[:length]
            ids, labels = ids[length:], labels[length:]


def loss_of(model: Any, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean loss over labelled positions; logits are computed for those alone."""
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    wanted = labels[:, 1:]
    mask = wanted != -100
    logits = model.lm_head(hidden[mask]).float()
    return torch.nn.functional.cross_entropy(logits, wanted[mask])


def train(
    tokenizer: Tokenizer, minutes: float, begin: Path | None = None, seed: int = 3
) -> tuple[Any, int]:
    """Return the trained model and the number of tokens seen; `begin` holds earlier weights."""
    torch.manual_seed(seed)
    if begin is None:
        model = Qwen3ForCausalLM(model_shape(tokenizer.get_vocab_size()))
    else:
        model = Qwen3ForCausalLM.from_pretrained(begin, dtype=torch.float32)
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=1.0, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=1.0, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    peaks = [4e-3, 4e-3] if begin is None else [2e-3, 2e-3]
    # Two passes of one training never see the same dialogues.
    first = 2 if begin is None else 12
    short = packed_rows(tokenizer, first, 512)
    long = packed_rows(tokenizer, first + 1, CONTEXT_TOKENS)
    started, seen = time.monotonic(), 0
    for step in itertools.count():
        progress = (time.monotonic() - started) / (minutes * 60)
        if progress >= 1:
            return model, seen
        rate = min(1.0, (step + 1) / 40) * min(1.0, (1 - progress) / 0.5)
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * max(rate, 0.01)
        rows = [next(long)] if step % 5 == 4 else [next(short) for _ in range(6)]
        ids, labels = (torch.tensor(part) for part in zip(*rows, strict=True))
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model, ids, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        seen += ids.numel()
        if step % 25 == 0:
            log.info(
                "step %d, %.0f %%, %d tokens, loss %.3f", step, 100 * progress, seen, loss.item()
            )
    raise AssertionError("the loop above only ends by returning")


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


def main() -> None:
    """Train, measure and save; progress goes to the log."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=45)
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--keep-float", type=Path, help="also save the float32 weights here")
    parser.add_argument("--begin", type=Path, help="go on from this float32 folder")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.begin is None:
        tokenizer = train_tokenizer(options.vocabulary)
    else:
        tokenizer = Tokenizer.from_file(str(options.begin / "tokenizer.json"))
    log.info("vocabulary %d", tokenizer.get_vocab_size())
    model, seen = train(tokenizer, options.minutes, options.begin)
    if options.keep_float:
        model.save_pretrained(options.keep_float)
    save(options.out, model, tokenizer)
    log.info("%d tokens seen, held-out perplexity %.3f", seen, perplexity(model, tokenizer))


if __name__ == "__main__":
    main()
