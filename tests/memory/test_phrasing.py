from __future__ import annotations

from datetime import UTC, datetime

import numpy as np

from memory import Item, Message
from memory.embedder import Encoding
from memory.phrasing import joined, phrasings
from memory.remembered import encoded_as, names_of


def test_a_named_speaker_is_asked_for_in_the_first_person_too() -> None:
    question = "What did Asha's sister give asha, and to Ashanti?"
    assert phrasings(question, ["Asha", "Bala"]) == (
        question,
        "What did my sister give I, and to Ashanti?",
    )


def test_a_question_that_names_nobody_is_asked_once() -> None:
    assert phrasings("what did I say?", ["Asha", "Bala"]) == ("what did I say?",)


def test_of_two_names_the_longer_one_is_meant() -> None:
    assert phrasings("Where was Ann Marie?", {"Ann", "Ann Marie"})[-1] == "Where was I?"


def test_the_tokens_of_all_phrasings_ask_together() -> None:
    one, two = (Encoding(np.ones(1, np.float32), np.full((n, 2), n, np.int8)) for n in (1, 2))
    assert joined([one, two]).tokens.tolist() == [[1, 1], [2, 2], [2, 2]]
    assert joined([one]) is one


def test_every_text_that_an_item_was_encoded_as_is_named_to_be_forgotten() -> None:
    message = Message("user", "What did Bala say?")
    item = Item("msg_1_a", 1, message, datetime(2026, 5, 1, tzinfo=UTC), metadata={"name": "Asha"})
    texts = encoded_as([item], {"Asha", "Bala"})
    assert texts == ["Asha: What did Bala say?", "What did Bala say?", "What did I say?"]
    assert names_of([item]) == {"Asha"}
    assert names_of([Item("msg_2_a", 2, message, item.created_at)]) == set()
