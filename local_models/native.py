"""The decoder as one C call a step, for quantized weights on a CPU.

Owns building native.c with the machine's own compiler, packing weights for it, and the KV pages in
its layout. Same `forward` as `model.Model`, which serves where there is no compiler.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from local_models.attention import Span
from local_models.config import KvCache
from local_models.shape import ModelShape
from local_models.weights import INT4_GROUP, Weights, quantize_groups

log = logging.getLogger(__name__)

LANES, GROUP = 16, INT4_GROUP
_SOURCE = Path(__file__).with_name("native.c")
_FLAGS = ["-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC"]
_BUILD_S = 120


class _Linear(ctypes.Structure):
    _fields_ = [
        *[(name, ctypes.c_int32) for name in ("bits", "rows", "columns", "padded")],
        *[(name, ctypes.c_void_p) for name in ("packed", "scale", "offset", "bias")],
    ]


class _Layer(ctypes.Structure):
    _fields_ = [
        *[(name, ctypes.c_void_p) for name in ("norm", "mlp_norm", "q_norm", "k_norm")],
        *[(name, _Linear) for name in ("qkv", "out", "gate_up", "down")],
    ]


_SIZES = "n_layers hidden intermediate n_heads n_kv_heads dim vocabulary n_pages"
_TABLES = "embedding embedding_scale norm cosines sines layers"


class _Model(ctypes.Structure):
    _fields_ = [
        *[(name, ctypes.c_int32) for name in _SIZES.split()],
        ("eps", ctypes.c_float),
        ("n_threads", ctypes.c_int32),
        *[(name, ctypes.c_void_p) for name in _TABLES.split()],
        ("head", _Linear),
        *[(name, ctypes.c_void_p) for name in ("keys", "values", "key_scales", "value_scales")],
    ]


class _Span(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int32) for name in ("first", "n_rows", "position", "first_page")]


def can_serve(shape: ModelShape, page_tokens: int) -> bool:
    """Return whether the kernel's layout fits the model: whole vectors, pages of sixteen."""
    return shape.head_dim % LANES == 0 and page_tokens == LANES


def build_library(cache: Path | None = None) -> ctypes.CDLL | None:
    """Return the compiled kernel, built on first use and kept; None without a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        log.warning("no C compiler: quantized matrices go through torch, which is slower")
        return None
    key = hashlib.sha256(_SOURCE.read_bytes() + _cpu_flags() + " ".join(_FLAGS).encode())
    library = _cache_folder(cache) / f"native-{key.hexdigest()[:16]}.so"
    if not library.is_file():
        # Built beside its place and renamed: two engines may start at once.
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            built = Path(folder) / "native.so"
            command = [compiler, *_FLAGS, str(_SOURCE), "-o", str(built), "-lm"]
            if not (_compile([*command, "-fopenmp"]) or _compile(command)):
                return None
            built.replace(library)
    loaded = ctypes.CDLL(str(library))
    loaded.tw_forward.restype = ctypes.c_int
    return loaded


def _compile(command: list[str]) -> bool:
    try:
        done = subprocess.run(command, capture_output=True, timeout=_BUILD_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("the C kernel was not built: %s", error)
        return False
    if done.returncode:
        log.warning("the C kernel was not built: %s", done.stderr.decode(errors="replace")[-400:])
    return done.returncode == 0


def _cache_folder(cache: Path | None) -> Path:
    folder = cache or Path.home() / ".cache" / "turnwise"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return Path(tempfile.mkdtemp(prefix="turnwise-"))


def _cpu_flags() -> bytes:
    """Return what -march=native depends on, so that a shared home does not mix machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor().encode() + platform.machine().encode()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "").encode()


