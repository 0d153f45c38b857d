"""Attention over a paged KV cache: where keys and values lie, and how queries read them.

Owns the cache tensors. Knows pages and positions, not requests.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from local_models.shape import ModelShape


@dataclass(frozen=True, slots=True)
class Span:
    """One sequence's part of a batch: rows [first, first + n_rows) at positions from `position`.

    `pages` int64 [n] holds its page numbers in order.
    """

    first: int
    n_rows: int
    position: int
    pages: torch.Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """What every layer of one step needs: positions int64 [rows], slots int64 [rows], spans.

    A slot is page * page_tokens + offset: the place in the cache of a row's key and value.
    """

    positions: torch.Tensor
    slots: torch.Tensor
    spans: tuple[Span, ...]


class PagedCache:
    """Keys and values of all layers: float32 [layers, 2, pages * page_tokens, kv_heads, dim]."""

    def __init__(self, shape: ModelShape, n_pages: int, page_tokens: int) -> None:
        self.page_tokens = page_tokens
        size = (shape.n_layers, 2, n_pages * page_tokens, shape.n_kv_heads, shape.head_dim)
        # torch.empty: memory is touched, and so resident, only where pages are used.
        self.values = torch.empty(size, dtype=torch.float32)

    def attend(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, batch: Batch
    ) -> torch.Tensor:
        """Store this step's keys and values, then return each row's attention output.

        q float [rows, heads, dim]; k, v float [rows, kv_heads, dim]; result as q. A row sees every
        position of its sequence up to its own.
        """
        keys, values = self.values[layer, 0], self.values[layer, 1]
        keys.index_copy_(0, batch.slots, k)
        values.index_copy_(0, batch.slots, v)
        out = torch.empty_like(q)
        for span in batch.spans:
            n_seen = span.position + span.n_rows
            seen_k = self._gather(keys, span.pages, n_seen)
            seen_v = self._gather(values, span.pages, n_seen)
            rows = slice(span.first, span.first + span.n_rows)
            mask = None
            if span.n_rows > 1:
                at = torch.arange(n_seen)
                mask = at[None, :] <= at[span.position :, None]
            out[rows] = F.scaled_dot_product_attention(
                q[rows].transpose(0, 1)[None],
                seen_k.transpose(0, 1)[None],
                seen_v.transpose(0, 1)[None],
                attn_mask=mask,
                enable_gqa=True,
            )[0].transpose(0, 1)
        return out

    def _gather(self, cache: torch.Tensor, pages: torch.Tensor, n_seen: int) -> torch.Tensor:
        paged = cache.view(-1, self.page_tokens, *cache.shape[1:])
        return paged[pages].flatten(0, 1)[:n_seen]
