from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from local_models.kv_blocks import PagePool


def test_a_fresh_pool_has_every_page_free():
    pool = PagePool(4, 16)
    assert (pool.n_free, pool.n_idle, pool.n_held) == (4, 0, 0)


def test_a_page_is_never_given_out_twice():
    pool = PagePool(3, 16)
    assert len({pool.allocate() for _ in range(3)}) == 3
    with pytest.raises(IndexError):
        pool.allocate()


def test_a_published_page_is_found_again_after_its_holder_left():
    pool = PagePool(2, 16)
    page = pool.allocate()
    pool.publish(page, b"a")
    pool.release([page])
    assert pool.n_idle == 1
    assert pool.reuse([b"a", b"b"]) == [page]
    assert pool.n_held == 1


def test_the_oldest_idle_page_gives_way_first():
    pool = PagePool(2, 16)
    old, new = pool.allocate(), pool.allocate()
    pool.publish(old, b"old")
    pool.publish(new, b"new")
    pool.release([old])
    pool.release([new])
    assert pool.allocate() == old
    assert pool.reuse([b"old"]) == []
    assert pool.reuse([b"new"]) == [new]


def test_a_shared_page_stays_until_its_last_holder_leaves():
    pool = PagePool(1, 16)
    page = pool.allocate()
    pool.publish(page, b"a")
    pool.reuse([b"a"])
    pool.release([page])
    assert pool.n_held == 1
    pool.release([page])
    assert pool.n_held == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("arpx"), st.integers(0, 40)), max_size=300))
def test_pages_are_neither_lost_nor_owned_twice(operations):
    pool = PagePool(7, 16)
    held: list[int] = []
    for kind, number in operations:
        if kind == "a" and pool.n_free + pool.n_idle:
            held.append(pool.allocate())
        elif kind == "r" and held:
            pool.release([held.pop(number % len(held))])
        elif kind == "p" and held:
            pool.publish(held[number % len(held)], bytes([number % 9]))
        elif kind == "x":
            held += pool.reuse([bytes([number % 9])])
        owners = Counter(held)
        assert pool.n_held == len(owners)
        assert pool.n_free + pool.n_idle + pool.n_held == pool.n_pages
    pool.release(held)
    assert pool.n_held == 0
    pool.clear_idle()
    assert pool.n_free == pool.n_pages


def test_a_hundred_thousand_random_operations_lose_no_page():
    import random

    rng = random.Random(0)
    pool = PagePool(64, 16)
    held: list[list[int]] = []
    for _ in range(100_000):
        if held and (rng.random() < 0.5 or pool.n_free + pool.n_idle == 0):
            pool.release(held.pop(rng.randrange(len(held))))
        else:
            page = pool.allocate()
            if rng.random() < 0.7:
                pool.publish(page, rng.randbytes(1))
            held.append([page])
            held[-1] += pool.reuse([rng.randbytes(1)])
    for pages in held:
        pool.release(pages)
    pool.clear_idle()
    assert pool.n_free == 64
