"""Meter: the one place where turns meet money.

Owns rates, prices of the day and what happens while the ledger is away. Nothing else in the gateway
opens entries; the money of a single turn is `MeteredTurn`'s business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from gateway.holds import Hold, Plan, cap_usd, check_cap, hold_for, output_tokens_of, usual_longest
from gateway.metered_turn import MeteredTurn
from gateway.models import ServedModel, ServedModels
from gateway.telemetry import Degradations
from gateway.tenants import Tenant
from gateway.turn import Disclosure, Turn
from policies.budget import BudgetState
from policies.entry import EntryClosing, EntryOpening
from policies.errors import BudgetExceeded, LedgerUnavailable
from policies.expected_output import ExpectedOutput
from policies.ledger import Ledger, Reservation
from policies.policy import Policy
from policies.usage import Cost, Rates, to_micro

# Room is scarce when it would not hold so many turns that all get as long as they may.
_SCARCE_BELOW_TURNS = 200


class Meter:
    """Opens metered turns over the ledger."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        models: ServedModels,
        rates: Rates,
        degradations: Degradations,
        clock: Callable[[], datetime],
    ) -> None:
        self._ledger = ledger
        self.models = models
        self.rates = rates
        self._degradations = degradations
        self.clock = clock
        self.expected = ExpectedOutput()

    async def budget_state(
        self, tenant: Tenant, policy: Policy, disclosure: Disclosure
    ) -> BudgetState | None:
        """Return the budget as it stands, None without one that routing must know.

        Raises:
            LedgerUnavailable: it cannot be read and the policy refuses then.
        """
        budget = policy.budget
        if budget is None or not any(rung.ceiling for rung in budget.ladder):
            return None
        try:
            return await self._ledger.state(tenant.id, budget, tenant.currency, max_age_s=1.0)
        except LedgerUnavailable as error:
            self._tolerate(error, policy, disclosure)
            return None

    async def open(
        self, turn: Turn, tenant: Tenant, policy: Policy, disclosure: Disclosure, plan: Plan
    ) -> MeteredTurn:
        """Hold what the plan may cost and open its first attempt.

        Raises:
            BudgetExceeded: it does not fit what is left.
            CostCapExceeded: its first attempt may cost more than one turn may.
            TooManyOpen: the policy's `concurrent` turns are in the works.
            LedgerUnavailable: it cannot be held and the policy refuses then.
        """
        at = self.today_of(tenant)
        shorter = self._kept_short(turn, tenant, policy, plan, at)
        metered = MeteredTurn(self, turn, tenant, policy, disclosure, shorter or plan, at)
        if metered.cap_usd is not None:
            check_cap(metered.plan, plan.models[0], metered.cap_usd, self.price_day())
        opening = metered.opening_of(plan.models[0], plan.input_tokens)
        try:
            hold = self.hold_for(metered.plan, tenant, policy)
            hold_micro, worst_micro = self._in_budget(policy, hold, at)
            metered.reservation = await self._ledger.reserve(
                opening,
                policy.budget,
                hold_micro,
                worst_micro=worst_micro,
                max_open=policy.limits.concurrent,
            )
            self._degradations.worked("ledger")
        except BudgetExceeded:
            spending = self._ledger.spending
            spending.note_refusal(spending.place(tenant.id, policy.budget, tenant.currency))
            raise
        except LedgerUnavailable as error:
            self._tolerate(error, policy, disclosure)
        return metered

    def _kept_short(
        self, turn: Turn, tenant: Tenant, policy: Policy, plan: Plan, at: datetime
    ) -> Plan | None:
        """Return the plan with answers of a usual length, where room for worst cases is scarce.

        All open turns together must not pass the limit by more than the overshoot, however long
        they get: the longest that each could get decides how many may be open. None where there is
        room, where the caller said how long, and where too little is known of answers.
        """
        budget = policy.budget
        if budget is None or not budget.overshoot_micro:
            return None
        spending = self._ledger.spending
        state = spending.last(spending.place(tenant.id, budget, tenant.currency))
        if state is None:
            return None
        _, worst_micro = self._in_budget(policy, self.hold_for(plan, tenant, policy), at)
        left_micro = budget.refuses_at_micro + budget.overshoot_micro - state.settled_micro
        if worst_micro * _SCARCE_BELOW_TURNS <= left_micro:
            return None
        longest = usual_longest(plan, turn, self.expected, tenant.id)
        return plan.kept_short(longest) if longest else None

    def today_of(self, tenant: Tenant) -> datetime:
        """Return now in the tenant's time zone: exchange rates go by the tenant's days."""
        return self.clock().astimezone(ZoneInfo(tenant.timezone))

    def rate_of(self, tenant: Tenant) -> tuple[Decimal, date]:
        """Return today's units of the tenant's currency for one US dollar, and the rate's day."""
        return self.rates.rate_on(tenant.currency, self.today_of(tenant).date())

    def nothing(self, tenant: Tenant) -> Cost:
        """Return the cost of a turn that asked no model."""
        rate, rate_date = self.rate_of(tenant)
        return Cost(0, 0, tenant.currency, rate, rate_date)

    async def record_unasked(self, record: Mapping[str, Any], tenant: Tenant) -> None:
        """Record a turn that no model was asked for (a cache hit); a failure is only counted."""
        try:
            await self._ledger.record(tenant.id, record)
        except LedgerUnavailable as error:
            self._degradations.failed("ledger", error, record["request_id"])

    async def next_attempt(
        self, reservation: Reservation, closing: EntryClosing, opening: EntryOpening
    ) -> None:
        """Close one attempt and open the next; a failure is only counted, the lease remains."""
        try:
            await self._ledger.next_attempt(reservation, closing, opening)
        except LedgerUnavailable as error:
            self._degradations.failed("ledger", error, opening.request_id)

    async def settle(
        self, reservation: Reservation, closing: EntryClosing, record: Mapping[str, Any] | None
    ) -> None:
        """Settle; what Redis does not take now, the ledger keeps and sends later."""
        try:
            await self._ledger.settle(reservation, closing, record)
            self._degradations.worked("ledger")
        except LedgerUnavailable as error:
            self._degradations.failed("ledger", error, reservation.opening.request_id)

    def price_day(self) -> date:
        """Return the day whose prices count: providers' days are UTC."""
        return self.clock().astimezone(UTC).date()

    def output_tokens(
        self, model: ServedModel, turn: Turn, input_tokens: int, cap_usd: Decimal | None
    ) -> int:
        """Return the most output tokens of a turn on a model, all its choices together."""
        day = None if cap_usd is None else self.price_day()
        return output_tokens_of(model, turn, input_tokens, cap_usd, day)

    def cap_usd(self, turn: Turn, tenant: Tenant, policy: Policy) -> Decimal | None:
        """Return the most that the turn may cost: the policy's cap or the caller's, the lower."""
        cap = policy.limits.max_cost
        if cap is None:
            return turn.max_cost_usd
        rate, _ = self.rates.rate_on(cap.currency, self.today_of(tenant).date())
        return cap_usd(cap, turn.max_cost_usd, rate)

    def hold_for(self, plan: Plan, tenant: Tenant, policy: Policy) -> Hold:
        """Return what to hold for a plan; nothing where there is no budget."""
        budget = policy.budget
        if budget is None:
            return Hold(Decimal(0), Decimal(0))
        return hold_for(
            plan,
            self.expected,
            tenant.id,
            self.price_day(),
            is_learned=budget.overshoot_micro > 0,
        )

    async def extend(
        self,
        reservation: Reservation,
        spent_usd: Decimal,
        hold: Hold,
        policy: Policy,
        disclosure: Disclosure,
        at: datetime,
    ) -> None:
        """Hold what was spent already and what may follow, at the rate of the day of `at`.

        Raises:
            BudgetExceeded: it does not fit what is left.
            LedgerUnavailable: it cannot be held and the policy refuses then.
        """
        hold = Hold(spent_usd + hold.expected_usd, spent_usd + hold.worst_usd)
        hold_micro, worst_micro = self._in_budget(policy, hold, at)
        try:
            await self._ledger.extend(reservation, hold_micro, worst_micro)
        except LedgerUnavailable as error:
            self._tolerate(error, policy, disclosure)

    def _in_budget(self, policy: Policy, hold: Hold, at: datetime) -> tuple[int, int]:
        """Return a hold and its worst case in micro-units of the budget's currency."""
        if policy.budget is None:
            return 0, 0
        rate, _ = self.rates.rate_on(policy.budget.currency, at.date())
        return to_micro(hold.expected_usd, rate), to_micro(hold.worst_usd, rate)

    def _tolerate(self, error: LedgerUnavailable, policy: Policy, disclosure: Disclosure) -> None:
        if policy.on_ledger_down == "block":
            raise error
        self._degradations.failed("ledger", error, disclosure.request_id)
        disclosure.degraded.add("ledger")
