"""Entry: one attempt in the ledger, from its opening to its end, and how it travels as JSON.

Owns the shape of the records that go from Redis to the books. Stores nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

EntryStatus = Literal["complete", "cancelled", "failed"]

ORPHANED = "the gateway stopped before it could settle"


@dataclass(frozen=True, slots=True)
class EntryOpening:
    """An attempt about to be made; `id` is unique, `n` counts the attempts of a turn from 1.

    `kind` is `chat`, or names the helper whose call it is. `input_tokens`, `estimate` (the shape of
    `EntryClosing.cost`) and `estimate_charge_micro` are what the attempt is known to owe from the
    moment it is sent: they are booked, as estimates, when this process dies before settling.
    """

    id: str
    request_id: str
    tenant: str
    n: int
    model: str
    backend: str
    tier: str
    opened_at: datetime
    currency: str
    policy: str
    conversation: str | None = None
    end_user: str | None = None
    tags: tuple[str, ...] = ()
    kind: str = "chat"
    input_tokens: int = 0
    estimate: Mapping[str, Any] | None = None
    estimate_charge_micro: int = 0


@dataclass(frozen=True, slots=True)
class EntryClosing:
    """How an attempt ended.

    `charge_micro` is what counts against the budget, in the budget's currency; `cost` the amounts
    of record as JSON values (`usd_micro`, `micro`, `rate`, `rate_date`), None where the price is
    unknown. Token counts are OpenAI's inclusive buckets.
    """

    status: EntryStatus
    closed_at: datetime
    charge_micro: int = 0
    usage: Mapping[str, Any] = field(default_factory=dict)
    cost: Mapping[str, Any] | None = None
    error: str | None = None


def to_us(at: datetime) -> int:
    """Return a moment as whole microseconds since the epoch."""
    return round(at.timestamp() * 1_000_000)


def opening_to_json(opening: EntryOpening, spend: str) -> dict[str, Any]:
    """Return an open entry as JSON values; `spend` is the key of the counter it is held against."""
    return {
        "id": opening.id,
        "request_id": opening.request_id,
        "tenant": opening.tenant,
        "n": opening.n,
        "model": opening.model,
        "backend": opening.backend,
        "tier": opening.tier,
        "opened_us": to_us(opening.opened_at),
        "currency": opening.currency,
        "policy": opening.policy,
        "conversation": opening.conversation,
        "end_user": opening.end_user,
        "tags": opening.tags,
        "kind": opening.kind,
        "spend": spend,
        "input_tokens": opening.input_tokens,
        "estimate": opening.estimate,
        "estimate_charge_micro": opening.estimate_charge_micro,
    }


def entry_to_json(opening: EntryOpening, closing: EntryClosing, spend: str) -> dict[str, Any]:
    """Return a closed entry as JSON values."""
    return {
        **opening_to_json(opening, spend),
        "status": closing.status,
        "closed_us": to_us(closing.closed_at),
        "charge_micro": closing.charge_micro,
        "usage": closing.usage,
        "cost": closing.cost,
        "error": closing.error,
        "is_orphan": False,
    }


def orphan_records(opening: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """Return the entry and the turn of an attempt that nobody closed, from its stored opening.

    What the upstream charged is unknown: only what was known at the opening is booked, marked as
    an estimate; without that the row has no price, which is loud. The true closing, should it come
    after all, replaces both.
    """
    usage = {"input_tokens": opening["input_tokens"], "output_tokens": 0, "is_estimated": True}
    entry = {
        **opening,
        "status": "failed",
        "closed_us": to_us(now),
        "charge_micro": opening["estimate_charge_micro"],
        "usage": usage,
        "cost": opening["estimate"],
        "error": ORPHANED,
        "is_orphan": True,
    }
    turn = {
        **{
            name: opening[name]
            for name in ("request_id", "tenant", "model", "tier", "conversation", "end_user")
        },
        "tags": opening["tags"],
        "policy": opening["policy"],
        "currency": opening["currency"],
        "status": "failed",
        "error": ORPHANED,
        "cache": "none",
        "usage": usage,
        "cost": opening["estimate"],
        "started_us": opening["opened_us"],
        "ended_us": to_us(now),
        "is_orphan": True,
    }
    return {"entry": entry, "turn": turn}
