"""Drafts by prompt lookup: what followed the last time these tokens stood here.

Owns the guess and what is learnt from it. Verification is the runner's: a draft is kept only where
the chosen token equals it, so the output is the same with drafts and without.
Source: Saxena, "Prompt Lookup Decoding", 2023.
"""

from __future__ import annotations

from local_models.sequence import Sequence

# One row to verify and three guesses fill a tile of the kernel: a third dearer than one row.
FIRST_GUESS = 3
_LONGEST_MATCH = 4
_LONGEST_CHAIN = 8
# After wrong guesses in a row: 1, 3, 7 ... tokens without any, this many doublings at most.
_MOST_DOUBLINGS = 6


def draft_by_lookup(sequence: Sequence, n_tokens: int) -> tuple[int, ...]:
    """Return up to n_tokens that followed an earlier occurrence of the sequence's last two.

    Of several occurrences the one alike furthest back counts, then the latest. After wrong guesses
    it must be alike further. `sequence.pair_ends` keeps where every pair of tokens ended, so that
    a step costs the same however long the text is.
    """
    tokens, ends = sequence.tokens, sequence.pair_ends
    # A pair ends before `end`; the one at the very end is what is looked up, so it is not in yet.
    for end in range(max(2, sequence.n_indexed), len(tokens)):
        ends.setdefault((tokens[end - 2], tokens[end - 1]), []).append(end)
    sequence.n_indexed = len(tokens)
    if len(tokens) < 2:
        return ()
    found = ends.get((tokens[-2], tokens[-1]))
    if found is None:
        return ()
    n_alike, end = max((_n_alike(tokens, at), at) for at in found[-_LONGEST_CHAIN:])
    if n_alike < min(2 + sequence.n_wrong_guesses, _LONGEST_MATCH):
        return ()
    # What follows may end soon, where a text repeats itself: then it is repeated further.
    period = len(tokens) - end
    return tuple(tokens[end + at % period] for at in range(n_tokens))


def learn(sequence: Sequence, n_drafted: int, n_accepted: int) -> None:
    """Take how a guess went: twice as long after one that was all right, a pause after a wrong one.

    Pauses double while guesses stay wholly wrong, so that a text which quotes nothing pays for a
    handful of guesses; one that begins to quote later is still noticed.
    """
    sequence.n_drafted += n_drafted
    sequence.n_accepted += n_accepted
    sequence.n_guess = 2 * sequence.n_guess + 1 if n_accepted == n_drafted else FIRST_GUESS
    if n_accepted:
        sequence.n_wrong_guesses = 0
    else:
        sequence.n_wrong_guesses = min(sequence.n_wrong_guesses + 1, _MOST_DOUBLINGS)
        sequence.guesses_from = len(sequence.tokens) + 2**sequence.n_wrong_guesses - 1


def _n_alike(tokens: list[int], end: int) -> int:
    """Return how many tokens before `end` equal the last ones of the text, two of them known to."""
    n_alike = 2
    while n_alike < min(_LONGEST_MATCH, end) and tokens[end - 1 - n_alike] == tokens[-1 - n_alike]:
        n_alike += 1
    return n_alike
