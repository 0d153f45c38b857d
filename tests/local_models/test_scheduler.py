from __future__ import annotations

import random

import pytest

from local_models.config import EngineConfig
from local_models.errors import QueueFull, RequestRefused
from local_models.kv_blocks import PagePool
from local_models.scheduler import Scheduler, Work
from local_models.sequence import Finish, SamplingParams, Sequence


def make(scheduler: Scheduler, n_prompt=10, n_new=10, scope="a", at=0.0) -> Sequence:
    make.next_id += 1
    sequence = Sequence(
        id=make.next_id,
        scope=scope,
        tokens=[make.next_id + i for i in range(n_prompt)],
        n_prompt=n_prompt,
        max_tokens=n_prompt + n_new,
        params=SamplingParams(temperature=0),
        eos=frozenset(),
        arrived_s=at,
    )
    scheduler.add(sequence)
    return sequence


make.next_id = 0


def build(n_pages=32, **changes) -> Scheduler:
    config = EngineConfig(page_tokens=4, **({"max_running": 8, "scope_share": 1.0} | changes))
    return Scheduler(config, PagePool(n_pages, 4))


def run(scheduler: Scheduler, work: list[Work]) -> list[Sequence]:
    """Do what the engine does after a step, with token 7 chosen everywhere."""
    ended = []
    for item in work:
        reason = item.sequence.append(7) if item.samples else None
        scheduler.advance(item)
        if reason is not None:
            scheduler.finish(item.sequence, reason)
            ended.append(item.sequence)
    return ended


def test_a_prompt_longer_than_a_step_is_run_in_chunks():
    scheduler = build(step_tokens=16)
    sequence = make(scheduler, n_prompt=40, n_new=2)
    sizes = []
    while sequence.finish is None:
        work = scheduler.schedule(0.0)
        sizes.append(work[0].n_tokens)
        run(scheduler, work)
    assert sizes == [16, 16, 8, 1]


def test_decoding_goes_before_prompts():
    scheduler = build(step_tokens=16)
    first = make(scheduler, n_prompt=4)
    run(scheduler, scheduler.schedule(0.0))
    second = make(scheduler, n_prompt=40)
    work = scheduler.schedule(0.0)
    assert [(w.sequence, w.n_tokens) for w in work] == [(first, 1), (second, 15)]


def test_a_request_larger_than_the_pool_is_refused_at_once():
    with pytest.raises(RequestRefused, match="cache"):
        make(build(n_pages=4), n_prompt=10, n_new=10)


def test_a_full_queue_refuses_with_a_time_to_come_back():
    scheduler = build(max_queued=1)
    make(scheduler)
    with pytest.raises(QueueFull) as caught:
        make(scheduler)
    assert caught.value.retry_after_s > 0


def test_admission_waits_for_the_worst_case_of_everything_admitted():
    scheduler = build(n_pages=8)
    first = make(scheduler, n_prompt=10, n_new=10)
    second = make(scheduler, n_prompt=10, n_new=10)
    scheduler.schedule(0.0)
    assert scheduler.running == [first]
    scheduler.finish(first, Finish.CANCELLED)
    scheduler.schedule(0.0)
    assert scheduler.running == [second]


def test_one_scope_leaves_room_for_others():
    scheduler = build(n_pages=64, scope_share=0.75)
    for _ in range(10):
        make(scheduler, scope="noisy")
    scheduler.schedule(0.0)
    assert len(scheduler.running) == 6
    quiet = make(scheduler, scope="quiet")
    scheduler.schedule(0.0)
    assert quiet in scheduler.running


def test_the_least_served_scope_is_next():
    scheduler = build(max_running=1)
    for _ in range(3):
        make(scheduler, scope="noisy")
    make(scheduler, scope="quiet")
    order = []
    for _ in range(200):
        work = scheduler.schedule(0.0)
        order += [s.scope for s in run(scheduler, work)]
    assert order == ["noisy", "quiet", "noisy", "noisy"]


