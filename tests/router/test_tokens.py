"""How text falls into tokens."""

from __future__ import annotations

from router.tokens import HEAD_CHARS, TAIL_CHARS, UNKNOWN, Vocabulary, capped, words_of

PIECES = ["play", "##ing", "the", "prove", "number", "?", "7", "##7"]


def test_a_word_falls_into_its_longest_pieces():
    assert Vocabulary(PIECES).ids_of(["playing", "the", "77"]).tolist() == [1, 2, 3, 7, 8]


def test_an_unknown_word_is_one_unknown_token():
    assert Vocabulary(PIECES).ids_of(["zzz", "the"]).tolist() == [UNKNOWN, 3]


def test_a_word_of_the_lexicon_takes_its_english_tokens_whatever_its_ending():
    vocabulary = Vocabulary(PIECES, {"சிद्ध": "prove", "संख्या": "number"})
    assert vocabulary.ids_of(["संख्या"]).tolist() == [5]
    assert vocabulary.ids_of(["संख्याओं"]).tolist() == [5]


def test_the_same_words_always_give_the_same_ids():
    vocabulary = Vocabulary(PIECES)
    first = vocabulary.ids_of(["playing"]).tolist()
    assert vocabulary.ids_of(["playing"]).tolist() == first


def test_a_long_text_is_read_at_its_two_ends():
    text = "a" * HEAD_CHARS + "b" * 10_000 + "c" * TAIL_CHARS
    assert capped(text) == "a" * HEAD_CHARS + " " + "c" * TAIL_CHARS
    assert capped("short") == "short"


def test_words_keep_vowel_signs_and_drop_emoji():
    assert words_of("Hello, हिन्दी 😀 x²") == ["hello", ",", "हिन्दी", "x", "²"]
