"""What-if: recorded decisions made again under a proposed policy, beside what happened. Pure.

Each turn keeps the tokens that it really took; only who answers them is decided anew. An answer of
another model might have been shorter or longer: that is not known and not guessed at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from policies.usage import Usage, to_micro, usd_of
from router.decision import RoutingDecision, decided_again
from router.errors import RouterError
from router.table import RoutingTable

_REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class ChangedTurn:
    """A turn and where it would have gone; costs in micro-units, None where a price is missing."""

    request_id: str
    tier_before: str
    tier_after: str
    model_before: str
    model_after: str
    reason_after: str
    cost_before_micro: int | None
    cost_after_micro: int | None


@dataclass(frozen=True, slots=True)
class Replay:
    """What a policy would have done to recorded turns.

    Costs are sums over the turns with a known cost on both sides, `n_uncosted` are the others.
    `n_skipped` turns carry no decision that could be made again. Tiers count turns; those that the
    policy would have refused stand under `refused`. Cached answers keep costing nothing.
    """

    n_turns: int
    n_skipped: int
    n_uncosted: int
    cost_before_micro: int
    cost_after_micro: int
    tiers_before: Mapping[str, int]
    tiers_after: Mapping[str, int]
    changed: tuple[ChangedTurn, ...]


def replay(records: Iterable[Mapping[str, Any]], table: RoutingTable) -> Replay:
    """Return what a policy would have made of recorded turns.

    Args:
        records: turns as `GET /v1/turns` keeps them: `decision`, `usage`, `cost`, `cache`.
        table: the proposed policy over today's catalogue.
    """
    before: Counter[str] = Counter()
    after: Counter[str] = Counter()
    changed: list[ChangedTurn] = []
    sums = [0, 0]
    n_turns = n_skipped = n_uncosted = 0
    for record in records:
        decided = record.get("decision")
        again: RoutingDecision | str | None
        try:
            again = decided_again(decided, table) if decided else None
        except (KeyError, TypeError):  # recorded before decisions kept what they were made from
            again = None
        except RouterError:
            again = _REFUSED
        if again is None or decided is None:
            n_skipped += 1
            continue
        n_turns += 1
        turn = _changed(record, decided, again, table)
        before[turn.tier_before] += 1
        after[turn.tier_after] += 1
        if turn.cost_before_micro is None or turn.cost_after_micro is None:
            n_uncosted += 1
        else:
            sums[0] += turn.cost_before_micro
            sums[1] += turn.cost_after_micro
        if turn.model_before != turn.model_after:
            changed.append(turn)
    return Replay(
        n_turns, n_skipped, n_uncosted, sums[0], sums[1], dict(before), dict(after), tuple(changed)
    )


def _changed(
    record: Mapping[str, Any],
    decided: Mapping[str, Any],
    again: RoutingDecision | str,
    table: RoutingTable,
) -> ChangedTurn:
    cost = record.get("cost") or {}
    cost_before: int | None = cost.get("micro")
    cost_after: int | None = 0
    if isinstance(again, str):
        tier, model, reason = again, again, again
    else:
        tier, model, reason = again.tier, again.model, again.reason.value
        is_same = model == decided["model"] or record.get("cache", "none") != "none"
        cost_after = cost_before if is_same else _cost(record, again, table)
    return ChangedTurn(
        request_id=record["request_id"],
        tier_before=decided["tier"],
        tier_after=tier,
        model_before=decided["model"],
        model_after=model,
        reason_after=reason,
        cost_before_micro=cost_before,
        cost_after_micro=cost_after,
    )


def _cost(record: Mapping[str, Any], again: RoutingDecision, table: RoutingTable) -> int | None:
    """Return what the other model would have asked for the same tokens."""
    usage, cost = record.get("usage"), record.get("cost") or {}
    spec = table.catalog.get(again.model)
    if spec is None or usage is None or "rate" not in cost:
        return None
    # Another model has nothing of this conversation in its cache.
    cold = Usage(usage["input_tokens"], usage["output_tokens"])
    usd = usd_of(cold, spec.price)
    if usd is not None:
        return to_micro(usd, Decimal(cost["rate"]))
    # Priced by busy time alone: what routing expects of it.
    expected = (each.estimated_cost_micro for each in again.candidates if each.model == again.model)
    return next(expected, None)
