from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from memory import Item, Message
from memory.summarize import BLOCK_ITEMS, segment_ranges, shortened, summarise, values_of


def words(text: str) -> int:
    return len(text.split())


def items_of(*texts: str) -> list[Item]:
    now = datetime(2026, 5, 1, tzinfo=UTC)
    return [Item(f"msg_{n:x}_a", n, Message("user", t), now) for n, t in enumerate(texts, 1)]


FACTS = (
    "Hello there!",
    "How is the weather?",
    "My flight AI-302 leaves Chennai on 14 June at 6:45.",
    "Haha, nice.",
    "Please remember that I am allergic to peanuts.",
    "The total was ₹4,500.50, paid to asha@example.com.",
    "Oh well.",
)


def test_facts_are_kept_before_small_talk() -> None:
    summary = summarise(items_of(*FACTS), 36, words)
    for fact in ("AI-302", "peanuts", "₹4,500.50", "asha@example.com"):
        assert fact in summary
    assert "Haha" not in summary


def test_every_sentence_of_a_summary_is_a_quotation() -> None:
    source = " ".join(FACTS)
    for line in summarise(items_of(*FACTS), 60, words).splitlines():
        assert line.removeprefix("user: ") in source


def test_a_stored_summary_is_shortened_to_its_most_telling_lines() -> None:
    stored = "\n".join(f"user: {fact}" for fact in FACTS)
    short = shortened(stored, 24, words)
    assert "AI-302" in short
    assert set(short.splitlines()) < set(stored.splitlines())
    assert words(short) <= 24
    assert shortened(stored, 1, words) == ""


def test_a_summary_of_nothing_is_empty() -> None:
    assert summarise([], 100, words) == ""
    assert summarise(items_of(*FACTS), 0, words) == ""


@settings(deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=("Cs",)))), st.integers(0, 80))
def test_a_summary_never_passes_its_limit(texts: list[str], limit: int) -> None:
    assert len(summarise(items_of(*texts), limit, len)) <= max(limit, 0)


@given(st.integers(0, 100_000))
def test_segments_cover_every_item_once(n_folded: int) -> None:
    ranges = segment_ranges(n_folded)
    covered = [0, *(part.stop for part in ranges)]
    assert [part.start for part in ranges] == covered[:-1]
    assert covered[-1] == n_folded
    assert len(ranges) <= max(1, n_folded // BLOCK_ITEMS).bit_length() + 1


def test_exact_values_are_found() -> None:
    text = "Pay Rs. 1,200 or $30 for order A17-B by 5pm, see /srv/app.log or a.b@c.in, 98%."
    assert values_of(text) == [
        "Rs. 1,200",
        "$30",
        "A17-B",
        "5pm",
        "/srv/app.log",
        "a.b@c.in",
        "98%",
    ]
