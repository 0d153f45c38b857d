from __future__ import annotations

import pytest

from gateway.errors import RequestError
from gateway.idempotency import LEASE_S, Claim, IdempotencyStore, Outcome


async def begun(store: IdempotencyStore, request_id: str = "req_1") -> Claim:
    claim = await store.begin("acme", "chat", "k", b"body", request_id)
    assert isinstance(claim, Claim)
    return claim


async def test_a_running_claim_is_held_for_another_lease(redis) -> None:
    store = IdempotencyStore(redis)
    claim = await begun(store)
    await redis.pexpire(claim.redis_key, 500)
    await store.renew()
    assert await redis.pttl(claim.redis_key) > (LEASE_S - 5) * 1000


async def test_a_claim_that_redis_lost_is_taken_again(redis) -> None:
    store = IdempotencyStore(redis)
    claim = await begun(store)
    await redis.flushall()
    await store.renew()
    assert await redis.get(claim.redis_key) == claim.marker


async def test_a_claim_nobody_renews_runs_out_and_may_be_made_by_another(redis) -> None:
    claim = await begun(IdempotencyStore(redis))
    assert 0 < await redis.pttl(claim.redis_key) <= LEASE_S * 1000
    other = IdempotencyStore(redis)
    with pytest.raises(RequestError):
        await begun(other, "req_2")
    await redis.delete(claim.redis_key)  # as its time does
    assert (await begun(other, "req_2")).marker != claim.marker


async def test_a_claim_that_ran_out_takes_nothing_from_the_next_holder(redis) -> None:
    late, other = IdempotencyStore(redis), IdempotencyStore(redis)
    claim = await begun(late)
    await redis.delete(claim.redis_key)
    held = await begun(other, "req_2")
    await late.renew()
    await late.abandon(claim)
    assert await redis.get(held.redis_key) == held.marker


async def test_a_finished_outcome_is_replayed_and_no_longer_renewed(redis) -> None:
    store = IdempotencyStore(redis)
    claim = await begun(store)
    outcome = Outcome(200, [(b"content-type", b"application/json")], b"{}")
    await store.finish(claim, outcome)
    await store.renew()
    assert await store.begin("acme", "chat", "k", b"body", "req_2") == outcome
