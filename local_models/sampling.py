"""Sampling: one row of logits and one request's wishes -> the next token.

Owns the order of operations: bias, penalties, mask, temperature, top-k, top-p, min-p, draw. Each
sequence draws from its own generator, so a seed means the same in any batch.
"""

from __future__ import annotations

import numpy as np
import torch

from local_models.sequence import Sequence, TokenLogprobs


class Sampler:
    """Chooses tokens; `seed` feeds the sequences that bring none of their own."""

    def __init__(self, seed: int | None = None) -> None:
        self._seeds = np.random.SeedSequence(seed)

    def choose(self, sequence: Sequence, logits: torch.Tensor) -> tuple[int, TokenLogprobs | None]:
        """Return the next token of one row float32 [vocabulary], and its log probabilities.

        Log probabilities are the model's own, before temperature and penalties.
        """
        params = sequence.params
        mask = sequence.watcher.allowed() if sequence.watcher is not None else None
        logprobs = torch.log_softmax(logits, -1) if params.top_logprobs is not None else None
        # The row may be an inference tensor, which must not be changed in place.
        logits = logits.clone()
        _penalise(sequence, logits)
        if mask is not None:
            logits.masked_fill_(~mask, -torch.inf)
        token = int(logits.argmax()) if params.temperature == 0 else self._draw(sequence, logits)
        if logprobs is None:
            return token, None
        values, ids = logprobs.topk(params.top_logprobs or 0)
        top = tuple(zip(ids.tolist(), values.tolist(), strict=True))
        return token, TokenLogprobs(token, float(logprobs[token]), top)

    def _draw(self, sequence: Sequence, logits: torch.Tensor) -> int:
        params = sequence.params
        if sequence.random is None:
            seed = params.seed if params.seed is not None else self._seeds.spawn(1)[0]
            sequence.random = np.random.Generator(np.random.PCG64(seed))
        scaled = logits / max(params.temperature, 1e-4)
        # The order is total (value, then id), so that equal logits draw alike everywhere.
        n_kept = params.top_k if 0 < params.top_k < len(scaled) else len(scaled)
        if n_kept < len(scaled):
            scaled, ids = scaled.topk(n_kept)
        else:
            scaled, ids = scaled.sort(descending=True, stable=True)
        odds = torch.softmax(scaled, -1).double().numpy()
        total = np.cumsum(odds)
        keep = len(odds)
        if params.top_p < 1:
            keep = int(np.searchsorted(total, params.top_p)) + 1
        if params.min_p > 0:
            keep = min(keep, int(np.count_nonzero(odds >= params.min_p * odds[0])))
        keep = max(1, min(keep, len(odds)))
        at = int(np.searchsorted(total[:keep], sequence.random.random() * total[keep - 1]))
        return int(ids[min(at, keep - 1)])


def _penalise(sequence: Sequence, logits: torch.Tensor) -> None:
    """Apply bias and penalties in place.

    Source: OpenAI API reference (presence, frequency over generated tokens); Keskar et al. 2019,
    CTRL, section 4.1 (repetition, over prompt and generated tokens).
    """
    params = sequence.params
    if params.logit_bias:
        ids = torch.tensor(list(params.logit_bias))
        logits[ids] += torch.tensor(list(params.logit_bias.values()))
    if params.repetition_penalty != 1.0:
        ids = torch.tensor(list(set(sequence.tokens)))
        seen = logits[ids]
        factor = params.repetition_penalty
        logits[ids] = torch.where(seen > 0, seen / factor, seen * factor)
    if sequence.counts and (params.presence_penalty or params.frequency_penalty):
        ids = torch.tensor(list(sequence.counts))
        counts = torch.tensor(list(sequence.counts.values()), dtype=torch.float32)
        logits[ids] -= params.presence_penalty + params.frequency_penalty * counts
