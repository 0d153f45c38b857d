"""The transformer: Llama, Qwen2, Qwen3 and Mistral dense, read top to bottom.

Owns the order of the arithmetic. Linear layers come from `weights`, attention from `attention`;
rows of any mix of sequences go through together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F

from local_models.attention import PagedCache, Span
from local_models.config import KvCache
from local_models.shape import ModelShape
from local_models.weights import Weights


class Cache(Protocol):
    """Where keys and values lie; `attention.PagedCache`, or `cuda.TableCache` on a GPU."""

    def attend(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, places: Any
    ) -> torch.Tensor:
        """Store a step's keys and values at its places; return each row's attention, as q."""
        ...


class Model:
    """A decoder whose `forward` takes flat rows; inference only, one thread at a time."""

    def __init__(self, shape: ModelShape, weights: Weights) -> None:
        self.shape = shape
        self._embed = weights.embedding("model.embed_tokens.weight")
        self._layers = [_Layer(shape, weights, at) for at in range(shape.n_layers)]
        self._norm = weights.vector("model.norm.weight")
        head = "model.embed_tokens.weight" if shape.is_tied else "lm_head.weight"
        self._head = weights.linear(head)
        angles = torch.arange(shape.context_tokens, dtype=torch.float32)[:, None] * torch.tensor(
            shape.rope_inv_freq, dtype=torch.float32
        )
        self._cos = angles.cos().to(weights.device)
        self._sin = angles.sin().to(weights.device)

    def allocate(self, n_pages: int, page_tokens: int, kv_cache: KvCache = "full") -> None:
        """Take memory for the KV pages."""
        self._cache = PagedCache(self.shape, n_pages, page_tokens, kv_cache)

    def forward(
        self, tokens: Sequence[int], spans: Sequence[Span], wanted: Sequence[int]
    ) -> torch.Tensor:
        """Return float32 logits [len(wanted), vocabulary] of the wanted rows.

        `wanted` are the rows whose next token is to be chosen. The cache gains the keys and values
        of all rows.
        """
        places = self._cache.places(spans)
        rows = torch.tensor(wanted, dtype=torch.int64)
        return self.compute(torch.tensor(tokens), rows, places, self._cache)

    @torch.inference_mode()
    def compute(
        self, tokens: torch.Tensor, wanted: torch.Tensor, places: Any, cache: Cache
    ) -> torch.Tensor:
        """As `forward`, over tensors alone; `places` is the cache's, and has `positions`."""
        cos = self._cos[places.positions][:, None]
        sin = self._sin[places.positions][:, None]
        x = self._embed(tokens)
        for layer in self._layers:
            x = layer.forward(x, cos, sin, places, cache)
        x = x[wanted]
        x = F.rms_norm(x, (self.shape.hidden,), self._norm, self.shape.norm_eps)
        return self._head(x).float()


class _Layer:
    def __init__(self, shape: ModelShape, weights: Weights, at: int) -> None:
        prefix = f"model.layers.{at}."
        attention, mlp = prefix + "self_attn.", prefix + "mlp."
        self._at = at
        self._shape = shape
        self._norm = weights.vector(prefix + "input_layernorm.weight")
        self._mlp_norm = weights.vector(prefix + "post_attention_layernorm.weight")
        qkv = [f"{attention}{part}_proj.weight" for part in "qkv"]
        self._qkv = weights.linear(*qkv, bias=shape.has_qkv_bias)
        self._out = weights.linear(attention + "o_proj.weight", bias=shape.has_o_bias)
        gate_up = [f"{mlp}{part}_proj.weight" for part in ("gate", "up")]
        self._gate_up = weights.linear(*gate_up, bias=shape.has_mlp_bias)
        self._down = weights.linear(mlp + "down_proj.weight", bias=shape.has_mlp_bias)
        if shape.has_qk_norm:
            self._q_norm = weights.vector(attention + "q_norm.weight")
            self._k_norm = weights.vector(attention + "k_norm.weight")

    def forward(
        self,
        x: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        places: Any,
        cache: Cache,
    ) -> torch.Tensor:
        shape = self._shape
        hidden = (shape.hidden,)
        qkv = self._qkv(F.rms_norm(x, hidden, self._norm, shape.norm_eps))
        heads, kv_heads, dim = shape.n_heads, shape.n_kv_heads, shape.head_dim
        qkv = qkv.view(-1, heads + 2 * kv_heads, dim)
        q, k, v = qkv.tensor_split((heads, heads + kv_heads), dim=1)
        if shape.has_qk_norm:
            q = F.rms_norm(q, (dim,), self._q_norm, shape.norm_eps)
            k = F.rms_norm(k, (dim,), self._k_norm, shape.norm_eps)
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        x = x + self._out(cache.attend(self._at, q, k, v, places).flatten(1))
        gate, up = self._gate_up(F.rms_norm(x, hidden, self._mlp_norm, shape.norm_eps)).chunk(
            2, dim=1
        )
        return x + self._down(F.silu(gate) * up)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Return x rotated by its position; halves are paired, as transformers stores them."""
    first, second = x.chunk(2, dim=-1)
    rotated = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return rotated.to(x.dtype)
