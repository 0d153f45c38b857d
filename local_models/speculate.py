"""Drafts by prompt lookup: what followed the last time these tokens stood here.

Source: Saxena, "Prompt Lookup Decoding", 2023. Verification is the engine's: a draft is kept
only where the chosen token equals it, so the output is the same with drafts and without.
"""

from __future__ import annotations

from local_models.sequence import Sequence

_LENGTHS = (4, 3, 2)
_TRIAL_TOKENS = 16
_LEAST_ACCEPTED = 0.3
# One row to verify and three guesses fill a tile of the kernel: a third dearer than one row.
FIRST_GUESS = 3


def draft_by_lookup(sequence: Sequence, n_tokens: int) -> tuple[int, ...]:
    """Return up to n_tokens that followed an earlier occurrence of the sequence's last few.

    Keeps an index of the sequence's runs of tokens in `sequence.runs`, so that a step costs the
    same however long the text is.
    """
    if is_rarely_right(sequence):
        return ()
    tokens, runs = sequence.tokens, sequence.runs
    # A run ends before `end`; the one at the very end is what is looked up, so it is not in yet.
    for end in range(sequence.n_indexed, len(tokens)):
        for length in _LENGTHS:
            if end >= length:
                runs[tuple(tokens[end - length : end])] = end
    sequence.n_indexed = len(tokens)
    for length in _LENGTHS:
        found = runs.get(tuple(tokens[-length:])) if len(tokens) > length else None
        if found is not None:
            # What follows may end soon, where a text repeats itself: then it is repeated further.
            period = len(tokens) - found
            return tuple(tokens[found + at % period] for at in range(n_tokens))
    return ()


def is_rarely_right(sequence: Sequence) -> bool:
    """Return whether guessing has had a fair trial here and costs more than it gives."""
    if sequence.n_drafted < _TRIAL_TOKENS:
        return False
    return sequence.n_accepted < _LEAST_ACCEPTED * sequence.n_drafted


def next_guess(n_guess: int, *, all_right: bool) -> int:
    """Return how many tokens to guess next: twice as many after a guess that was all right."""
    return 2 * n_guess + 1 if all_right else FIRST_GUESS
