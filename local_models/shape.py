"""ModelShape: what a transformers config.json says about a dense decoder, checked and named.

Owns the list of architectures that are served. Reads the JSON alone, so that no part of
transformers is imported to start a local folder.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_models.config import Device, KvCache
from local_models.errors import ModelRefused

SERVED = ("LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "MistralForCausalLM")


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes and switches of one Llama-like decoder.

    `rope_inv_freq` float [head_dim / 2]. `has_qkv_bias` (Qwen2), `has_qk_norm` (Qwen3).
    `quantized_bits` is set when the folder itself holds integer weights in our layout.
    """

    architecture: str
    n_layers: int
    hidden: int
    intermediate: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocabulary: int
    context_tokens: int
    norm_eps: float
    rope_inv_freq: tuple[float, ...]
    is_tied: bool
    has_qkv_bias: bool
    has_o_bias: bool
    has_mlp_bias: bool
    has_qk_norm: bool
    eos: frozenset[int]
    quantized_bits: int | None = None

    def kv_bytes_per_token(self, kv_cache: KvCache, device: Device = "cpu") -> int:
        """Return the bytes that one token's keys and values take, their scales included."""
        full = (4 if device == "cpu" else 2) * self.head_dim
        per_head = full if kv_cache == "full" else self.head_dim + 4
        return 2 * self.n_layers * self.n_kv_heads * per_head


def load_shape(folder: Path) -> ModelShape:
    """Return the shape of the model in a folder.

    Raises:
        ModelRefused: no readable config.json, or one that this engine does not serve.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelRefused(f"{path} cannot be read: {error}.") from error
    eos = config.get("eos_token_id")
    generation = folder / "generation_config.json"
    if generation.is_file():
        try:
            eos = json.loads(generation.read_text("utf-8")).get("eos_token_id", eos)
        except ValueError as error:
            raise ModelRefused(f"{generation} is no JSON: {error}.") from error
    try:
        return shape_of(config, eos)
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise ModelRefused(f"{path} lacks or garbles a field: {error!r}.") from error


def shape_of(config: Mapping[str, Any], eos: int | list[int] | None) -> ModelShape:
    """Return the shape that a transformers configuration describes."""
    architecture = (config.get("architectures") or ["an unnamed architecture"])[0]
    if architecture not in SERVED:
        raise ModelRefused(
            f"{architecture} is not served by the local engine, which knows {', '.join(SERVED)}. "
            "Serve it with vLLM or another OpenAI-compatible server and name that as a backend "
            "of kind openai."
        )
    if config.get("quantization_config"):
        raise ModelRefused(
            "The folder is quantized by another tool; give the full-precision folder and "
            "--quantize int8 or int4."
        )
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    context = config.get("max_position_embeddings", 2048)
    # A sliding window is honoured by never going past it.
    if config.get("sliding_window") and config.get("use_sliding_window", True):
        context = min(context, config["sliding_window"])
    quantization = config.get("turnwise_quantization") or {}
    is_qwen2 = architecture == "Qwen2ForCausalLM"
    bias = bool(config.get("attention_bias", False))
    return ModelShape(
        architecture=architecture,
        n_layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        intermediate=config["intermediate_size"],
        n_heads=heads,
        n_kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=head_dim,
        vocabulary=config["vocab_size"],
        context_tokens=context,
        norm_eps=config.get("rms_norm_eps", 1e-6),
        rope_inv_freq=_rope(config, head_dim),
        is_tied=bool(config.get("tie_word_embeddings", False)),
        has_qkv_bias=is_qwen2 or bias,
        has_o_bias=bias and not is_qwen2,
        has_mlp_bias=bool(config.get("mlp_bias", False)),
        has_qk_norm=architecture == "Qwen3ForCausalLM",
        eos=frozenset([eos] if isinstance(eos, int) else eos or []),
        quantized_bits=quantization.get("bits"),
    )


def _rope(config: Mapping[str, Any], head_dim: int) -> tuple[float, ...]:
    """Return the rotary frequencies: plain, linearly scaled, or Llama 3's bands.

    Source: transformers, modeling_rope_utils.py; Llama 3.1 model code for the bands.
    """
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = rope.get("rope_theta") or config.get("rope_theta") or 10_000.0
    kind = rope.get("rope_type") or rope.get("type") or "default"
    plain = [theta ** (-2 * i / head_dim) for i in range(head_dim // 2)]
    if kind == "default":
        return tuple(plain)
    if kind == "linear":
        return tuple(f / rope["factor"] for f in plain)
    if kind != "llama3":
        raise ModelRefused(f"Rotary scaling {kind!r} is not served (default, linear, llama3 are).")
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    original = rope["original_max_position_embeddings"]
    scaled = []
    for f in plain:
        turns = original * f / (2 * math.pi)
        blend = min(1.0, max(0.0, (turns - low) / (high - low)))
        scaled.append((1 - blend) * f / rope["factor"] + blend * f)
    return tuple(scaled)
