"""Engine: step() = schedule, run, postprocess; tokens in, events out.

Owns the life of every sequence between `add` and its one terminal event. Single-threaded: the
server's engine thread makes all calls. Knows neither text nor HTTP.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from local_models.config import EngineConfig
from local_models.cuda import CudaModel
from local_models.draft_model import DraftModel
from local_models.errors import ModelRefused, RequestRefused
from local_models.kv_blocks import PagePool
from local_models.model import Model
from local_models.native import NativeModel, build_library, can_serve
from local_models.pace import Pace
from local_models.runner import Executor, Runner
from local_models.scheduler import Scheduler
from local_models.sequence import Finish, SamplingParams, Sequence, TokenLogprobs, Watcher
from local_models.shape import ModelShape, load_shape
from local_models.speculate import draft_by_lookup
from local_models.stats import EngineStats
from local_models.store import find_model
from local_models.weights import Weights, load_tensors, load_weights

Draft = Callable[[Sequence, int], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Event:
    """News of one sequence: new tokens, or, exactly once and last, why it ended."""

    sequence: Sequence
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    finish: Finish | None = None


class Engine:
    """One model, one pool of pages, one scheduler."""

    def __init__(
        self,
        config: EngineConfig,
        model: Executor,
        draft: Draft = draft_by_lookup,
        *,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        shape = model.shape
        self.config = config
        self.context_tokens = min(
            config.context_tokens or shape.context_tokens, shape.context_tokens
        )
        self.eos = shape.eos
        self.vocabulary = shape.vocabulary
        self.stats = EngineStats(clock_s)
        self._clock_s = clock_s
        self._ids = itertools.count(1)
        self.pool = PagePool(page_count(config, shape, self.context_tokens), config.page_tokens)
        self.scheduler = Scheduler(config, self.pool, draft)
        self._runner = Runner(model, config, self.pool.n_pages)
        self._ended: list[Event] = []
        target_ms = config.target_ttft_ms
        self.pace = Pace(config.step_tokens, target_ms / 1000 if target_ms else None)

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self.scheduler.running or self.scheduler.n_waiting or self._ended)

    def now_s(self) -> float:
        """Return the time on the clock that deadlines are on."""
        return self._clock_s()

    def add(
        self,
        prompt: list[int],
        params: SamplingParams,
        *,
        max_new_tokens: int | None = None,
        scope: str = "",
        watcher: Watcher | None = None,
        deadline_s: float | None = None,
        target_ttft_s: float | None = None,
    ) -> Sequence:
        """Queue one generation and return its sequence.

        `deadline_s` is on the engine's clock; `target_ttft_s` counts from now. A bound on new
        tokens that the context cannot hold is lowered to what fits.

        Raises:
            RequestRefused: an empty prompt, one that fills the context, or no new tokens asked for.
            QueueFull: come back later.
        """
        if not prompt:
            raise RequestRefused("The prompt is empty.", code="empty_prompt", param="messages")
        room = self.context_tokens - len(prompt)
        if room < 1:
            raise RequestRefused(
                f"The prompt has {len(prompt)} tokens and the model's context is "
                f"{self.context_tokens}; at least one must be left for the reply.",
                code="context_length_exceeded",
                param="messages",
            )
        if max_new_tokens is not None and max_new_tokens < 1:
            raise RequestRefused(
                "At least one new token must be asked for.",
                code="invalid_value",
                param="max_completion_tokens",
            )
        wanted = max_new_tokens or self.config.default_reply_tokens
        sequence = Sequence(
            id=next(self._ids),
            scope=scope,
            tokens=list(prompt),
            n_prompt=len(prompt),
            max_tokens=len(prompt) + min(wanted, room),
            params=params,
            eos=self.eos,
            arrived_s=self._clock_s(),
            watcher=watcher,
            deadline_s=deadline_s,
            target_ttft_s=target_ttft_s,
        )
        self.scheduler.add(sequence, self.stats.predicted_wait_s(self.scheduler) + 1)
        self.pace.hear(target_ttft_s, sequence.arrived_s)
        return sequence

    def cancel(self, sequence: Sequence, reason: Finish = Finish.CANCELLED) -> None:
        """End a sequence now; its pages are free when this returns, its event comes with a step."""
        if self.scheduler.finish(sequence, reason):
            self._ended.append(Event(sequence, finish=reason))
            self.stats.ended(sequence)

    def step(self) -> list[Event]:
        """Advance everything once and return what happened."""
        started_s = self._clock_s()
        for late in self.scheduler.expired(started_s):
            self.cancel(late, Finish.TIMEOUT)
        events, self._ended = self._ended, []
        self.scheduler.step_tokens = self.pace.step_tokens(started_s)
        work = self.scheduler.schedule(started_s)
        if not work:
            return events
        chosen = self._runner.run(work)
        now_s = self._clock_s()
        n_rows = sum(w.n_tokens + len(w.drafts) for w in work)
        share_s = (now_s - started_s) / n_rows
        for item, result in zip(work, chosen, strict=True):
            sequence = item.sequence
            sequence.busy_s += share_s * (item.n_tokens + len(item.drafts))
            self.scheduler.advance(item, result.n_accepted)
            if not result.tokens:
                continue
            self.stats.chose(sequence, len(result.tokens), now_s)
            if result.finish is not None:
                self.scheduler.finish(sequence, result.finish)
                self.stats.ended(sequence)
            events.append(Event(sequence, result.tokens, result.logprobs, result.finish))
        self.stats.stepped(work, now_s - started_s)
        self.pace.ran(n_rows, now_s - started_s)
        return events

    def fail_everything(self) -> list[Event]:
        """End every sequence with `failed`, after an error inside a step; the engine goes on."""
        for sequence in self.scheduler.everyone():
            self.cancel(sequence, Finish.FAILED)
        events, self._ended = self._ended, []
        return events

    def generate(
        self, prompts: Iterable[list[int]], params: SamplingParams, max_new_tokens: int
    ) -> list[list[int]]:
        """Return the generated tokens of each prompt; for tests, benchmarks and scripts."""
        sequences = [self.add(p, params, max_new_tokens=max_new_tokens) for p in prompts]
        while self.has_work:
            self.step()
        return [s.tokens[s.n_prompt :] for s in sequences]


def page_count(config: EngineConfig, shape: ModelShape, context_tokens: int) -> int:
    """Return how many pages the cache gets.

    Raises:
        ModelRefused: the memory allowed does not hold one full context within a scope's share.
    """
    page_bytes = shape.kv_bytes_per_token(config.kv_cache, config.device) * config.page_tokens
    per_context = -(-context_tokens // config.page_tokens)
    affordable = config.kv_memory_bytes // page_bytes
    needed = -(-per_context // config.scope_share)
    if affordable < needed:
        raise ModelRefused(
            f"A context of {context_tokens} tokens needs {int(needed * page_bytes):,} bytes of KV "
            f"cache and kv_memory_bytes is {config.kv_memory_bytes:,}; raise it or lower "
            "context_tokens."
        )
    return int(min(affordable, max(needed, per_context * config.max_running)))


def load_engine(config: EngineConfig, *, clock_s: Callable[[], float] = time.monotonic) -> Engine:
    """Return an engine over the model that the configuration names.

    Raises:
        ModelRefused: one clear line on why it cannot be served.
    """
    torch.set_num_threads(config.n_threads)
    model = _load_model(config, config.model)
    if config.draft_model is None or not config.draft_tokens:
        return Engine(config, model, clock_s=clock_s)
    small = _load_model(config, config.draft_model)
    if small.shape.vocabulary != model.shape.vocabulary:
        raise ModelRefused(
            f"The draft model knows {small.shape.vocabulary} tokens and the model "
            f"{model.shape.vocabulary}; both must have the same vocabulary."
        )
    draft = DraftModel(small, config.draft_until_running, config.page_tokens)
    return Engine(config, model, draft, clock_s=clock_s)


def _load_model(config: EngineConfig, name: str) -> Executor:
    """Return the C decoder where it can serve, else the torch one."""
    folder = find_model(name)
    shape = load_shape(folder)
    if config.device == "cuda":
        return _load_on_cuda(config, folder, shape)
    weights = load_weights(folder, config.quantize)
    if config.quantize != "none" and can_serve(shape, config.page_tokens):
        library = build_library()
        if library is not None:
            bits = 8 if config.quantize == "int8" else 4
            return NativeModel(shape, weights, bits, library, config.n_threads)
    return Model(shape, weights)


def _load_on_cuda(config: EngineConfig, folder: Path, shape: ModelShape) -> Executor:
    if not torch.cuda.is_available():
        raise ModelRefused("This torch sees no CUDA device; serve with --device cpu.")
    weights = Weights(load_tensors(folder), config.quantize, "cuda", torch.bfloat16)
    try:
        return CudaModel(shape, weights)
    except torch.OutOfMemoryError as error:
        raise ModelRefused(f"The weights in {folder} do not fit the GPU: {error}") from error
