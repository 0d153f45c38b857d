"""DraftModel: a smaller model that guesses what the large one will say next.

Owns the small model's keys and values: one slot of pages for each sequence that may be guessed for
at once. Verification is the engine's, so the guesses change speed and never the output.
Source: Leviathan et al., "Fast Inference from Transformers via Speculative Decoding", ICML 2023.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from local_models.attention import Span
from local_models.runner import Executor
from local_models.sequence import Sequence

_CHUNK_TOKENS = 64


@dataclass(slots=True)
class _Slot:
    """The pages of one sequence and the tokens whose keys and values lie there."""

    pages: range
    tokens: list[int] = field(default_factory=list)


class DraftModel:
    """Called as `draft_by_lookup` is; the engine's thread owns it.

    Args:
        model: the small model; its vocabulary must be the large one's.
        n_slots: sequences that are guessed for at once; the one guessed for least recently loses
            its slot, and its tokens are run again should it come back.
        page_tokens: as the engine's.
    """

    def __init__(self, model: Executor, n_slots: int, page_tokens: int) -> None:
        self._model = model
        self._context = model.shape.context_tokens
        per_slot = -(-self._context // page_tokens)
        model.allocate(n_slots * per_slot, page_tokens)
        self._free = [_Slot(range(at * per_slot, (at + 1) * per_slot)) for at in range(n_slots)]
        self._slots: OrderedDict[int, _Slot] = OrderedDict()

    def __call__(self, sequence: Sequence, n_tokens: int) -> tuple[int, ...]:
        """Return the small model's likeliest continuation of the sequence, n_tokens long."""
        known = sequence.tokens
        if len(known) + n_tokens > self._context:
            return ()
        slot = self._slot_of(sequence.id)
        n_kept = _n_common(slot.tokens, known[:-1])
        del slot.tokens[n_kept:]
        if len(known) - len(slot.tokens) > _CHUNK_TOKENS:
            # A long prompt is caught up with over several steps, so that none of them is long.
            self._run(slot, known[: len(slot.tokens) + _CHUNK_TOKENS])
            return ()
        guesses: list[int] = []
        while len(guesses) < n_tokens:
            guesses.append(self._run(slot, [*known, *guesses]))
        return tuple(guesses)

    def _run(self, slot: _Slot, tokens: list[int]) -> int:
        """Run what the slot lacks of the tokens and return their likeliest successor."""
        start = len(slot.tokens)
        rows = tokens[start:]
        logits = self._model.forward(rows, [Span(0, len(rows), start, slot.pages)], [len(rows) - 1])
        slot.tokens += rows
        return int(logits[0].argmax())

    def _slot_of(self, key: int) -> _Slot:
        slot = self._slots.pop(key, None)
        if slot is None:
            slot = self._free.pop() if self._free else self._slots.popitem(last=False)[1]
        self._slots[key] = slot
        return slot


def _n_common(first: list[int], second: list[int]) -> int:
    """Return how many tokens two lists begin with alike."""
    n = min(len(first), len(second))
    if first[:n] == second[:n]:
        return n
    return next(at for at in range(n) if first[at] != second[at])
