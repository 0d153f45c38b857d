"""The decoder on a GPU: bfloat16, attention through block tables, decode steps as CUDA graphs.

Owns the cache there, the batches as tensors and the captured graphs; the arithmetic is `model`'s.
Everything but the capture and the flash kernel also runs with device "cpu", where it is tested.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from local_models.attention import Span
from local_models.config import KvCache
from local_models.errors import ModelRefused
from local_models.model import Model
from local_models.shape import ModelShape
from local_models.weights import Weights

log = logging.getLogger(__name__)

# Which flash kernels of torch's registry read block tables, by the card's major capability.
_PAGED_KERNELS = {9: "FA3", 10: "FA4"}
# Columns of a decode step's tensor before the table: token, position, slot, tokens seen.
_N_COLUMNS = 4


@dataclass(frozen=True, slots=True)
class Batch:
    """A step as tensors on the device; int64 where not said otherwise.

    positions, slots: [rows]. table int32 [sequences, width]: page numbers. seen int32 [sequences]:
    tokens of each sequence after this step. starts int32 [sequences + 1]: its first row.
    rows [sequences, most_rows]: its rows, the last one repeated where it has fewer.
    places [rows]: where each row lies in `rows`, flattened.
    """

    positions: torch.Tensor
    slots: torch.Tensor
    table: torch.Tensor
    seen: torch.Tensor
    starts: torch.Tensor
    rows: torch.Tensor
    places: torch.Tensor


class TableCache:
    """Keys and values of all layers: [layers, 2, pages, page_tokens, kv_heads, dim].

    One page more than asked for: what rows of padding write goes there.
    """

    def __init__(
        self,
        shape: ModelShape,
        n_pages: int,
        page_tokens: int,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.page_tokens = page_tokens
        self.spare_page = n_pages
        size = (shape.n_layers, 2, n_pages + 1, page_tokens, shape.n_kv_heads, shape.head_dim)
        # Zeros: a masked place must hold numbers, for zero times NaN is NaN.
        self._pages = torch.zeros(size, dtype=dtype, device=device)
        self._flash = _flash_kernel(device)

    def attend(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, batch: Batch
    ) -> torch.Tensor:
        """Store this step's keys and values, then return each row's attention output.

        q [rows, heads, dim]; k, v [rows, kv_heads, dim]; result as q.
        """
        keys, values = self._pages[layer, 0], self._pages[layer, 1]
        keys.flatten(0, 1).index_copy_(0, batch.slots, k)
        values.flatten(0, 1).index_copy_(0, batch.slots, v)
        attend = self._flash or attend_by_table
        return attend(q, keys, values, batch)


def attend_by_table(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, batch: Batch
) -> torch.Tensor:
    """Return attention in plain torch: pages gathered, sequences padded to the longest."""
    query = q[batch.rows].transpose(1, 2)
    key, value = (cache[batch.table].flatten(1, 2).transpose(1, 2) for cache in (keys, values))
    at = torch.arange(key.shape[2], device=q.device)
    mask = at <= batch.positions[batch.rows][:, None, :, None]
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)
    return out.transpose(1, 2).flatten(0, 1)[batch.places]


def _attend_by_varlen(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, batch: Batch
) -> torch.Tensor:
    """Return the same through torch's variable-length attention over block tables."""
    from torch.nn.attention.varlen import varlen_attn

    out = varlen_attn(
        q,
        keys,
        values,
        batch.starts,
        None,
        batch.rows.shape[1],
        batch.table.shape[1] * keys.shape[1],
        window_size=(-1, 0),
        enable_gqa=True,
        seqused_k=batch.seen,
        block_table=batch.table,
    )
    assert isinstance(out, torch.Tensor)  # a pair only where more was asked for
    return out


def _flash_kernel(
    device: torch.device,
) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Batch], torch.Tensor] | None:
    """Return the flash kernel over block tables; None where this machine has none.

    torch's own flash attention has no block tables: they come with flash-attn-3 (compute
    capability 9) or flash-attn-4 (10), which torch activates where they are installed.
    """
    if device.type != "cuda":
        return None
    name = _PAGED_KERNELS.get(torch.cuda.get_device_capability(device)[0], "none")
    try:
        from torch.nn.attention import activate_flash_attention_impl
        from torch.nn.attention.varlen import varlen_attn

        if "block_table" not in inspect.signature(varlen_attn).parameters:
            raise ImportError("torch is older than 2.12")
        activate_flash_attention_impl(name)
    except (ImportError, RuntimeError, ValueError) as error:
        log.warning("no flash attention over block tables here, which is slower: %s", error)
        return None
    return _attend_by_varlen


