"""Runner: a step's work -> batch tensors -> the model -> chosen tokens.

Owns the model and the sampler. Knows sequences, not queues.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from local_models.attention import Span
from local_models.config import EngineConfig, KvCache
from local_models.sampling import Sampler
from local_models.scheduler import Work
from local_models.sequence import Finish, TokenLogprobs
from local_models.shape import ModelShape
from local_models.speculate import learn


@dataclass(frozen=True, slots=True)
class Chosen:
    """What one piece of work brought: tokens (appended already), why it ended, drafts kept."""

    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    finish: Finish | None = None
    n_accepted: int = 0


class Executor(Protocol):
    """A model that runs flat rows: `model.Model` in torch, `native.NativeModel` in C."""

    shape: ModelShape

    def allocate(self, n_pages: int, page_tokens: int, kv_cache: KvCache = "full") -> None:
        """Take memory for the KV pages; called once, before any forward."""
        ...

    def forward(
        self, tokens: Sequence[int], spans: Sequence[Span], wanted: Sequence[int]
    ) -> torch.Tensor:
        """Return float32 logits [len(wanted), vocabulary]."""
        ...


class Runner:
    """Runs one step at a time on the engine's thread."""

    def __init__(self, model: Executor, config: EngineConfig, n_pages: int) -> None:
        self._model = model
        model.allocate(n_pages, config.page_tokens, config.kv_cache)
        self._sampler = Sampler()

    def run(self, step: list[Work]) -> list[Chosen]:
        """Run the step's rows through the model and append the chosen tokens to the sequences."""
        tokens: list[int] = []
        wanted: list[int] = []
        spans: list[Span] = []
        for work in step:
            sequence, first = work.sequence, len(tokens)
            tokens += sequence.tokens[work.start : work.start + work.n_tokens]
            tokens += work.drafts
            spans.append(Span(first, len(tokens) - first, work.start, sequence.pages))
            if work.samples:
                wanted += range(first + work.n_tokens - 1, len(tokens))
        return self._choose(step, self._model.forward(tokens, spans, wanted))

    def _choose(self, step: list[Work], logits: torch.Tensor) -> list[Chosen]:
        greedy = logits.argmax(-1).tolist()
        chosen, row = [], 0
        for work in step:
            if not work.samples:
                chosen.append(Chosen())
                continue
            n_rows = 1 + len(work.drafts)
            chosen.append(
                self._verify(work, logits[row : row + n_rows], greedy[row : row + n_rows])
            )
            row += n_rows
        return chosen

    def _verify(self, work: Work, logits: torch.Tensor, greedy: list[int]) -> Chosen:
        """Choose row by row for as long as each choice equals the draft that was run after it."""
        sequence = work.sequence
        is_free = sequence.watcher is None or not sequence.watcher.is_constrained
        is_plain = is_free and sequence.params.is_plain_greedy
        tokens: list[int] = []
        logprobs: list[TokenLogprobs] = []
        finish = None
        for at in range(len(greedy)):
            if is_plain:
                token, found = greedy[at], None
            else:
                token, found = self._sampler.choose(sequence, logits[at].cpu())
            tokens.append(token)
            if found is not None:
                logprobs.append(found)
            finish = sequence.append(token)
            if finish is not None or at >= len(work.drafts) or work.drafts[at] != token:
                break
        n_accepted = len(tokens) - 1
        if work.drafts:
            learn(sequence, len(work.drafts), n_accepted)
        return Chosen(tuple(tokens), tuple(logprobs), finish, n_accepted)
