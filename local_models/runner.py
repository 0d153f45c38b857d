"""Runner: a step's work -> batch tensors -> the model -> chosen tokens.

Owns the model, the cache tensors and the sampler. Knows sequences, not queues.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from local_models.attention import Batch, PagedCache, Span
from local_models.config import EngineConfig
from local_models.model import Model
from local_models.sampling import Sampler
from local_models.scheduler import Work
from local_models.sequence import Finish, TokenLogprobs


@dataclass(frozen=True, slots=True)
class Chosen:
    """What one piece of work brought: tokens (appended already), why it ended, drafts kept."""

    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    finish: Finish | None = None
    n_accepted: int = 0


class Runner:
    """Runs one step at a time on the engine's thread."""

    def __init__(self, model: Model, config: EngineConfig, n_pages: int) -> None:
        self.config = config
        self._model = model
        self._cache = PagedCache(model.shape, n_pages, config.page_tokens)
        self._sampler = Sampler()

    def run(self, step: list[Work]) -> list[Chosen]:
        """Run the step's rows through the model and append the chosen tokens to the sequences."""
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        wanted: list[int] = []
        spans: list[Span] = []
        size = self.config.page_tokens
        for work in step:
            sequence = work.sequence
            first, start = len(tokens), work.start
            end = start + work.n_tokens
            tokens += sequence.tokens[start:end]
            tokens += work.drafts
            n_rows = work.n_tokens + len(work.drafts)
            pages = sequence.pages
            positions += range(start, start + n_rows)
            slots += [pages[p // size] * size + p % size for p in range(start, start + n_rows)]
            spans.append(Span(first, n_rows, start, torch.tensor(pages)))
            if work.samples:
                wanted += range(first + work.n_tokens - 1, first + n_rows)
        batch = Batch(torch.tensor(positions), torch.tensor(slots), tuple(spans))
        logits = self._model.forward(
            torch.tensor(tokens), batch, self._cache, torch.tensor(wanted, dtype=torch.int64)
        )
        return self._choose(step, logits)

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
        is_plain = sequence.params.is_plain_greedy and (
            sequence.watcher is None or sequence.watcher.allowed() is None
        )
        tokens: list[int] = []
        logprobs: list[TokenLogprobs] = []
        finish = None
        for at in range(len(greedy)):
            if is_plain:
                token, found = greedy[at], None
            else:
                token, found = self._sampler.choose(sequence, logits[at])
            tokens.append(token)
            if found is not None:
                logprobs.append(found)
            finish = sequence.append(token)
            if finish is not None or at >= len(work.drafts) or work.drafts[at] != token:
                break
        n_accepted = len(tokens) - 1
        sequence.n_drafted += len(work.drafts)
        sequence.n_accepted += n_accepted
        return Chosen(tuple(tokens), tuple(logprobs), finish, n_accepted)