def test_a_scope_without_a_slot_preempts_the_newest_of_the_largest():
    scheduler = build(n_pages=12)
    first = make(scheduler, n_prompt=10, n_new=10, scope="noisy")
    second = make(scheduler, n_prompt=10, n_new=10, scope="noisy")
    run(scheduler, scheduler.schedule(0.0))
    quiet = make(scheduler, n_prompt=10, n_new=10, scope="quiet")
    scheduler.schedule(0.0)
    assert scheduler.running == [first, quiet]
    assert second.n_computed == 0
    assert second.pages == []
    assert scheduler.n_preemptions == 1


def test_equal_prompts_share_pages_within_a_scope_only():
    scheduler = build()
    tokens = list(range(100, 117))
    for scope, expected in (("a", 0), ("a", 16), ("b", 0)):
        sequence = make(scheduler, n_prompt=17, n_new=1, scope=scope)
        sequence.tokens = list(tokens)
        work = scheduler.schedule(0.0)
        assert sequence.n_reused == expected
        run(scheduler, work)


def test_finishing_twice_counts_once():
    scheduler = build()
    sequence = make(scheduler)
    assert scheduler.finish(sequence, Finish.CANCELLED)
    assert not scheduler.finish(sequence, Finish.STOP)
    assert sequence.finish is Finish.CANCELLED


def test_random_arrivals_cancels_and_preemptions_end_with_every_page_back():
    rng = random.Random(3)
    scheduler = build(n_pages=40, step_tokens=16, scope_share=0.75, max_queued=50)
    alive: list[Sequence] = []
    for _ in range(3000):
        if rng.random() < 0.3 and scheduler.n_waiting < 40:
            scope = rng.choice("abc")
            alive.append(make(scheduler, rng.randrange(1, 60), rng.randrange(1, 30), scope))
        if alive and rng.random() < 0.05:
            scheduler.finish(alive.pop(rng.randrange(len(alive))), Finish.CANCELLED)
        if scheduler.running and rng.random() < 0.02:
            scheduler.preempt(rng.choice(scheduler.running))
        run(scheduler, scheduler.schedule(0.0))
    for _ in range(20_000):
        if not scheduler.everyone():
            break
        run(scheduler, scheduler.schedule(0.0))
    assert scheduler.everyone() == []
    assert scheduler.pool.n_held == 0
    assert scheduler.share.n_pages == 0
    assert scheduler.share.slots_by_scope() == {}


def test_a_newcomers_prompt_does_not_wait_for_anothers():
    scheduler = build(n_pages=256, step_tokens=64)
    for _ in range(3):
        make(scheduler, n_prompt=100, scope="noisy")
    run(scheduler, scheduler.schedule(0.0))
    quiet = make(scheduler, n_prompt=40, scope="quiet")
    steps = 0
    while quiet.n_output == 0:
        work = scheduler.schedule(0.0)
        assert {w.sequence.scope for w in work if w.n_tokens > 1} == {"quiet"}
        run(scheduler, work)
        steps += 1
    assert steps == 5


def test_a_lone_scope_has_whole_steps():
    scheduler = build(n_pages=256, step_tokens=64)
    make(scheduler, n_prompt=100)
    assert scheduler.schedule(0.0)[0].n_tokens == 64


def test_beside_a_prompt_that_is_late_for_its_target_the_others_wait():
    scheduler = build(n_pages=256, step_tokens=16)
    first = make(scheduler, n_prompt=4, n_new=100)
    run(scheduler, scheduler.schedule(0.0))
    late = make(scheduler, n_prompt=64)
    late.target_ttft_s = 1.0
    assert first in [w.sequence for w in scheduler.schedule(0.4)]
    steps = [scheduler.schedule(0.6) for _ in range(8)]
    assert sum(first in [w.sequence for w in work] for work in steps) == 1
    assert all(late in [w.sequence for w in work] for work in steps)
