from __future__ import annotations

from local_models.sequence import SamplingParams, Sequence
from local_models.speculate import draft_by_lookup, learn


def sequence_of(*tokens: int) -> Sequence:
    sequence = Sequence(1, "", list(tokens), len(tokens), 100, SamplingParams(), frozenset(), 0.0)
    sequence.n_wrong_guesses = 0
    return sequence


def test_what_followed_the_same_tokens_is_drafted():
    assert draft_by_lookup(sequence_of(1, 2, 3, 4, 5, 9, 1, 2), 3) == (3, 4, 5)


def test_the_longest_and_latest_match_wins():
    assert draft_by_lookup(sequence_of(7, 1, 2, 5, 1, 2, 6, 7, 1, 2), 1) == (5,)
    assert draft_by_lookup(sequence_of(1, 2, 5, 1, 2, 6, 9, 1, 2), 1) == (6,)


def test_without_a_repetition_nothing_is_drafted():
    assert draft_by_lookup(sequence_of(1, 2, 3, 4), 4) == ()


def test_the_index_follows_the_text():
    sequence = sequence_of(1, 2, 3)
    assert draft_by_lookup(sequence, 2) == ()
    sequence.tokens += [1, 2]
    assert draft_by_lookup(sequence, 2) == (3, 1)


def test_a_text_that_repeats_itself_is_guessed_further():
    assert draft_by_lookup(sequence_of(5, 1, 2, 1, 2), 5) == (1, 2, 1, 2, 1)


def test_two_tokens_alike_are_enough_only_after_a_right_guess():
    sequence = sequence_of(1, 2, 3, 9, 1, 2)
    learn(sequence, 3, 0)
    assert draft_by_lookup(sequence, 1) == ()
    learn(sequence, 3, 1)
    assert draft_by_lookup(sequence, 1) == (3,)


def test_a_first_guess_needs_three_tokens_alike():
    sequence = Sequence(1, "", [8, 1, 2, 3, 1, 2], 6, 100, SamplingParams(), frozenset(), 0.0)
    assert draft_by_lookup(sequence, 1) == ()
    sequence.tokens += [3, 1, 2]
    assert draft_by_lookup(sequence, 1) == (3,)


def test_a_guess_that_was_all_right_doubles_the_next():
    sequence = sequence_of(1, 2)
    learn(sequence, 3, 3)
    assert sequence.n_guess == 7
    learn(sequence, 7, 6)
    assert sequence.n_guess == 3


def test_wrong_guesses_are_followed_by_pauses_that_double():
    sequence = sequence_of(1, 2)
    pauses = []
    for _ in range(4):
        learn(sequence, 3, 0)
        pauses.append(sequence.guesses_from - len(sequence.tokens))
    assert pauses == [1, 3, 7, 15]
    learn(sequence, 3, 1)
    learn(sequence, 3, 0)
    assert sequence.guesses_from - len(sequence.tokens) == 1
