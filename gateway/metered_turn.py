"""MeteredTurn: the money of one turn, from what is held before the first attempt to its settlement.

It settles exactly once, whatever happens in between: an answer, a failure, a caller who leaves.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from gateway.backends.base import ReplyDelta, ReplyEnd
from gateway.holds import Plan, check_cap
from gateway.models import ServedModel
from gateway.tenants import Tenant
from gateway.token_count import TokenCounter
from gateway.turn import Disclosure, Turn
from policies.budget import MICRO
from policies.entry import EntryClosing, EntryOpening, EntryStatus
from policies.ledger import Reservation
from policies.policy import Policy
from policies.usage import Cost, Usage, cost_of
from router.decision import RoutingDecision

if TYPE_CHECKING:
    from gateway.meter import Meter


class MeteredTurn:
    """The money of one turn: one entry per attempt, closed once.

    `reservation` is None when the ledger was away and the policy let the turn go on. `plan` is
    what was held for. The exchange rate is that of the day of `rate_at` to the turn's end, so that
    what is held and what is charged differ by usage alone.
    """

    def __init__(
        self,
        meter: Meter,
        turn: Turn,
        tenant: Tenant,
        policy: Policy,
        disclosure: Disclosure,
        plan: Plan,
        rate_at: datetime,
    ) -> None:
        self._meter = meter
        self.plan = plan
        self.cap_usd = meter.cap_usd(turn, tenant, policy)
        self._turn = turn
        self._tenant = tenant
        self._policy = policy
        self._disclosure = disclosure
        if plan.longest:
            disclosure.degraded.add("length")
        self._n_attempts = 0
        self._is_closed = False
        self._delivered: list[str] = []
        self._input_tokens = 0
        self._count: TokenCounter = len
        self.reservation: Reservation | None = None
        self._model: ServedModel | None = None
        self._asked_at = meter.clock()
        self._rate_at = rate_at

    def opening_of(self, model: ServedModel, input_tokens: int) -> EntryOpening:
        """Return the opening of the next attempt; it already owes its prompt."""
        self._n_attempts += 1
        owed = self._cost_of(model, Usage(input_tokens, 0, is_estimated=True), None, 0.0)
        turn, tier = self._turn, self._disclosure.tier
        return EntryOpening(
            id=f"{turn.request_id}:{self._n_attempts}",
            request_id=turn.request_id,
            tenant=self._tenant.id,
            n=self._n_attempts,
            model=model.spec.name,
            backend=model.spec.backend,
            tier=tier or "",
            opened_at=self._meter.clock(),
            currency=self._tenant.currency,
            policy=self._policy.label,
            conversation=turn.conversation,
            end_user=turn.end_user,
            tags=turn.tags,
            kind=turn.kind,
            input_tokens=input_tokens,
            estimate=_cost_to_json(owed),
            estimate_charge_micro=self._charge_micro(owed),
        )

    def asked(self, model: ServedModel, input_tokens: int) -> None:
        """Note which model is being asked and how long the prompt is."""
        self._model = model
        self._asked_at = self._meter.clock()
        self._count = model.count
        self._input_tokens = input_tokens
        self._delivered = []

    def delivered(self, delta: ReplyDelta) -> None:
        """Note what went out, so that a cut stream is billed for at least that."""
        if delta.content:
            self._delivered.append(delta.content)
        for call in delta.fields.get("tool_calls") or ():
            function = call.get("function") or {}
            self._delivered.append(f"{function.get('name') or ''}{function.get('arguments') or ''}")

    async def failed(self, error: BaseException, following: ServedModel, input_tokens: int) -> None:
        """Close the attempt as failed and open the next one under the same hold.

        Raises:
            BudgetExceeded: what the attempt cost and the next may cost do not fit what is left.
            CostCapExceeded: together they may pass the cap of one turn.
        """
        if self._delivered:
            await self._make_room(following, input_tokens)
        closing = self._closing("failed", self._used_by_failure(), None, str(error))
        opening = self.opening_of(following, input_tokens)
        if self.reservation is not None:
            await self._meter.next_attempt(self.reservation, closing, opening)

    async def close(
        self, status: EntryStatus, end: ReplyEnd | None = None, error: str | None = None
    ) -> None:
        """Settle the turn, once.

        Cancelled on the way, the ledger has the closing already and sends it in the background.
        """
        if self._is_closed:
            return
        self._is_closed = True
        usage = end.usage if end else None
        if usage is None:
            usage = self._delivered_usage() if status != "failed" else self._used_by_failure()
        closing = self._closing(status, usage, end, error)
        if status == "complete" and end is not None and self._model is not None:
            self._meter.expected.observe(
                self._tenant.id, self._model.spec.name, usage.output_tokens, end.busy_s
            )
        self._disclosure.usage = usage
        record = None  # a helper's call is an attempt, but nobody's turn
        if self._turn.kind == "chat":
            record = turn_record(
                self._turn, self._tenant, self._disclosure, status, self._meter.clock()
            )
        if self.reservation is not None:
            await self._meter.settle(self.reservation, closing, record)

    def _closing(
        self, status: EntryStatus, usage: Usage, end: ReplyEnd | None, error: str | None
    ) -> EntryClosing:
        now = self._meter.clock()
        cost = self._cost_so_far(usage, end, now)
        self._disclosure.cost = _sum(self._disclosure.cost, cost)
        return EntryClosing(
            status=status,
            closed_at=now,
            charge_micro=self._charge_micro(cost),
            usage=usage.to_json(),
            cost=_cost_to_json(cost),
            error=error,
        )

    async def _make_room(self, following: ServedModel, input_tokens: int) -> None:
        """Hold what the failed attempts cost beside what may follow."""
        cost = self._cost_so_far(self._used_by_failure(), None, self._meter.clock())
        total = _sum(self._disclosure.cost, cost)
        spent_usd = Decimal(total.usd_micro if total else 0) / MICRO
        plan = self.plan.after(following, input_tokens)
        check_cap(plan, following, self.cap_usd, self._meter.price_day(), spent_usd)
        if self.reservation is not None:
            hold = self._meter.hold_for(plan, self._tenant, self._policy)
            await self._meter.extend(
                self.reservation, spent_usd, hold, self._policy, self._disclosure, self._rate_at
            )

    def _cost_so_far(self, usage: Usage, end: ReplyEnd | None, now: datetime) -> Cost | None:
        if self._model is None:
            return None
        busy_s = end.busy_s if end else None
        if busy_s is None and self._delivered:  # a cut stream: its wall time, from above
            busy_s = (now - self._asked_at).total_seconds()
        return self._cost_of(self._model, usage, end, busy_s)

    def _cost_of(
        self, model: ServedModel, usage: Usage, end: ReplyEnd | None, busy_s: float | None
    ) -> Cost | None:
        return cost_of(
            usage,
            # That of the day it was asked: what was held went by the same.
            model.spec.price_on(self._asked_at.astimezone(UTC).date()),
            currency=self._tenant.currency,
            rates=self._meter.rates,
            at=self._rate_at,
            busy_s=busy_s,
            provider_cost_usd=end.provider_cost_usd if end else None,
        )

    def _charge_micro(self, cost: Cost | None) -> int:
        if cost is None:
            return 0
        budget = self._policy.budget
        in_usd = budget is not None and budget.currency == "USD"
        return cost.usd_micro if in_usd else cost.micro

    def _delivered_usage(self) -> Usage:
        output_tokens = self._count("".join(self._delivered)) if self._delivered else 0
        return Usage(self._input_tokens, output_tokens, is_estimated=True)

    def _used_by_failure(self) -> Usage:
        """A failure before the first token is not charged by any provider; after it, all is."""
        return self._delivered_usage() if self._delivered else Usage(0, 0, is_estimated=True)


def turn_record(
    turn: Turn, tenant: Tenant, disclosure: Disclosure, status: str, now: datetime
) -> dict[str, Any]:
    """Return what is recorded of a turn beside its attempts; plain JSON values."""
    decision: RoutingDecision | None = disclosure.decision
    usage, cost = disclosure.usage, disclosure.cost
    ended_us = round(now.timestamp() * 1e6)
    started_us = round(disclosure.started_at.timestamp() * 1e6)
    return {
        "request_id": turn.request_id,
        "tenant": tenant.id,
        "conversation": turn.conversation,
        "end_user": turn.end_user,
        "tags": turn.tags,
        "status": status,
        "requested": turn.requested,
        "tier": disclosure.tier,
        "model": disclosure.model,
        "policy": disclosure.policy,
        "cache": disclosure.cache,
        "degraded": sorted(disclosure.degraded),
        "decision": decision.to_wire() if decision else None,
        "usage": usage.to_json() if usage else None,
        "cost": _cost_to_json(cost),
        "currency": tenant.currency,
        "started_us": started_us,
        "ended_us": ended_us,
        "timings_ms": {
            "total": (ended_us - started_us) / 1000,
            "overhead": round(disclosure.overhead_s * 1000, 3),
            "first_event": disclosure.first_event_ms,
        },
    }


def _sum(before: Cost | None, cost: Cost | None) -> Cost | None:
    if before is None or cost is None:
        return cost or before
    return replace(
        cost, usd_micro=before.usd_micro + cost.usd_micro, micro=before.micro + cost.micro
    )


def _cost_to_json(cost: Cost | None) -> dict[str, Any] | None:
    if cost is None:
        return None
    return {
        "usd_micro": cost.usd_micro,
        "micro": cost.micro,
        "currency": cost.currency,
        "rate": str(cost.rate),
        "rate_date": cost.rate_date.isoformat(),
    }