class CudaModel:
    """A decoder on one device; inference only, one thread at a time."""

    def __init__(self, shape: ModelShape, weights: Weights) -> None:
        self.shape = shape
        self._device = weights.device
        self._dtype = weights.dtype
        self._model = Model(shape, weights)
        self._graphs: dict[tuple[int, int], _Graph] = {}

    def allocate(self, n_pages: int, page_tokens: int, kv_cache: KvCache = "full") -> None:
        """Take memory for the KV pages.

        Raises:
            ModelRefused: a cache in int8, which is for the CPU.
        """
        if kv_cache != "full":
            raise ModelRefused("On CUDA the cache is bfloat16; --kv-cache int8 is for the CPU.")
        self._cache = TableCache(
            self.shape, n_pages, page_tokens, device=self._device, dtype=self._dtype
        )
        self._graphs.clear()

    @torch.inference_mode()
    def forward(
        self, tokens: Sequence[int], spans: Sequence[Span], wanted: Sequence[int]
    ) -> torch.Tensor:
        """Return float32 logits [len(wanted), vocabulary] of the wanted rows, on the device."""
        if len(tokens) == len(spans) == len(wanted):
            return self._decode(tokens, spans)
        rows = torch.tensor(wanted, dtype=torch.int64, device=self._device)
        ids = torch.tensor(tokens, device=self._device)
        return self._model.compute(ids, rows, self._batch(spans), self._cache)

    def _batch(self, spans: Sequence[Span]) -> Batch:
        size, most = self._cache.page_tokens, max(span.n_rows for span in spans)
        width = max(len(span.pages) for span in spans)
        spare = self._cache.spare_page
        positions: list[int] = []
        slots: list[int] = []
        rows: list[list[int]] = []
        places: list[int] = []
        for at, span in enumerate(spans):
            own = range(span.position, span.position + span.n_rows)
            positions += own
            slots += [span.pages[p // size] * size + p % size for p in own]
            rows.append([span.first + min(r, span.n_rows - 1) for r in range(most)])
            places += range(at * most, at * most + span.n_rows)

        def to(values: object, dtype: torch.dtype = torch.int64) -> torch.Tensor:
            return torch.tensor(values, dtype=dtype, device=self._device)

        return Batch(
            to(positions),
            to(slots),
            to([_padded(span.pages, width, spare) for span in spans], torch.int32),
            to([span.position + span.n_rows for span in spans], torch.int32),
            to([*(span.first for span in spans), len(positions)], torch.int32),
            to(rows),
            to(places),
        )

    def _decode(self, tokens: Sequence[int], spans: Sequence[Span]) -> torch.Tensor:
        """Run one row of every sequence, padded to the next size that has a graph."""
        size, spare = self._cache.page_tokens, self._cache.spare_page
        n_rows = _next_power(len(spans))
        width = _next_power(max(len(span.pages) for span in spans))
        packed = []
        for token, span in zip(tokens, spans, strict=True):
            slot = span.pages[span.position // size] * size + span.position % size
            row = [token, span.position, slot, span.position + 1]
            packed.append(row + _padded(span.pages, width, spare))
        padding = [0, 0, spare * size, 1] + [spare] * width
        packed += [padding] * (n_rows - len(spans))
        graph = self._graphs.get((n_rows, width))
        if graph is None:
            graph = _Graph(self._compute_packed, torch.tensor(packed, device=self._device))
            self._graphs[n_rows, width] = graph
        return graph.run(torch.tensor(packed))[: len(spans)]

    def _compute_packed(self, packed: torch.Tensor) -> torch.Tensor:
        """Return the logits of a decode step that lies in one tensor, so that it is sent at once.

        int64 [rows, 4 + width]: token, position, slot, tokens seen, pages.
        """
        rows = torch.arange(len(packed), device=self._device)
        batch = Batch(
            packed[:, 1],
            packed[:, 2],
            packed[:, _N_COLUMNS:].to(torch.int32),
            packed[:, 3].to(torch.int32),
            torch.arange(len(packed) + 1, device=self._device, dtype=torch.int32),
            rows[:, None],
            rows,
        )
        return self._model.compute(packed[:, 0], rows, batch, self._cache)


class _Graph:
    """One function of one tensor, captured once and replayed; on a CPU simply called."""

    def __init__(
        self, compute: Callable[[torch.Tensor], torch.Tensor], given: torch.Tensor
    ) -> None:
        self._compute = compute
        self._given = given
        self._graph: torch.cuda.CUDAGraph | None = None
        if given.is_cuda:
            compute(given)  # libraries set themselves up in a first call, outside the capture
            torch.cuda.synchronize()
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._result = compute(given)

    def run(self, given: torch.Tensor) -> torch.Tensor:
        """Return the function's value; it is overwritten by the next run."""
        self._given.copy_(given)
        if self._graph is None:
            return self._compute(self._given)
        self._graph.replay()
        return self._result


def _padded(pages: Sequence[int], width: int, spare: int) -> list[int]:
    return [*pages, *[spare] * (width - len(pages))]


def _next_power(n: int) -> int:
    return 1 << (n - 1).bit_length()
