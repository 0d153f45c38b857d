from __future__ import annotations

import pytest

from memory.lexical import LexicalIndex, best_passage, phonetic_key, stem, words_of


def best(documents: list[str], query: str) -> str:
    index = LexicalIndex()
    for document in documents:
        index.add(document)
    return documents[int(index.scores(query).argmax())]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("मेरी गाड़ी कहाँ है?", ["मेरी", "गाड़ी", "कहाँ", "है"]),
        ("என் பெயர் என்ன", ["என்", "பெயர்", "என்ன"]),
        ("నా పేరు రవి.", ["నా", "పేరు", "రవి"]),
        ("আমার নাম কী।", ["আমার", "নাম", "কী"]),
        ("Order #A-12, please!", ["order", "a", "12", "please"]),
    ],
)
def test_words_keep_their_vowel_signs(text: str, expected: list[str]) -> None:
    import unicodedata

    assert words_of(text) == [unicodedata.normalize("NFKC", word) for word in expected]


@pytest.mark.parametrize(
    ("documents", "query", "expected"),
    [
        (["मौसम अच्छा है", "मेरा पासपोर्ट नंबर 4567 है"], "पासपोर्ट का नंबर?", 1),
        (["இன்று மழை", "என் வீடு மதுரையில் உள்ளது"], "மதுரை எங்கே?", 1),
        (["ఈరోజు వర్షం", "నా పుస్తకాలు బల్ల మీద ఉన్నాయి"], "పుస్తకం ఎక్కడ?", 1),
        (["আজ বৃষ্টি", "আমার বইগুলো টেবিলে আছে"], "বই কোথায়?", 1),
        (["kal chutti hai", "mujhe paneer nahi pasand"], "kya naheen pasand hai", 1),
        (["the weather is nice", "she adopted two puppies"], "adopting a puppy", 1),
    ],
)
def test_inflected_and_respelled_words_meet(
    documents: list[str], query: str, expected: int
) -> None:
    assert best(documents, query) == documents[expected]


def test_romanised_spellings_share_a_key() -> None:
    assert len({phonetic_key(word) for word in ("nahi", "nahin", "naheen", "nahee")}) == 1
    assert phonetic_key("छुट्टी") == ""


@pytest.mark.parametrize(
    "words", [("dog", "dogs"), ("hike", "hiking", "hiked"), ("run", "running")]
)
def test_english_forms_share_a_stem(words: tuple[str, ...]) -> None:
    assert len({stem(word) for word in words}) == 1


def test_a_neighbour_of_a_match_scores_above_a_stranger() -> None:
    index = LexicalIndex()
    for text in ("nothing here", "unrelated", "what about the violin?", "since I was ten"):
        index.add(text)
    scores = index.scores("violin")
    assert scores[2] > scores[3] > scores[0]


def test_nothing_in_common_scores_zero() -> None:
    index = LexicalIndex()
    index.add("apples and pears")
    assert index.scores("the and of").tolist() == [0.0]
    assert LexicalIndex().scores("apples").tolist() == []


def test_a_passage_is_cut_around_the_words_asked_for() -> None:
    text = "filler " * 500 + "the vault code is 9-1-1 " + "filler " * 500
    passage = best_passage(text, ["vault", "code"], 120)
    assert "vault code is 9-1-1" in passage
    assert len(passage) <= 122
