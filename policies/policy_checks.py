"""What a policy document must hold true across its fields, and against the catalogue."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from policies.budget import parse_amount
from policies.catalog import ModelCatalog, is_inside
from policies.document import Document, DocumentError
from policies.policy_document import BudgetSection, PolicyDocument, RoutingSection


def routing_errors(
    routing: RoutingSection, document: Document, catalog: ModelCatalog
) -> list[DocumentError]:
    """Return what is wrong with the tiers, and with every name of a tier or a model."""
    return [
        *_name_errors(routing, document, catalog),
        *_model_errors(routing, document, catalog),
        *_rule_errors(routing, document),
        *_threshold_errors(routing, document),
        *_order_errors(routing, document),
    ]


def _name_errors(
    routing: RoutingSection, document: Document, catalog: ModelCatalog
) -> list[DocumentError]:
    tiers, models = list(routing.tiers), list(catalog)
    asked: list[tuple[tuple[str | int, ...], str | None, Sequence[str]]] = [
        (("tiers", tier, index), name, models)
        for tier, names in routing.tiers.items()
        for index, name in enumerate(names)
    ]
    asked += [((key,), getattr(routing, key), tiers) for key in ("floor", "ceiling", "safe")]
    for index, rule in enumerate(routing.rules):
        asked.append((("rules", index, "floor"), rule.floor, tiers))
        asked.append((("rules", index, "ceiling"), rule.ceiling, tiers))
    asked += [(("thresholds", tier), tier, tiers[1:]) for tier in routing.thresholds]
    return [
        unknown_name(document, ("routing", *path), value, known)
        for path, value, known in asked
        if value is not None and value not in known
    ]


def unknown_name(
    document: Document, path: Sequence[str | int], value: str, known: Sequence[str]
) -> DocumentError:
    """Return the error that a name is none of those known, with the nearest one."""
    near = difflib.get_close_matches(value, known, n=1, cutoff=0.5)
    allowed = "known names are " + ", ".join(known) if known else "no name is known here"
    return document.error(path, value, allowed, near[0] if near else None)


def _model_errors(
    routing: RoutingSection, document: Document, catalog: ModelCatalog
) -> list[DocumentError]:
    errors = []
    for tier, names in routing.tiers.items():
        for index, name in enumerate(names):
            if name in names[:index]:
                path = ("routing", "tiers", tier, index)
                errors.append(document.error(path, name, "a model stands once in a tier"))
    return errors


def boundary_errors(
    parsed: PolicyDocument, document: Document, catalog: ModelCatalog
) -> list[DocumentError]:
    """Return the ways on which nobody inside the boundary could answer.

    A turn's own way never leaves it, for whoever lies outside is not asked. That a rule leaves
    nobody is an answer too: such turns are refused. But a rung must not close everything before the
    money is gone, and a summary reads many turns at once, to each of which another rule may apply.
    """
    routing = parsed.routing
    bound = routing.boundary

    def is_shut(ceiling: str | None, *boundaries: str) -> bool:
        tiers = list(routing.tiers)
        last = tiers.index(ceiling) if ceiling in tiers else len(tiers) - 1
        specs = [catalog.get(name) for tier in tiers[: last + 1] for name in routing.tiers[tier]]
        inside = (not spec or all(is_inside(spec, each) for each in boundaries) for spec in specs)
        return not any(inside)

    errors = []
    if is_shut(routing.ceiling, bound):
        allowed = "at least one model of the tiers, up to the ceiling, lies inside the boundary"
        errors.append(document.error(("routing", "boundary"), bound, allowed))
        return errors
    for index, rung in enumerate(parsed.budget.ladder if parsed.budget else ()):
        if rung.ceiling is not None and is_shut(rung.ceiling, bound):
            path = ("budget", "ladder", index, "ceiling")
            allowed = f"a tier, up to which at least one model lies inside the boundary ({bound})"
            errors.append(document.error(path, rung.ceiling, allowed))
    ruled = [rule.boundary for rule in routing.rules if rule.boundary is not None]
    if parsed.memory.summary == "abstractive" and is_shut(routing.ceiling, bound, *ruled):
        allowed = "a model inside every boundary of the rules writes summaries, and there is none"
        errors.append(document.error(("memory", "summary"), "abstractive", allowed))
    return errors


def _rule_errors(routing: RoutingSection, document: Document) -> list[DocumentError]:
    errors = []
    for index, rule in enumerate(routing.rules):
        path = ("routing", "rules", index)
        if rule.floor is rule.ceiling is rule.boundary is None:
            allowed = "a rule has a floor, a ceiling or a boundary"
            errors.append(document.error(path, "nothing", allowed))
        if not rule.when.model_dump(exclude_none=True):
            allowed = "a rule has a condition; what always holds stands outside the rules"
            errors.append(document.error((*path, "when"), "nothing", allowed))
    return errors


def _threshold_errors(routing: RoutingSection, document: Document) -> list[DocumentError]:
    above = list(routing.tiers)[1:]
    missing = [tier for tier in above if tier not in routing.thresholds]
    rising = [routing.thresholds[tier] for tier in above if tier in routing.thresholds]
    path = ("routing", "thresholds")
    if missing:
        allowed = f"each tier after the first has a threshold ({missing[0]} has none)"
        return [document.error(path, routing.thresholds, allowed)]
    if any(low >= high for low, high in zip(rising, rising[1:], strict=False)):
        allowed = "thresholds rise from tier to tier"
        return [document.error(path, routing.thresholds, allowed)]
    return []


def _order_errors(routing: RoutingSection, document: Document) -> list[DocumentError]:
    tiers = list(routing.tiers)
    ceiling = routing.ceiling or tiers[-1]
    errors = []
    for key, value in (("floor", routing.floor or tiers[0]), ("safe", routing.safe or ceiling)):
        if {value, ceiling} <= set(tiers) and tiers.index(value) > tiers.index(ceiling):
            allowed = f"it is at or below the ceiling ({ceiling})"
            errors.append(document.error(("routing", key), value, allowed))
    return errors


def money_errors(
    parsed: PolicyDocument, document: Document, tenant_currency: str | None
) -> list[DocumentError]:
    """Return what is wrong with amounts and the ladder; a tenant currency of None is any."""
    budget, max_cost = parsed.budget, parsed.limits.max_cost
    amounts = [(("budget", "limit"), budget.limit)] if budget else []
    amounts += [(("limits", "max_cost"), max_cost)] if max_cost else []
    errors = []
    for path, text in amounts:
        if tenant_currency is not None and parse_amount(text)[1] not in ("USD", tenant_currency):
            allowed = f"it is in USD or in the tenant's own currency, {tenant_currency}"
            errors.append(document.error(path, text, allowed))
    return errors if budget is None else [*errors, *_budget_errors(parsed, budget, document)]


def _budget_errors(
    parsed: PolicyDocument, budget: BudgetSection, document: Document
) -> list[DocumentError]:
    errors = []
    currency = parse_amount(budget.limit)[1]
    if budget.overshoot and parse_amount(budget.overshoot)[1] != currency:
        allowed = f"the overshoot is in the currency of the limit ({currency})"
        errors.append(document.error(("budget", "overshoot"), budget.overshoot, allowed))
    for index, rung in enumerate(budget.ladder):
        path: tuple[str | int, ...] = ("budget", "ladder", index)
        if (rung.ceiling is None) == (rung.action is None):
            errors.append(document.error(path, "this rung", "a rung has a ceiling or an action"))
        elif rung.ceiling is not None and rung.ceiling not in parsed.routing.tiers:
            tiers = list(parsed.routing.tiers)
            errors.append(unknown_name(document, (*path, "ceiling"), rung.ceiling, tiers))
    return errors
