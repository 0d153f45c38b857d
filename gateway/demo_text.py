"""The demo's report as text for a person, plain enough for a log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from gateway.demo_report import PERCENTILES, Report

_LANGUAGES = {
    "en": "English",
    "hi": "Hindi",
    "hi-Latn": "Hinglish",
    "ta": "Tamil",
    "te": "Telugu",
    "bn": "Bengali",
    "mr": "Marathi",
}


def text_of(report: Report) -> str:
    """Return the whole report, sections apart by a blank line."""
    sections = [
        _head(report),
        _mix(report),
        _tiers("language", {_LANGUAGES.get(k, k): v for k, v in report.by_language.items()}),
        _tiers("kind", report.by_kind),
        _money(report),
        _waiting(report),
        _recall(report),
        _next(report),
    ]
    return "\n\n".join(section for section in sections if section)


def _head(report: Report) -> str:
    lines = [
        f"{report.n_answered} answers to {report.n_turns} user turns in {report.n_conversations} "
        f"conversations, {report.wall_s:.1f} s, against {report.base_url}"
    ]
    if report.n_unsent:
        lines.append(f"  {report.n_unsent} turns were not sent: the time was up (see --limit-s)")
    for code, count in report.errors.items():
        lines.append(f"  not answered: {count} x {code}")
    for code, count in report.retried.items():
        lines.append(f"  tried again after a refusal: {count} x {code}")
    return "\n".join(lines)


def _mix(report: Report) -> str:
    rows = [
        (
            row.tier,
            row.model,
            str(row.n_turns),
            f"{row.share:.0%}",
            f"{row.input_tokens:,}",
            f"{row.output_tokens:,}",
            usd(row.usd_micro),
        )
        for row in report.mix
    ]
    heads = ("tier", "model", "answers", "share", "tokens in", "tokens out", "USD")
    notes = [f"  {row.model}: {row.note}" for row in report.mix if row.note]
    reasons = ", ".join(f"{reason} {count}" for reason, count in report.reasons.items())
    return "\n".join(["Who answered", table(heads, rows), *notes, f"  reasons: {reasons}"])


def _tiers(name: str, groups: dict[str, dict[str, int]]) -> str:
    tiers = sorted({tier for counts in groups.values() for tier in counts})
    rows = []
    for group, counts in sorted(groups.items(), key=lambda item: -sum(item[1].values())):
        total = sum(counts.values())
        shares = (f"{counts.get(tier, 0) / total:.0%}" for tier in tiers)
        rows.append((group, str(total), *shares))
    return f"Tier by {name}\n" + table((name, "answers", *tiers), rows)


def _money(report: Report) -> str:
    cost, actual_micro = report.cost, report.cost["usd_micro"]
    rows = [("as routed", "", *_amounts(report, actual_micro), "", "recorded by each answer")]
    for each in report.comparisons:
        amounts = _amounts(report, each.usd_micro)
        rows.append((each.name, each.model, *amounts, _against(each.saved), each.how))
    heads = ("", "model", "USD", cost["currency"] or "", "routed costs", "how")
    lines = [
        "Cost",
        table(heads, rows),
        "  Comparisons are priced, not run: each turn keeps the token counts recorded for the",
        "  model that answered it. The quality of answers is not compared.",
    ]
    if any(row.note and row.note.startswith("Simulated") for row in report.mix):
        lines.append(
            "  A simulated model's amounts are catalogue prices of answers nobody generated."
        )
    if cost["n_unpriced"]:
        lines.append(f"  {cost['n_unpriced']} answers have no known price and are not in the sums.")
    if report.ledger is None:
        lines.append("  The ledger (GET /v1/costs) could not be read.")
    else:
        gain_micro = report.ledger["cost_micro"]
        equal = "equal" if gain_micro == cost["cost_micro"] else "NOT equal"
        lines.append(
            f"  Ledger (GET /v1/costs) gained {gain_micro} millionths of {cost['currency']}, "
            f"answers sum to {cost['cost_micro']}: {equal}."
        )
    return "\n".join(lines)


def _against(saved: float | None) -> str:
    if saved is None:
        return ""
    # `saved` is 1 - routed / compared; a person reads more or less easier than a sign.
    return f"{saved:.0%} less" if saved >= 0 else f"{-saved:.0%} more"


def _amounts(report: Report, usd_micro: int | None) -> tuple[str, str]:
    cost = report.cost
    if usd_micro is None:
        return "unknown", "unknown"
    if not cost["usd_micro"] or cost["currency"] is None:
        return usd(usd_micro), ""
    # At the rate that this run's own answers were converted with.
    return usd(usd_micro), f"{usd_micro * cost['cost_micro'] / cost['usd_micro'] / 1e6:.4f}"


def _waiting(report: Report) -> str:
    heads = ("tier", "answers", *(f"first p{p}" for p in PERCENTILES))
    heads += tuple(f"all p{p}" for p in PERCENTILES)
    rows = [
        (row.tier, str(row.n_turns), *map(ms, row.first_token_s), *map(ms, row.total_s))
        for row in report.waiting
    ]
    lines = ["Waiting in ms, to the first token and to the end", table(heads, rows)]
    if report.overhead_s:
        own = ", ".join(
            f"p{p} {s * 1000:.1f}" for p, s in zip(PERCENTILES, report.overhead_s, strict=True)
        )
        lines.append(f"  the gateway's own share before the upstream was called: {own}")
    return "\n".join(lines)


def _recall(report: Report) -> str:
    if not report.facts:
        return ""
    counts = Counter(check.found_in or "not in it" for check in report.facts)
    where = ", ".join(f"{part} {count}" for part, count in counts.most_common())
    return (
        f"Recall: {len(report.facts)} long chats end by asking for a fact given in the first turn. "
        f"In a context\n  of at most {report.context_tokens} tokens the fact stood: {where}"
    )


def _next(report: Report) -> str:
    url = report.base_url
    curl = f'  curl -H "Authorization: Bearer $KEY" {url}'
    lines = ["Look next (KEY is the key that `turnwise serve` prints)"]
    if report.example_turn:
        lines.append(f"{curl}/v1/turns/{report.example_turn}")
    lines.append(f"{curl}/v1/costs?group_by=model,tier".replace(url, f'"{url}') + '"')
    lines.append(f"  {url}/dashboard   {url}/chat")
    return "\n".join(lines)


def usd(micro: int) -> str:
    """Return millionths of a dollar as dollars, all six digits."""
    return f"{micro / 1_000_000:.6f}"


def ms(seconds: float) -> str:
    """Return seconds as whole milliseconds."""
    return f"{seconds * 1000:.0f}"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return an aligned table, numbers to the right."""
    lines = [tuple(heads), *(tuple(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    numeric = [all(_is_number(cell) for cell in column[1:]) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  "
        + "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in lines
    )


def _is_number(cell: str) -> bool:
    return not cell or cell[-1] in "0123456789%" and cell[0] in "+-0123456789"
