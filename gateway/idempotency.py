"""Idempotency keys: a request done once, its finished outcome replayed.

A key whose request runs is held by a lease that its process renews. When the process is killed the
lease runs out, and the request may be sent again.

Source: IETF draft-ietf-httpapi-idempotency-key-header (409 while running, 422 for another body).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import orjson
from redis.asyncio import Redis

from gateway.errors import RequestError
from memory.traces import Subject, Traces

LEASE_S = 30.0
RENEW_EVERY_S = 10.0
_KEEP_S = 24 * 3600
_MAX_OUTCOME_BYTES = 4 * 1024 * 1024
# A lease that Redis lost is taken again; one that ran out and is somebody else's now is left alone.
_RENEW = """
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
_ABANDON = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished answer as it went out."""

    status: int
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to do the work of one key; `marker` is what stands in Redis meanwhile.

    `subjects` are those the outcome will tell of: it is forgotten with any of them.
    """

    redis_key: str
    marker: bytes
    body_hash: str
    tenant: str
    subjects: tuple[Subject, ...] = ()


class IdempotencyStore:
    """Claims and outcomes of idempotency keys, one Redis string each, per tenant and route.

    Whoever opens it calls `renew` every RENEW_EVERY_S.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._renew = redis.register_script(_RENEW)
        self._abandon = redis.register_script(_ABANDON)
        self._running: set[Claim] = set()
        self.traces = Traces(redis)

    async def begin(
        self,
        tenant: str,
        route: str,
        key: str,
        body: bytes,
        request_id: str,
        subjects: tuple[Subject, ...] = (),
    ) -> Claim | Outcome:
        """Return a Claim to do the work, or the Outcome of work already done.

        Raises:
            RequestError: 409 while the first request runs, 422 when its body was another.
            redis.exceptions.RedisError: when nothing can be promised.
        """
        if not 1 <= len(key) <= 255:
            raise RequestError(
                "Idempotency-Key is text of 1 to 255 characters.",
                code="invalid_idempotency_key",
                param="Idempotency-Key",
            )
        name = hashlib.sha256(f"{route}\0{key}".encode("utf-8", "surrogateescape")).hexdigest()
        redis_key = f"tw:{{t:{tenant}}}:idem:{name}"
        body_hash = hashlib.sha256(body).hexdigest()
        marker = orjson.dumps({"state": "running", "body": body_hash, "by": request_id})
        for _ in range(2):
            if await self._redis.set(redis_key, marker, nx=True, px=round(LEASE_S * 1000)):
                claim = Claim(redis_key, marker, body_hash, tenant, subjects)
                self._running.add(claim)
                return claim
            stored = await self._redis.get(redis_key)
            if stored is not None:
                return _outcome_of(orjson.loads(stored), body_hash)
        raise _in_progress()

    async def renew(self) -> None:
        """Hold every claim of this process for another lease.

        Raises:
            redis.exceptions.RedisError: no answer; the next round tries again.
        """
        for claim in tuple(self._running):
            if claim not in self._running:  # concluded while another was renewed
                continue
            await self._renew(keys=[claim.redis_key], args=[claim.marker, round(LEASE_S * 1000)])

    async def finish(self, claim: Claim, outcome: Outcome) -> None:
        """Store the outcome for a day; one too large to keep is forgotten instead."""
        self._running.discard(claim)
        if len(outcome.body) > _MAX_OUTCOME_BYTES:
            await self.abandon(claim)
            return
        stored = {
            "state": "done",
            "body": claim.body_hash,
            "status": outcome.status,
            "headers": [(name.decode(), value.decode()) for name, value in outcome.headers],
            "answer": base64.b64encode(outcome.body).decode(),
        }
        await self.traces.keep(
            claim.tenant,
            claim.redis_key,
            orjson.dumps(stored),
            ttl_s=_KEEP_S,
            subjects=claim.subjects,
        )

    async def abandon(self, claim: Claim) -> None:
        """Give the key back: the work failed or was cancelled and may be tried again."""
        self._running.discard(claim)
        await self._abandon(keys=[claim.redis_key], args=[claim.marker])


def _outcome_of(stored: dict[str, object], body_hash: str) -> Outcome:
    if stored["body"] != body_hash:
        raise RequestError(
            "This Idempotency-Key was used with another request body.",
            status=422,
            type="idempotency_error",
            code="idempotency_key_mismatch",
            param="Idempotency-Key",
        )
    if stored["state"] == "running":
        raise _in_progress()
    headers = stored["headers"]
    assert isinstance(headers, list)
    return Outcome(
        status=int(str(stored["status"])),
        headers=[(name.encode(), value.encode()) for name, value in headers],
        body=base64.b64decode(str(stored["answer"])),
    )


def _in_progress() -> RequestError:
    return RequestError(
        "A request with this Idempotency-Key is still running.",
        status=409,
        type="idempotency_error",
        code="idempotency_in_progress",
        param="Idempotency-Key",
        headers={"retry-after": "1"},
    )
