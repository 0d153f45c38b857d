"""Drafts by prompt lookup: what followed the last time these tokens stood here.

Source: Saxena, "Prompt Lookup Decoding", 2023. Verification is the engine's: a draft is kept
only where the chosen token equals it, so the output is the same with drafts and without.
"""

from __future__ import annotations

from local_models.sequence import Sequence

_LONGEST, _SHORTEST = 4, 2
_SEARCHED_TOKENS = 4096


def draft_by_lookup(sequence: Sequence, n_tokens: int) -> tuple[int, ...]:
    """Return up to n_tokens that followed an earlier occurrence of the sequence's last few."""
    tokens = sequence.tokens[-_SEARCHED_TOKENS:]
    # Little accepted after a fair trial: guessing costs this sequence more than it gives.
    if sequence.n_drafted >= 32 and sequence.n_accepted < 0.2 * sequence.n_drafted:
        return ()
    for length in range(min(_LONGEST, len(tokens) - 1), _SHORTEST - 1, -1):
        tail = tokens[-length:]
        last = tail[-1]
        for end in range(len(tokens) - 2, length - 2, -1):
            if tokens[end] == last and tokens[end - length + 1 : end + 1] == tail:
                return tuple(tokens[end + 1 : end + 1 + n_tokens])
    return ()
