"""How long answers usually are, by tenant and model, so that holds need not assume the longest.

Two figures: what nine of ten answers stay below, for what is expected, and twice the longest seen,
which next to none passes: of log-normal lengths (sigma 0.8) fewer than two in ten thousand.

Learned from the answers of this process alone and forgotten with it; until there are enough of them
nothing is expected and the worst case is held. Knows no prices.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from dataclasses import dataclass

SHARE = 0.9
FEWEST = 20
_REMEMBERED = 200
_MOST_PAIRS = 10_000
_MARGIN = 2


@dataclass(frozen=True, slots=True)
class Expected:
    """What nine of ten answers do not exceed; `busy_s` None where no engine told.

    `longest_tokens` is what hardly any answer exceeds.
    """

    output_tokens: int
    busy_s: float | None
    longest_tokens: int


class ExpectedOutput:
    """The newest answers of each tenant and model."""

    def __init__(self) -> None:
        self._seen: OrderedDict[tuple[str, str], deque[tuple[int, float | None]]] = OrderedDict()

    def observe(self, tenant: str, model: str, output_tokens: int, busy_s: float | None) -> None:
        """Note a complete answer."""
        seen = self._seen.get((tenant, model))
        if seen is None:
            seen = self._seen[tenant, model] = deque(maxlen=_REMEMBERED)
            if len(self._seen) > _MOST_PAIRS:
                self._seen.popitem(last=False)
        seen.append((output_tokens, busy_s))

    def of(self, tenant: str, model: str) -> Expected | None:
        """Return what is expected of the next answer, None while too few were seen."""
        seen = self._seen.get((tenant, model), ())
        if len(seen) < FEWEST:
            return None
        place = math.ceil(SHARE * len(seen)) - 1
        lengths = sorted(tokens for tokens, _ in seen)
        busy = sorted(busy_s for _, busy_s in seen if busy_s is not None)
        return Expected(
            output_tokens=lengths[place],
            longest_tokens=_MARGIN * lengths[-1],
            busy_s=busy[math.ceil(SHARE * len(busy)) - 1] if len(busy) >= FEWEST else None,
        )
