"""EngineConfig: every knob of the local engine, with its default and its range.

Owns the numbers; knows neither torch nor HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from local_models.errors import ModelRefused

Quantize = Literal["none", "int8", "int4"]
KvCache = Literal["full", "int8"]
Device = Literal["cpu", "cuda"]

_RANGES: dict[str, tuple[float, float]] = {
    "context_tokens": (16, 1 << 24),
    "page_tokens": (4, 256),
    "kv_memory_bytes": (1 << 20, 1 << 42),
    "max_running": (1, 1024),
    "max_queued": (1, 100_000),
    "step_tokens": (16, 65_536),
    "default_reply_tokens": (1, 1 << 20),
    "draft_tokens": (0, 32),
    "draft_until_running": (1, 1024),
    "scope_share": (0.05, 1.0),
    "queue_wait_s": (0.1, 86_400),
    "n_threads": (1, 1024),
    "target_ttft_ms": (1, 3_600_000),
}


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How one engine runs.

    Args:
        model: `bundled`, a folder, or a hub id.
        quantize: what the weight matrices are held in.
        device: where the model runs; CUDA must be asked for.
        context_tokens: longest prompt plus reply; None takes the model's own.
        page_tokens: tokens of one KV page.
        kv_cache: what keys and values are held in: full is float32 (bfloat16 on CUDA); int8
            takes about a quarter of the memory.
        kv_memory_bytes: bound of the KV cache; less is taken when max_running full contexts
            need less. On CPU memory is touched only as pages are used.
        max_running: sequences in one batch.
        max_queued: requests that may wait; one more is refused with a time to come back.
        step_tokens: tokens of one step, decoding first; the rest goes to prompts in chunks.
        default_reply_tokens: a reply's bound where the request names none.
        reuse_prefixes: keep finished pages for prompts that begin alike, within one scope.
        draft_tokens: most tokens guessed at once and verified in one pass; 0 = off.
        draft_model: a smaller model that guesses, with the same vocabulary; None looks up what
            followed the same words before.
        draft_until_running: no guessing once more sequences than this are running.
        scope_share: of slots and pages, what one scope may hold at once; the rest stays open
            for others, which is what keeps their first token quick.
        queue_wait_s: a request that has waited longer is ended with `timeout`.
        n_threads: CPU threads of the matrix work.
        target_ttft_ms: when set, steps are kept short enough to hold it.
    """

    model: str = "bundled"
    quantize: Quantize = "int8"
    device: Device = "cpu"
    context_tokens: int | None = None
    page_tokens: int = 16
    kv_cache: KvCache = "full"
    kv_memory_bytes: int = 1 << 30
    max_running: int = 32
    max_queued: int = 256
    step_tokens: int = 256
    default_reply_tokens: int = 1024
    reuse_prefixes: bool = True
    draft_tokens: int = 7
    draft_model: str | None = None
    draft_until_running: int = 2
    scope_share: float = 0.75
    queue_wait_s: float = 120.0
    n_threads: int = 1
    target_ttft_ms: float | None = None

    def __post_init__(self) -> None:
        """Refuse a value outside its range, naming field, value and range."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in _RANGES or value is None:
                continue
            low, high = _RANGES[field.name]
            if not low <= value <= high:
                raise ModelRefused(
                    f"engine.{field.name} is {value}; it must be from {low:,.15g} to {high:,.15g}."
                )
