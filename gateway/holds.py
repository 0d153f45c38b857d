"""What to hold for a turn before it is asked: its worst case, or what is expected of it.

Also owns the cap on one turn's cost. Knows prices and bounds; holds nothing itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from decimal import Decimal

from gateway.models import ServedModel
from gateway.turn import Turn
from policies.budget import MICRO, Amount
from policies.errors import CostCapExceeded
from policies.expected_output import ExpectedOutput
from policies.usage import affordable_output_tokens, worst_case_usd

# The longest that a local model may be busy with one turn, for its worst case.
MAX_BUSY_S = 60.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What may be asked, in order, and how large it is at most, all its choices together.

    `longest` is what answers were kept short to, by the model's name.
    """

    models: Sequence[ServedModel]
    input_tokens: int
    output_tokens: Callable[[ServedModel], int]
    longest: Mapping[str, int] = field(default_factory=dict)

    def after(self, model: ServedModel, input_tokens: int) -> Plan:
        """Return what is left to be asked from this model on, whose prompt is so long."""
        at = next(n for n, each in enumerate(self.models) if each.spec.name == model.spec.name)
        input_tokens = max(input_tokens, self.input_tokens)
        return replace(self, models=self.models[at:], input_tokens=input_tokens)

    def kept_short(self, longest: Mapping[str, int]) -> Plan:
        """Return the plan with answers of at most so many tokens, by the model's name."""

        def output_tokens(model: ServedModel) -> int:
            most_tokens = self.output_tokens(model)
            return min(most_tokens, longest.get(model.spec.name, most_tokens))

        return replace(self, output_tokens=output_tokens, longest=longest)


@dataclass(frozen=True, slots=True)
class Hold:
    """US dollars: what is expected of a plan, and the most that it can cost."""

    expected_usd: Decimal
    worst_usd: Decimal


def output_tokens_of(
    model: ServedModel, turn: Turn, input_tokens: int, cap_usd: Decimal | None, day: date | None
) -> int:
    """Return the most output tokens of a turn on a model, all its choices together.

    Under a cap no more than it affords by the day's prices; at least one token a choice, which
    `check_cap` judges. Without a day there is no cap.
    """
    n_choices = turn.n_choices
    most_tokens = model.output_tokens(turn.params.get("max_completion_tokens")) * n_choices
    if cap_usd is None or day is None:
        return most_tokens
    affordable = affordable_output_tokens(
        model.spec.price_on(day), input_tokens=input_tokens, cap_usd=cap_usd
    )
    return most_tokens if affordable is None else max(n_choices, min(most_tokens, affordable))


def usual_longest(plan: Plan, turn: Turn, expected: ExpectedOutput, tenant: str) -> dict[str, int]:
    """Return how long answers may be where room is short: by model, all choices together.

    Models of whose answers too little is known are left out, and so is every one where the caller
    said how long the answer may be.
    """
    if turn.params.get("max_completion_tokens") is not None:
        return {}
    names = [model.spec.name for model in plan.models]
    usual = {name: expected.of(tenant, name) for name in names}
    return {
        name: found.longest_tokens * turn.n_choices
        for name, found in usual.items()
        if found is not None
    }


def hold_for(
    plan: Plan, expected: ExpectedOutput, tenant: str, day: date, *, is_learned: bool
) -> Hold:
    """Return what one of the plan's models costs: the dearest of them, for one will answer.

    Args:
        plan: what may be asked.
        expected: what was learned of answers.
        tenant: whose answers.
        day: prices are those of this day, UTC.
        is_learned: whether what was learned counts; without it the worst case is expected.
    """
    worst = held = Decimal(0)
    for model in plan.models:
        most_tokens = plan.output_tokens(model)
        usd = _most_usd(model, day, plan.input_tokens, most_tokens, MAX_BUSY_S)
        worst = max(worst, usd)
        usual = expected.of(tenant, model.spec.name) if is_learned else None
        if usual is not None:
            tokens = min(usual.output_tokens, most_tokens)
            busy_s = MAX_BUSY_S if usual.busy_s is None else usual.busy_s
            usd = _most_usd(model, day, plan.input_tokens, tokens, busy_s)
        held = max(held, usd)
    return Hold(min(held, worst), worst)


def cap_usd(cap: Amount, asked_usd: Decimal | None, rate: Decimal) -> Decimal:
    """Return the most that one turn may cost.

    Args:
        cap: the policy's.
        asked_usd: the caller's own cap, None for none.
        rate: units of the cap's currency for one US dollar.
    """
    own_usd = Decimal(cap.micro) / MICRO / rate
    return own_usd if asked_usd is None else min(own_usd, asked_usd)


def check_cap(
    plan: Plan,
    model: ServedModel,
    cap_usd: Decimal | None,
    day: date,
    spent_usd: Decimal = Decimal(0),
) -> None:
    """Check that asking this model of the plan cannot pass the cap of one turn.

    A model that is billed by its busy time alone has no worst case worth the name; of those,
    routing has left out whatever is estimated to cost more.

    Raises:
        CostCapExceeded: it can.
    """
    if cap_usd is None:
        return
    output_tokens = plan.output_tokens(model)
    most_usd = spent_usd + _most_usd(model, day, plan.input_tokens, output_tokens, 0.0)
    if most_usd > cap_usd:
        raise CostCapExceeded(model.spec.name, cap_usd, most_usd)


def _most_usd(
    model: ServedModel, day: date, input_tokens: int, output_tokens: int, busy_s: float
) -> Decimal:
    usd = worst_case_usd(
        model.spec.price_on(day),
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        busy_s=busy_s,
    )
    return usd or Decimal(0)
