from __future__ import annotations

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest

from memory.embedder import DIMENSIONS, OnnxEmbedder
from memory.errors import EmbedderBusy


@pytest.fixture(scope="module")
def embedder() -> Iterator[OnnxEmbedder]:
    embedder = OnnxEmbedder.from_folder()
    yield embedder
    embedder.close()


def test_encodings_have_the_stated_shapes(embedder: OnnxEmbedder) -> None:
    (encoding,) = embedder.encode_now(["I adopted two puppies."])
    assert encoding.sentence.shape == (384,)
    assert encoding.sentence.dtype == np.float32
    assert np.linalg.norm(encoding.sentence) == pytest.approx(1, abs=1e-5)
    assert encoding.tokens.shape == (6, DIMENSIONS)
    lengths = np.linalg.norm(encoding.tokens.astype(float), axis=1)
    assert np.all(np.abs(lengths - 127) < 4)


def test_likeness_of_meaning_shows_in_the_cosine(embedder: OnnxEmbedder) -> None:
    dog, puppy, tax = embedder.encode_now(
        ["My dog is ill.", "The puppy is sick.", "Income tax is due in July."]
    )
    assert dog.sentence @ puppy.sentence > 0.6 > 0.3 > dog.sentence @ tax.sentence


async def test_alone_or_in_company_a_text_gets_the_same_vectors(embedder: OnnxEmbedder) -> None:
    together = await embedder.encode(["one", "a rather longer second text"])
    (alone,) = await embedder.encode(["one"])
    assert np.array_equal(together[0].sentence, alone.sentence)
    assert np.array_equal(together[0].tokens, alone.tokens)


def test_long_and_empty_texts_are_encoded(embedder: OnnxEmbedder) -> None:
    long, empty = embedder.encode_now(["word " * 5000, ""])
    assert len(long.tokens) == 4 * 126
    assert len(empty.tokens) == 0


def test_what_was_said_before_lends_its_context_and_no_vectors(embedder: OnnxEmbedder) -> None:
    (alone,) = embedder.encode_now(["Yes, there."])
    (after,) = embedder.encode_now(["Yes, there."], "Did you grow up in Madurai?")
    (asked,) = embedder.encode_now(["Madurai"])
    assert alone.tokens.shape == after.tokens.shape

    def likeness(tokens: np.ndarray) -> float:
        return float((tokens.astype(float) @ asked.tokens.astype(float).T).max())

    assert likeness(after.tokens) > likeness(alone.tokens)


def test_a_script_it_was_not_trained_on_is_not_trusted(embedder: OnnxEmbedder) -> None:
    assert embedder.can_read("café au lait")
    assert embedder.can_read("kya haal hai")
    assert not embedder.can_read("मेरा नाम क्या है?")
    assert not embedder.can_read("என் பெயர் என்ன, sir?")


async def test_past_the_bound_callers_are_turned_away() -> None:
    whole = OnnxEmbedder.from_folder()
    bounded = OnnxEmbedder(whole._load_session, whole._load_tokenizer, "r", max_waiting=2)
    answers = await asyncio.gather(
        *(bounded.encode(["hello"]) for _ in range(3)), return_exceptions=True
    )
    assert sum(isinstance(answer, EmbedderBusy) for answer in answers) == 1
    bounded.close()
    whole.close()
