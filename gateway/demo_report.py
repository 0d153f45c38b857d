"""What a replay of the demo came to: tiers, money, waiting, recall; as values and as text.

Every figure is counted from what the caller saw. The two comparisons are priced, not run: see
`compared`. Nothing here says how good the answers were.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from gateway.demo import Answer, DemoRun, FactCheck
from policies.catalog import ModelCatalog
from policies.usage import Rates, Usage, cost_of

PERCENTILES = (50, 95, 99)


@dataclass(frozen=True, slots=True)
class MixRow:
    """The turns of one model: how many, their tokens, what they cost; `note` as answers gave it."""

    tier: str
    model: str
    n_turns: int
    share: float
    input_tokens: int
    output_tokens: int
    usd_micro: int
    note: str | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """The same turns on one model. `usd_micro` is None where its price is unknown here.

    `saved` is 1 - actual / this; negative where this would have been cheaper.
    """

    name: str
    model: str
    usd_micro: int | None
    saved: float | None
    how: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """Percentiles of first token and of the whole answer for one tier, in seconds."""

    tier: str
    n_turns: int
    first_token_s: tuple[float, ...]
    total_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """Everything the demo prints.

    `n_unsent` turns were left when the time was up; each tool call brings an answer more.
    `cost` is the sum of the answers' `usage.cost_details`: USD, and the tenant's currency.
    `ledger` is what GET /v1/costs gained meanwhile: the same number where nobody else used the key.
    `overhead_s` are the gateway's own percentiles from `x-turnwise-overhead-ms`.
    """

    base_url: str
    wall_s: float
    n_conversations: int
    n_turns: int
    n_answered: int
    n_unsent: int
    errors: dict[str, int]
    retried: dict[str, int]
    mix: tuple[MixRow, ...]
    by_language: dict[str, dict[str, int]]
    by_kind: dict[str, dict[str, int]]
    reasons: dict[str, int]
    cost: dict[str, Any]
    comparisons: tuple[Comparison, ...]
    waiting: tuple[Waiting, ...]
    overhead_s: tuple[float, ...]
    facts: tuple[FactCheck, ...]
    context_tokens: int
    ledger: dict[str, int] | None
    example_turn: str | None

    def to_wire(self) -> dict[str, Any]:
        """Return the report as plain data for JSON."""
        return {**asdict(self), "percentiles": PERCENTILES}


def report_of(run: DemoRun, catalog: ModelCatalog) -> Report:
    """Return what a run came to.

    Args:
        run: the replay.
        catalog: prices for the comparisons; a model that it lacks has no price here.
    """
    answered = [answer for answer in run.answers if answer.reply.error is None]
    failed = Counter(answer.reply.error or "" for answer in run.answers if answer.reply.error)
    actual_micro = sum(_usd_micro(answer) for answer in answered)

    def price(model: str, usage: Usage) -> int | None:
        return priced(model, usage, catalog, run.started_at)

    return Report(
        base_url=run.base_url,
        wall_s=run.wall_s,
        n_conversations=run.n_conversations,
        n_turns=run.n_turns,
        n_answered=len(answered),
        n_unsent=run.n_turns - run.n_replayed,
        errors=dict(failed),
        retried=dict(run.retried),
        mix=_mix(answered),
        by_language=_tiers_by(answered, lambda answer: answer.conversation.language),
        by_kind=_tiers_by(answered, lambda answer: answer.conversation.kind),
        reasons=dict(Counter(_said(answer, "reason") for answer in answered).most_common()),
        cost=_cost(answered),
        comparisons=tuple(
            compared(name, run.ends[end], answered, actual_micro, price)
            for name, end in (("all strong", "ceiling"), ("all cheap", "floor"))
            if end in run.ends
        ),
        waiting=_waiting(answered),
        overhead_s=percentiles(_overheads(answered)),
        facts=tuple(run.facts),
        context_tokens=run.options.context_tokens,
        ledger=run.ledger,
        example_turn=_example(answered),
    )


def compared(
    name: str,
    model: str,
    answered: Sequence[Answer],
    actual_micro: int,
    price: Callable[[str, Usage], int | None],
) -> Comparison:
    """Return what the same turns would have cost, had one model answered them all.

    Turns that the model did answer count with their recorded cost. The others count with their own
    recorded token counts at the model's catalogue price, nothing cached; where it is priced by busy
    seconds instead, at this run's average cost of one output token on it. The counts are those of
    the model that answered: another one would tokenize and answer differently.
    """
    own = [answer for answer in answered if answer.reply.model == model]
    others = [answer for answer in answered if answer.reply.model != model]
    total = sum(_usd_micro(answer) for answer in own)
    n_own_output = sum(_usage(answer).output_tokens for answer in own)
    own_total = total
    how = "recorded tokens x catalogue price"
    for answer in others:
        usage = _usage(answer)
        plain = Usage(input_tokens=usage.input_tokens, output_tokens=usage.output_tokens)
        cost_micro = price(model, plain)
        if cost_micro is None and n_own_output:
            how = "recorded output tokens x this run's average cost of one on it"
            cost_micro = usage.output_tokens * own_total // n_own_output
        if cost_micro is None:
            return Comparison(name, model, None, None, "its price is not known here")
        total += cost_micro
    saved = 1 - actual_micro / total if total else None
    return Comparison(name, model, total, saved, how)


def priced(model: str, usage: Usage, catalog: ModelCatalog, at: datetime) -> int | None:
    """Return USD millionths at catalogue token prices; None where a model has none."""
    spec = catalog.get(model)
    if spec is None or spec.price is None or spec.price.busy_second_usd is not None:
        return None
    cost = cost_of(usage, spec.price, currency="USD", rates=Rates({}), at=at)
    return None if cost is None else cost.usd_micro


def percentiles(values: Iterable[float]) -> tuple[float, ...]:
    """Return the nearest-rank percentiles of `PERCENTILES`; empty for no values."""
    ranked = sorted(values)
    if not ranked:
        return ()
    return tuple(ranked[max(0, -(-len(ranked) * p // 100) - 1)] for p in PERCENTILES)


def _said(answer: Answer, name: str) -> str:
    return str(answer.reply.turnwise.get(name) or "unknown")


def _usage(answer: Answer) -> Usage:
    return answer.reply.usage or Usage(input_tokens=0, output_tokens=0)


def _details(answer: Answer) -> dict[str, Any]:
    return answer.reply.wire_usage.get("cost_details") or {}


def _usd_micro(answer: Answer) -> int:
    return int(_details(answer).get("usd_micro", 0))


def _cost(answered: Sequence[Answer]) -> dict[str, Any]:
    details = [_details(answer) for answer in answered]
    currencies = {each["currency"] for each in details if each}
    return {
        "usd_micro": sum(map(_usd_micro, answered)),
        "cost_micro": sum(int(each.get("cost_micro", 0)) for each in details),
        "currency": currencies.pop() if len(currencies) == 1 else None,
        "n_unpriced": sum(1 for each in details if not each),
    }


def _mix(answered: Sequence[Answer]) -> tuple[MixRow, ...]:
    groups: dict[tuple[str, str], list[Answer]] = {}
    for answer in answered:
        groups.setdefault((_said(answer, "tier"), answer.reply.model or "unknown"), []).append(
            answer
        )
    rows = [
        MixRow(
            tier=tier,
            model=model,
            n_turns=len(group),
            share=len(group) / len(answered),
            input_tokens=sum(_usage(answer).input_tokens for answer in group),
            output_tokens=sum(_usage(answer).output_tokens for answer in group),
            usd_micro=sum(map(_usd_micro, group)),
            note=group[0].reply.turnwise.get("note"),
        )
        for (tier, model), group in groups.items()
    ]
    return tuple(sorted(rows, key=lambda row: -row.n_turns))


def _tiers_by(
    answered: Sequence[Answer], group_of: Callable[[Answer], str]
) -> dict[str, dict[str, int]]:
    groups: dict[str, Counter[str]] = {}
    for answer in answered:
        groups.setdefault(group_of(answer), Counter())[_said(answer, "tier")] += 1
    return {name: dict(counts) for name, counts in groups.items()}


def _waiting(answered: Sequence[Answer]) -> tuple[Waiting, ...]:
    tiers = sorted({_said(answer, "tier") for answer in answered})
    return tuple(
        Waiting(
            tier=tier,
            n_turns=len(group),
            first_token_s=percentiles(
                a.reply.first_token_s for a in group if a.reply.first_token_s is not None
            ),
            total_s=percentiles(a.reply.total_s for a in group),
        )
        for tier in tiers
        if (group := [answer for answer in answered if _said(answer, "tier") == tier])
    )


def _overheads(answered: Sequence[Answer]) -> list[float]:
    told = (answer.reply.headers.get("x-turnwise-overhead-ms") for answer in answered)
    return [float(text) / 1000 for text in told if text]


def _example(answered: Sequence[Answer]) -> str | None:
    """Return the request id of the dearest turn: the one most worth a look."""
    if not answered:
        return None
    return max(answered, key=_usd_micro).reply.headers.get("x-request-id")
