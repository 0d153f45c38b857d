"""FairShare: what each scope was served and what it holds, so that none crowds out another.

Owns two numbers for every scope: tokens served (a virtual clock), by which the next in turn is
found, and slots and pages held, of which no scope may have more than its share.

A scope that comes back after a pause starts a small burst below the smallest counter in use, so
that idle time earns no more credit than that.
Source: Sheng et al., "Fairness in Serving Large Language Models" (VTC), OSDI 2024.
"""

from __future__ import annotations

from collections.abc import Collection

# A reply token takes a pass over all weights; a prompt token shares its pass with its chunk.
_REPLY_TOKEN_CHARGE = 4
# What a scope that comes back may use before it shares evenly: a turn or two, served at once.
_BURST_TOKENS = 1024.0
_REMEMBERED_SCOPES = 4096


class FairShare:
    """Counters of all scopes; the engine's thread owns it.

    Args:
        most_slots: sequences that one scope may run at once.
        most_pages: KV pages that one scope may reserve at once.
    """

    def __init__(self, most_slots: int, most_pages: int) -> None:
        self.most_slots = most_slots
        self.most_pages = most_pages
        self.n_pages = 0
        self._served: dict[str, float] = {}
        self._slots: dict[str, int] = {}
        self._pages: dict[str, int] = {}

    def served(self, scope: str) -> float:
        """Return the scope's place on the virtual clock; the smallest is next."""
        return self._served.get(scope, 0.0)

    def slots(self, scope: str) -> int:
        """Return how many sequences the scope runs."""
        return self._slots.get(scope, 0)

    def slots_by_scope(self) -> dict[str, int]:
        """Return how many sequences every scope that runs any runs; the caller's to change."""
        return dict(self._slots)

    def arrive(self, scope: str, others: Collection[str]) -> None:
        """Let a scope in that has nothing here, beside the others that have."""
        if not others:
            # Nobody else is here: old counters mean nothing any more.
            self._served.clear()
        credit = _BURST_TOKENS if others else 0.0
        floor = min((self.served(other) for other in others), default=0.0)
        self._served[scope] = max(self.served(scope), floor - credit)

    def charge(self, scope: str, n_tokens: int) -> None:
        """Count the tokens of one sequence in one step: one of a reply, or a prompt's chunk."""
        self._served[scope] = self.served(scope) + (
            n_tokens if n_tokens > 1 else _REPLY_TOKEN_CHARGE
        )

    def may_take(self, scope: str, n_pages: int) -> bool:
        """Return whether one more sequence of so many pages is within the scope's share."""
        held = self._pages.get(scope, 0)
        return self.slots(scope) < self.most_slots and held + n_pages <= self.most_pages

    def take(self, scope: str, n_pages: int) -> None:
        """Count a slot and the pages that go with it."""
        self.n_pages += n_pages
        self._slots[scope] = self.slots(scope) + 1
        self._pages[scope] = self._pages.get(scope, 0) + n_pages

    def give_back(self, scope: str, n_pages: int) -> None:
        """Count them back."""
        self.n_pages -= n_pages
        self._pages[scope] -= n_pages
        self._slots[scope] -= 1
        if not self._slots[scope]:
            del self._slots[scope], self._pages[scope]

    def leave(self, scope: str) -> None:
        """Let go of a scope that has nothing here any more.

        Its counter is kept for its return, until there are so many that memory would grow.
        """
        if len(self._served) > _REMEMBERED_SCOPES:
            self._served.pop(scope, None)
