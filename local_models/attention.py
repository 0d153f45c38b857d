"""Attention over a paged KV cache in torch: where keys and values lie, how queries read them.

Owns the cache tensors. Knows pages and positions, not requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from local_models.config import KvCache
from local_models.shape import ModelShape


@dataclass(frozen=True, slots=True)
class Span:
    """One sequence's part of a step: rows [first, first + n_rows) at positions from `position`.

    `pages` holds its page numbers in order, those of its earlier tokens included.
    """

    first: int
    n_rows: int
    position: int
    pages: Sequence[int]


@dataclass(frozen=True, slots=True)
class Places:
    """Where a step's rows are: positions int64 [rows], slots int64 [rows], and pages per span.

    A slot is page * page_tokens + offset: the place in the cache of a row's key and value.
    """

    positions: torch.Tensor
    slots: torch.Tensor
    spans: Sequence[Span]
    pages: tuple[torch.Tensor, ...]


class PagedCache:
    """Keys and values of all layers: [layers, 2, pages * page_tokens, kv_heads, dim].

    float32, or int8 with one float32 scale for each token and head.
    """

    def __init__(
        self, shape: ModelShape, n_pages: int, page_tokens: int, kv_cache: KvCache = "full"
    ) -> None:
        self.page_tokens = page_tokens
        size = (shape.n_layers, 2, n_pages * page_tokens, shape.n_kv_heads, shape.head_dim)
        # torch.empty: memory is touched, and so resident, only where pages are used.
        is_int8 = kv_cache == "int8"
        self.values = torch.empty(size, dtype=torch.int8 if is_int8 else torch.float32)
        self.scales = torch.empty((*size[:-1], 1)) if is_int8 else None

    def places(self, spans: Sequence[Span]) -> Places:
        """Return where the rows of these spans are."""
        size = self.page_tokens
        positions: list[int] = []
        slots: list[int] = []
        for span in spans:
            own = range(span.position, span.position + span.n_rows)
            positions += own
            slots += [span.pages[p // size] * size + p % size for p in own]
        pages = tuple(torch.tensor(span.pages) for span in spans)
        return Places(torch.tensor(positions), torch.tensor(slots), spans, pages)

    def attend(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, places: Places
    ) -> torch.Tensor:
        """Store this step's keys and values, then return each row's attention output.

        q float [rows, heads, dim]; k, v float [rows, kv_heads, dim]; result as q. A row sees every
        position of its sequence up to its own.
        """
        self._store(layer, 0, k, places.slots)
        self._store(layer, 1, v, places.slots)
        out = torch.empty_like(q)
        for span, pages in zip(places.spans, places.pages, strict=True):
            n_seen = span.position + span.n_rows
            rows = slice(span.first, span.first + span.n_rows)
            mask = None
            if span.n_rows > 1:
                at = torch.arange(n_seen)
                mask = at[None, :] <= at[span.position :, None]
            out[rows] = F.scaled_dot_product_attention(
                q[rows].transpose(0, 1)[None],
                self._gather(layer, 0, pages, n_seen).transpose(0, 1)[None],
                self._gather(layer, 1, pages, n_seen).transpose(0, 1)[None],
                attn_mask=mask,
                enable_gqa=True,
            )[0].transpose(0, 1)
        return out

    def _store(self, layer: int, which: int, x: torch.Tensor, slots: torch.Tensor) -> None:
        if self.scales is not None:
            scale = x.abs().amax(dim=-1, keepdim=True).clamp(min=1e-8) / 127
            self.scales[layer, which].index_copy_(0, slots, scale)
            x = (x / scale).round().to(torch.int8)
        self.values[layer, which].index_copy_(0, slots, x)

    def _gather(self, layer: int, which: int, pages: torch.Tensor, n_seen: int) -> torch.Tensor:
        found = self._pages(self.values[layer, which], pages, n_seen)
        if self.scales is None:
            return found
        return found * self._pages(self.scales[layer, which], pages, n_seen)

    def _pages(self, cache: torch.Tensor, pages: torch.Tensor, n_seen: int) -> torch.Tensor:
        paged = cache.view(-1, self.page_tokens, *cache.shape[1:])
        return paged[pages].flatten(0, 1)[:n_seen]
