from __future__ import annotations

from local_models.fair_share import FairShare


def test_a_reply_token_counts_as_four_of_a_prompt():
    share = FairShare(8, 100)
    share.charge("a", 40)
    share.charge("b", 1)
    assert (share.served("a"), share.served("b")) == (40, 4)


def test_a_scope_that_comes_back_gets_a_small_burst_and_no_more():
    share = FairShare(8, 100)
    share.arrive("busy", [])
    share.charge("busy", 50_000)
    share.arrive("back", ["busy"])
    assert share.served("busy") - share.served("back") == 1024


def test_a_scope_that_was_served_more_keeps_its_place():
    share = FairShare(8, 100)
    share.arrive("a", ["b"])
    share.charge("a", 5000)
    share.arrive("a", ["b"])
    assert share.served("a") == 5000


def test_where_nobody_else_is_old_counters_are_forgotten():
    share = FairShare(8, 100)
    share.charge("a", 5000)
    share.charge("b", 9000)
    share.arrive("b", [])
    assert (share.served("a"), share.served("b")) == (0, 0)


def test_no_scope_takes_more_than_its_share_of_slots_or_pages():
    share = FairShare(most_slots=2, most_pages=10)
    share.take("a", 4)
    assert share.may_take("a", 6)
    assert not share.may_take("a", 7)
    share.take("a", 4)
    assert not share.may_take("a", 1)
    assert share.may_take("b", 10)
    share.give_back("a", 4)
    assert share.may_take("a", 6)


def test_scopes_without_end_take_no_memory_without_end():
    share = FairShare(8, 100)
    for at in range(10_000):
        share.charge(str(at), 5)
        share.leave(str(at))
    assert len(share._served) <= 4097
