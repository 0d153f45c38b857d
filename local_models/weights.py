"""Weights: a folder of safetensors -> named tensors and Linear layers, quantized where asked.

Owns the on-disk layout (transformers' names; integer matrices beside `NAME_scale`) and the kinds
of linear layer behind one call. Knows nothing of attention or batching.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file

from local_models.config import Quantize
from local_models.errors import ModelRefused

INT4_GROUP = 32
_FEW_ROWS = 32
# For each weight, scales included; embeddings stay at 8 bits.
_BYTES_HELD: dict[Quantize, float] = {"none": 4, "int8": 1.01, "int4": 0.8}


class Linear(Protocol):
    """x float [rows, in] -> float [rows, out]."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return x times the transposed weight, plus the bias where there is one."""
        ...


class FloatLinear:
    """A full-precision matrix."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.weight = weight
        self.bias = bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return F.linear of x."""
        return F.linear(x, self.weight, self.bias)


class Int8Linear:
    """int8 rows with one float32 scale each; activations are rounded to int8 row by row.

    A row's scale depends on that row alone, so a request's answer does not depend on which others
    share its batch.
    """

    def __init__(
        self, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None
    ) -> None:
        self.weight = weight.contiguous()
        self.scale = scale.float().contiguous()
        self.bias = bias
        self._transposed = self.weight.t()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return the product through the integer kernel of this device."""
        step = x.abs().amax(dim=-1, keepdim=True).clamp_(min=1e-8).div_(127)
        rounded = (x / step).round_().to(torch.int8)
        out = torch._int_mm(rounded, self._transposed).float()
        out = out.mul_(step).mul_(self.scale)
        return out if self.bias is None else out.add_(self.bias)


class Int4Linear:
    """4-bit groups of 32 along the input with a float scale and offset each; float activations."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        rows, columns = weight.shape
        codes, scale, low = quantize_groups(weight)
        self.bias = bias
        self._packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(
            codes.view(rows, columns).to(torch.int32), 1
        )
        # The kernel computes (code - 8) * scale + offset.
        offset = low + 8 * scale
        self._scales = torch.stack([scale, offset], dim=-1).transpose(0, 1).contiguous()
        self._scales = self._scales.to(torch.bfloat16)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return the product; the kernel takes and gives bfloat16."""
        out: torch.Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            x.to(torch.bfloat16), self._packed, INT4_GROUP, self._scales
        ).float()
        return out if self.bias is None else out.add_(self.bias)


class HalfInt8Linear:
    """int8 rows with one scale each under bfloat16 activations, as on CUDA.

    Few rows go through torch's kernel, which reads the integers; for many the matrix is widened
    once, which their product pays for.
    """

    def __init__(
        self, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None
    ) -> None:
        self.weight = weight.contiguous()
        self.scale = scale.to(torch.bfloat16).contiguous()
        self.bias = bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return the product in bfloat16."""
        if len(x) <= _FEW_ROWS:
            out = torch._weight_int8pack_mm(x, self.weight, self.scale)
        else:
            out = F.linear(x, self.weight.to(x.dtype)) * self.scale
        return out if self.bias is None else out.add_(self.bias)


class HalfInt4Linear:
    """4-bit groups of 32 under bfloat16 activations; the kernel and its packing are CUDA's."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        rows, columns = weight.shape
        codes, scale, low = quantize_groups(weight)
        # The even column of a pair lies in the high half of its byte.
        pairs = (codes[:, ::2] << 4) | codes[:, 1::2]
        inner = next(n for n in (8, 4, 2) if columns % (16 * n) == 0)
        self.bias = bias
        self._packed = torch.ops.aten._convert_weight_to_int4pack(pairs.contiguous(), inner)
        # The kernel computes (code - 8) * scale + offset, scales as [groups, rows, 2].
        pair = torch.stack([scale, low + 8 * scale], dim=-1).transpose(0, 1)
        self._scales = pair.contiguous().to(torch.bfloat16)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return the product in bfloat16."""
        out: torch.Tensor = torch.ops.aten._weight_int4pack_mm(
            x, self._packed, INT4_GROUP, self._scales
        )
        return out if self.bias is None else out.add_(self.bias)


