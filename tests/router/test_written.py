"""What was written for this project: every kind of ask, about anything."""

from __future__ import annotations

import random

from router.written import drawn_asks, read_phrases, read_written


def test_phrases_hold_short_replies_in_every_language():
    languages = {phrase.language for phrase in read_phrases() if phrase.needs_context}
    assert languages == {"en", "hi", "hi-Latn", "mr", "bn", "ta", "te"}


def test_a_seed_draws_the_same_asks_again():
    first, again, other = ([ask.text for ask in read_written(seed)] for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_every_slot_of_an_ask_is_filled():
    asks = list(drawn_asks(random.Random(0), per_kind=60))
    assert not [ask.text for ask in asks if "{" in ask.text or "}" in ask.text]


def test_a_slot_that_comes_twice_gets_two_values(tmp_path):
    grammar = tmp_path / "asks.tsv"
    grammar.write_text("slot\tname\tAsha|Ravi\nworked\treasoning\t{name} or {name}\n")
    drawn = {ask.text for ask in drawn_asks(random.Random(0), per_kind=20, path=grammar)}
    assert drawn == {"Asha or Ravi", "Ravi or Asha"}


def test_what_has_to_be_worked_out_is_harder_than_what_is_written_about_the_same():
    levels: dict[str | None, list[float]] = {}
    for ask in drawn_asks(random.Random(0), per_kind=1):
        levels.setdefault(ask.task, []).append(ask.level)
    assert levels["math"] == levels["code"] == levels["reasoning"]
    assert min(levels["instruction"]) < levels["math"][0] / 2
