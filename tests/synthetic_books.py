"""Weeks of plausible turns in the books, without anybody having to take them.

The records are those that the ledger's stream would hold, their decisions made by the router from
drawn scores; from there on everything is the real thing. Run as a script it fills the database of
a configuration file:

    python -m tests.synthetic_books turnwise.yaml demo 30 150
"""

from __future__ import annotations

import math
import random
import sys
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import cache as once
from importlib.resources import files
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import Engine

from memory.conversation import Message
from policies.booking import book, parse_record
from policies.catalog import ModelCatalog, ModelSpec, Price
from policies.document import load_document
from policies.policy import parse_policy
from policies.usage import Rates, Usage, cost_of
from router.decision import Labels, RoutingDecision, decide
from router.labels import Prediction
from router.request import RouteRequest
from router.table import RoutingTable

LANGUAGES = ("en", "en", "en", "hi", "hi-Latn", "ta", "te", "bn", "mr")
REQUESTED = ("auto",) * 18 + ("auto:fast", "auto:best", "strong")
TAGS = ((), ("support",), ("support",), ("search",), ("support", "beta"))
PRICES = {
    "local-small": Price(input_usd_per_mtok=Decimal("0.05"), output_usd_per_mtok=Decimal("0.2")),
    "strong": Price(
        input_usd_per_mtok=Decimal("1.25"),
        cached_input_usd_per_mtok=Decimal("0.125"),
        output_usd_per_mtok=Decimal("10"),
    ),
}
CATALOG = ModelCatalog(
    {
        name: ModelSpec(name, backend, name, window_tokens, price=PRICES[name])
        for name, backend, window_tokens in (
            ("local-small", "local", 2_048),
            ("strong", "practice", 100_000),
        )
    }
)


@once
def table() -> RoutingTable:
    """Return the packaged policy over two models."""
    file = files("policies").joinpath("default.yaml")
    policy = parse_policy(load_document(file.read_text(), "default.yaml"), CATALOG, name="default")
    return RoutingTable.of(policy, CATALOG)


def decision_of(rng: random.Random, usage: Usage, rate: Decimal) -> RoutingDecision:
    """Return what the real decision makes of a drawn score and request."""
    score = min(0.999, rng.betavariate(1.3, 2.6))
    labels = Labels(language=rng.choice(LANGUAGES), task="chat", difficulty=score)
    request = RouteRequest(
        messages=[Message("user", "")],
        requested=rng.choice(REQUESTED),
        input_tokens=usage.input_tokens,
        output_tokens=600,
        currency="INR",
        usd_rate=rate,
    )
    prediction = Prediction(score, labels, is_carried=rng.random() < 0.15)
    return decide(request, prediction, table(), classifier="synthetic")


def record(
    rng: random.Random, rates: Rates, tenant: str, n: int, at: datetime, *, n_users: int = 40
) -> dict[str, Any]:
    """Return one turn with its entry, as the stream holds them."""
    usage = Usage(rng.randint(60, 2400), rng.randint(20, 600), rng.randint(0, 50))
    decision = decision_of(rng, usage, rates.rate_on("INR", at.date())[0])
    model, tier = decision.model, decision.tier
    is_strong = model == "strong"
    cache = "exact" if rng.random() < 0.09 else "none"
    status = rng.choices(("complete", "cancelled", "failed"), (96, 3, 1))[0]
    cost = cost_of(usage, PRICES[model], currency="INR", rates=rates, at=at, busy_s=None)
    assert cost is not None  # both models have token prices
    first_ms = rng.lognormvariate(math.log(420 if is_strong else 130), 0.45)
    total_ms = first_ms + usage.output_tokens * (11 if is_strong else 7)
    started_us = round(at.timestamp() * 1e6)
    ended_us = started_us + round(total_ms * 1000)
    request_id = f"req_{tenant}_{n:08d}"
    money = {
        "usd_micro": cost.usd_micro,
        "micro": cost.micro,
        "currency": "INR",
        "rate": str(cost.rate),
        "rate_date": cost.rate_date.isoformat(),
    }
    used = {name: getattr(usage, name) for name in Usage.__dataclass_fields__}
    common = {
        "request_id": request_id,
        "tenant": tenant,
        "model": model,
        "tier": tier,
        "conversation": f"chat-{n % 97}",
        "end_user": f"user-{rng.randint(1, n_users)}",
        "tags": rng.choice(TAGS),
        "policy": "default@0",
        "currency": "INR",
        "status": status,
        "error": "the upstream closed the connection" if status == "failed" else None,
        "usage": used,
        "is_orphan": False,
    }
    entry = {
        **common,
        "id": f"{request_id}:1",
        "n": 1,
        "backend": "practice" if is_strong else "local",
        "kind": "chat",
        "opened_us": started_us + 900,
        "closed_us": ended_us,
        "cost": money,
        "charge_micro": cost.micro,
        "spend": f"{tenant}:month",
    }
    turn = {
        **common,
        "requested": decision.inputs["requested"],
        "cache": cache,
        "degraded": [],
        "cost": money if cache == "none" else {**money, "usd_micro": 0, "micro": 0},
        "decision": decision.to_wire(),
        "started_us": started_us,
        "ended_us": ended_us,
        "timings_ms": {"total": total_ms, "overhead": 1.4, "first_event": first_ms},
    }
    return {"entry": entry if cache == "none" else None, "turn": turn}


def fill(
    engine: Engine, tenant: str, *, now: datetime, days: int, per_day: int, seed: int = 7
) -> int:
    """Book turns for the last days, today included up to now; return how many."""
    rng = random.Random(seed)
    rates = Rates({"INR": [(date(2020, 1, 1), Decimal("85"))]})
    records: list[dict[str, Any]] = []
    for back in range(days):
        weekday = (now - timedelta(days=back)).weekday()
        n_turns = round(per_day * (0.55 if weekday > 4 else 1) * rng.uniform(0.8, 1.2))
        for _ in range(n_turns):
            at = now - timedelta(days=back, seconds=rng.uniform(5, 86_000))
            records.append(record(rng, rates, tenant, len(records), at))
    for start in range(0, len(records), 2000):
        blobs = [orjson.dumps(one) for one in records[start : start + 2000]]
        with engine.begin() as connection:
            book(connection, [parse_record(blob, tenant) for blob in blobs])
    return len(records)


if __name__ == "__main__":
    from gateway.database import open_database, upgrade
    from gateway.settings import load_settings

    file, tenant, days, per_day = sys.argv[1:]
    settings = load_settings(Path(file), {})
    engine = open_database(settings.ledger.url)
    upgrade(engine)
    n_turns = fill(engine, tenant, now=datetime.now(UTC), days=int(days), per_day=int(per_day))
    sys.stdout.write(f"{n_turns} turns\n")