class Weights:
    """The tensors of one folder, handed out by transformers' names."""

    def __init__(
        self,
        tensors: Mapping[str, torch.Tensor],
        quantize: Quantize,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.device = torch.device(device)
        self.dtype = dtype
        self._tensors = tensors
        self._quantize = quantize

    def vector(self, name: str) -> torch.Tensor:
        """Return a tensor as it is, in the type that is computed in."""
        return self._take(name).to(self.dtype).contiguous()

    def embedding(self, name: str) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return ids int64 [n] -> float [n, hidden]; an integer table stays integer."""
        table = self._take(name)
        if table.dtype != torch.int8:
            table = table.to(self.dtype)
            return lambda ids: F.embedding(ids, table)
        scale = self._take(f"{name}_scale").to(self.dtype)[:, None]
        return lambda ids: F.embedding(ids, table).to(self.dtype) * F.embedding(ids, scale)

    def linear(self, *names: str, bias: bool = False) -> Linear:
        """Return one layer over the named matrices stacked by rows (q, k, v become one product)."""
        added = self.biases(names) if bias else None
        is_half = self.dtype != torch.float32
        if self._quantize == "int8":
            kind = HalfInt8Linear if is_half else Int8Linear
            return kind(*self.int8(*names), added)
        weight = self.matrix(*names)
        # A matrix whose sides do not fit the packed layout keeps full precision.
        fits = weight.shape[1] % INT4_GROUP == 0 and weight.shape[0] % 16 == 0
        if self._quantize == "int4" and fits:
            return HalfInt4Linear(weight, added) if is_half else Int4Linear(weight, added)
        return FloatLinear(weight.to(self.dtype), added)

    def matrix(self, *names: str) -> torch.Tensor:
        """Return the named matrices stacked by rows, float32 [rows, columns]."""
        parts = []
        for name in names:
            part = self._take(name)
            if part.dtype == torch.int8:
                part = part.float() * self._take(f"{name}_scale").float()[:, None]
            elif part.dtype == torch.uint8:
                scale, low = self._take(f"{name}_scale"), self._take(f"{name}_low")
                codes = unpack_codes(part).view(*scale.shape, INT4_GROUP).float()
                part = (codes * scale.float()[..., None] + low.float()[..., None]).flatten(1)
            parts.append(part.float())
        return torch.cat(parts)

    def int8(self, *names: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the named matrices stacked as int8 [rows, columns] and float32 scales [rows]."""
        if all(self._take(name).dtype == torch.int8 for name in names):
            scales = [self._take(f"{name}_scale").float() for name in names]
            return torch.cat([self._take(name) for name in names]), torch.cat(scales)
        return quantize_rows(self.matrix(*names))

    def biases(self, names: Sequence[str]) -> torch.Tensor:
        """Return the biases beside the named matrices, stacked."""
        return torch.cat([self.vector(n.removesuffix("weight") + "bias") for n in names])

    def _take(self, name: str) -> torch.Tensor:
        tensor = self._tensors.get(name)
        if tensor is None:
            raise ModelRefused(f"The weights lack {name!r}.")
        return tensor.to(self.device)


def quantize_rows(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a float matrix as int8 [rows, columns] and its float32 scales [rows]."""
    scale = weight.abs().amax(dim=1).clamp(min=1e-8) / 127
    return (weight / scale[:, None]).round().to(torch.int8), scale


def quantize_groups(
    weight: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return a float matrix in groups of 32 columns: codes, scales and lowest values.

    uint8 [rows, columns] from 0 to 15, float32 [rows, groups], float32 [rows, groups]; a weight is
    about code * scale + low.
    """
    groups = weight.float().view(weight.shape[0], -1, INT4_GROUP)
    low, high = groups.amin(dim=-1), groups.amax(dim=-1)
    scale = ((high - low) / 15).clamp(min=1e-8)
    codes = ((groups - low[..., None]) / scale[..., None]).round().clamp(0, 15)
    return codes.to(torch.uint8).flatten(1), scale, low


def pack_codes(codes: torch.Tensor) -> torch.Tensor:
    """Return 4-bit codes uint8 [rows, columns] two to a byte: uint8 [rows, columns / 2]."""
    return codes[:, ::2] | (codes[:, 1::2] << 4)


def unpack_codes(packed: torch.Tensor) -> torch.Tensor:
    """Return the codes that `pack_codes` packed."""
    return torch.stack([packed & 15, packed >> 4], dim=-1).flatten(1)


def load_weights(folder: Path, quantize: Quantize, available_bytes: int | None = None) -> Weights:
    """Return the weights of a folder, ready to be handed out.

    Raises:
        ModelRefused: as `load_tensors`, or too large once they are in the type asked for.
    """
    tensors = load_tensors(folder, available_bytes)
    needed = sum(tensor.numel() for tensor in tensors.values()) * _BYTES_HELD[quantize]
    free = available_bytes or _free_bytes()
    if free is not None and needed > free:
        raise ModelRefused(
            f"The weights in {folder} take {int(needed):,} bytes with --quantize {quantize} and "
            f"this machine has {free:,} left."
        )
    return Weights(tensors, quantize)


def load_tensors(folder: Path, available_bytes: int | None = None) -> dict[str, torch.Tensor]:
    """Return the tensors of a folder: one safetensors file, or the shards its index names.

    Raises:
        ModelRefused: no safetensors there, or a file that is cut or garbled.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    try:
        if not single.is_file() and not index.is_file():
            raise ModelRefused(f"{folder} holds no safetensors; other weights are not read.")
        if single.is_file():
            files = [single]
        else:
            named = json.loads(index.read_text("utf-8"))["weight_map"].values()
            files = [folder / name for name in sorted(set(named))]
        needed, free = sum(file.stat().st_size for file in files), available_bytes or _free_bytes()
        if free is not None and needed > free:
            raise ModelRefused(
                f"The weights in {folder} take {needed:,} bytes and this machine has {free:,} left."
            )
        tensors: dict[str, torch.Tensor] = {}
        for file in files:
            tensors |= load_file(file)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelRefused(f"The weights in {folder} cannot be read: {error}.") from error
    return tensors


def _free_bytes() -> int | None:
    """Return the memory that can be had without swapping, None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    except OSError:
        return None
    found = [line.split() for line in lines if line.startswith("MemAvailable:")]
    return int(found[0][1]) * 1024 if found else None