class NativeModel:
    """A decoder with int8 or int4 matrices; inference only, one thread at a time."""

    def __init__(
        self, shape: ModelShape, weights: Weights, bits: int, library: ctypes.CDLL, n_threads: int
    ) -> None:
        self.shape = shape
        self._library = library
        # ctypes holds bare addresses: whatever they point at is kept alive here.
        self._kept: list[Any] = []
        self._stride = -(-shape.vocabulary // LANES) * LANES
        layers = (_Layer * shape.n_layers)()
        for at in range(shape.n_layers):
            layers[at] = self._layer(weights, at, bits)
        self._kept.append(layers)
        table, scale = weights.int8("model.embed_tokens.weight")
        head = (table, scale) if shape.is_tied else weights.int8("lm_head.weight")
        angles = torch.arange(shape.context_tokens, dtype=torch.float32)[:, None] * torch.tensor(
            shape.rope_inv_freq, dtype=torch.float32
        )
        self._model = _Model(
            shape.n_layers,
            shape.hidden,
            shape.intermediate,
            shape.n_heads,
            shape.n_kv_heads,
            shape.head_dim,
            shape.vocabulary,
            0,
            shape.norm_eps,
            n_threads,
            self._keep(table.contiguous()),
            self._keep(scale),
            self._keep(weights.vector("model.norm.weight")),
            self._keep(angles.cos().contiguous()),
            self._keep(angles.sin().contiguous()),
            ctypes.addressof(layers),
            # The output layer stays at 8 bits: its errors go straight into the choice.
            self._pack8(*head, None),
        )

    def allocate(self, n_pages: int, page_tokens: int, kv_cache: KvCache = "full") -> None:
        """Take memory for the KV pages; it becomes resident as pages are used."""
        shape = self.shape
        n_heads = shape.n_layers * n_pages * shape.n_kv_heads * page_tokens
        dtype = torch.int8 if kv_cache == "int8" else torch.float32
        self._model.n_pages = n_pages
        self._model.keys = self._keep(torch.empty(n_heads * shape.head_dim, dtype=dtype))
        self._model.values = self._keep(torch.empty(n_heads * shape.head_dim, dtype=dtype))
        if kv_cache == "int8":
            self._model.key_scales = self._keep(torch.empty(n_heads))
            self._model.value_scales = self._keep(torch.empty(n_heads))

    def forward(
        self, tokens: Sequence[int], spans: Sequence[Span], wanted: Sequence[int]
    ) -> torch.Tensor:
        """Return float32 logits [len(wanted), vocabulary] of the wanted rows, and store the rest.

        Raises:
            MemoryError: no memory for the step's intermediate values.
        """
        pages: list[int] = []
        native_spans = (_Span * len(spans))()
        for at, span in enumerate(spans):
            native_spans[at] = _Span(span.first, span.n_rows, span.position, len(pages))
            pages += span.pages
        logits = torch.empty(len(wanted), self._stride)
        status = self._library.tw_forward(
            ctypes.byref(self._model),
            len(tokens),
            (ctypes.c_int32 * len(tokens))(*tokens),
            len(spans),
            native_spans,
            (ctypes.c_int32 * len(pages))(*pages),
            len(wanted),
            (ctypes.c_int32 * len(wanted))(*wanted),
            ctypes.c_void_p(logits.data_ptr()),
        )
        if status:
            raise MemoryError("no memory for a step")
        return logits[:, : self.shape.vocabulary]

    def _layer(self, weights: Weights, at: int, bits: int) -> _Layer:
        shape = self.shape
        prefix = f"model.layers.{at}."
        attention, mlp = prefix + "self_attn.", prefix + "mlp."

        def linear(*names: str, bias: bool) -> _Linear:
            added = weights.biases(names) if bias else None
            if bits == 4:
                return self._pack4(weights.matrix(*names), added)
            return self._pack8(*weights.int8(*names), added)

        def norm(name: str) -> int:
            return self._keep(weights.vector(name))

        has_norm = shape.has_qk_norm
        return _Layer(
            norm(prefix + "input_layernorm.weight"),
            norm(prefix + "post_attention_layernorm.weight"),
            norm(attention + "q_norm.weight") if has_norm else None,
            norm(attention + "k_norm.weight") if has_norm else None,
            linear(*[f"{attention}{p}_proj.weight" for p in "qkv"], bias=shape.has_qkv_bias),
            linear(attention + "o_proj.weight", bias=shape.has_o_bias),
            linear(*[f"{mlp}{p}_proj.weight" for p in ("gate", "up")], bias=shape.has_mlp_bias),
            linear(mlp + "down_proj.weight", bias=shape.has_mlp_bias),
        )

    def _pack8(
        self, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None
    ) -> _Linear:
        rows, columns = weight.shape
        padded = _padded(weight)
        packed = padded.view(padded.shape[0] // LANES, LANES, -1, 4).permute(0, 2, 1, 3)
        sums = padded.sum(dim=1, dtype=torch.int32)
        return _Linear(
            8,
            rows,
            columns,
            padded.shape[1],
            self._keep(packed.contiguous()),
            self._keep(_padded_vector(scale)),
            self._keep(sums),
            None if bias is None else self._keep(_padded_vector(bias)),
        )

    def _pack4(self, weight: torch.Tensor, bias: torch.Tensor | None) -> _Linear:
        rows, columns = weight.shape
        padded = _padded(weight)
        blocks = padded.shape[0] // LANES
        codes, scale, low = quantize_groups(padded)
        pairs = codes.view(blocks, LANES, -1, 2, 4).permute(0, 2, 3, 1, 4)
        packed = pairs[:, :, 0] | (pairs[:, :, 1] << 4)

        def by_block(values: torch.Tensor) -> int:
            return self._keep(values.view(blocks, LANES, -1).transpose(1, 2).contiguous())

        return _Linear(
            4,
            rows,
            columns,
            padded.shape[1],
            self._keep(packed.contiguous()),
            by_block(scale),
            by_block(low),
            None if bias is None else self._keep(_padded_vector(bias)),
        )

    def _keep(self, tensor: torch.Tensor) -> int:
        self._kept.append(tensor)
        return tensor.data_ptr()


def _padded(weight: torch.Tensor) -> torch.Tensor:
    more_rows, more_columns = -weight.shape[0] % LANES, -weight.shape[1] % GROUP
    return torch.nn.functional.pad(weight, (0, more_columns, 0, more_rows)).contiguous()


def _padded_vector(vector: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.pad(vector.float(), (0, -len(vector) % LANES)).contiguous()
