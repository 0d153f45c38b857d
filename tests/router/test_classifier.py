"""The shipped classifier: any text gets a prediction, and a conversation is more than its end."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from memory.conversation import Message
from router.classifier import MODEL_FILE, MODEL_FOLDER, OnnxClassifier
from router.errors import ModelFileError
from router.labels import DOMAINS, LANGUAGES, TASKS

HARD = (
    "Prove by induction that for every positive integer n the sum of the first n odd numbers is "
    "n^2, then derive a closed form for the sum of their cubes and show each algebraic step."
)


@pytest.fixture(scope="module")
def classifier() -> OnnxClassifier:
    return OnnxClassifier.load()


def user(text: str) -> Message:
    return Message("user", text)


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [user("")],
        [user("   \n\t")],
        [user("😀😀😀")],
        [user("\ud800 broken \udfff")],
        [user("a\x00b\x00")],
        [user("नमस्ते hello வணக்கம் 你好 నమస్తే")],
        [user("x" * 10_000_000)],
        [user("क" * 1_000_000)],
        [user("1" * 100_000)],
        [Message("user", [{"type": "image_url", "image_url": {"url": "data:,"}}])],
        [Message("user", None)],
        [Message("system", "be kind")],
        [Message("assistant", "hello")],
        [Message("tool", "{}", tool_call_id="1")],
        [user("yes")] * 3000,
    ],
    ids=lambda messages: str(messages)[:40],
)
def test_any_conversation_gets_a_prediction(classifier, messages):
    prediction = classifier.predict(messages)
    assert 0 <= prediction.score <= 1
    assert 0 <= prediction.uncertainty <= 1
    assert prediction.labels.language in LANGUAGES
    assert prediction.labels.task in TASKS
    assert prediction.labels.domain in DOMAINS


def test_yes_after_a_hard_question_keeps_its_difficulty(classifier):
    hard = classifier.predict([user(HARD)])
    answer = Message("assistant", "Shall I prove it for all n?")
    after = classifier.predict([user(HARD), answer, user("yes")])
    alone = classifier.predict([user("yes")])
    assert alone.score < hard.score
    assert after.score >= 0.9 * hard.score
    assert after.is_carried


@pytest.mark.parametrize("reply", ["haan ji", "हाँ", "go on", "ok continue", "மேலும் சொல்லுங்கள்"])
def test_a_short_reply_in_any_language_leans_on_its_question(classifier, reply):
    messages = [user(HARD), Message("assistant", "Shall I go on?"), user(reply)]
    assert classifier.predict(messages).score >= 0.9 * classifier.predict([user(HARD)]).score


def test_small_talk_after_a_hard_question_is_small_talk(classifier):
    messages = [user(HARD), Message("assistant", "Done."), user("thanks a lot, good night!")]
    assert classifier.predict(messages).score < classifier.predict([user(HARD)]).score / 2


def test_a_tool_loop_scores_as_its_question(classifier):
    call = Message("assistant", None, tool_calls=({"id": "1", "type": "function"},))
    loop = [user(HARD), call, Message("tool", "42", tool_call_id="1")]
    assert classifier.predict(loop).score == classifier.predict([user(HARD)]).score


def test_greetings_score_below_problems(classifier):
    easy = ["hi", "good morning", "thanks!", "नमस्ते", "kaise ho?", "வணக்கம்", "set an alarm for 7"]
    assert max(classifier.predict([user(text)]).score for text in easy) < (
        classifier.predict([user(HARD)]).score
    )


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("How do I renew my passport?", "en"),
        ("मुझे अपना पासपोर्ट कैसे नवीनीकृत करना है?", "hi"),
        ("mujhe apna passport renew karna hai", "hi-Latn"),
        ("Boston mei weather kesa he", "hi-Latn"),
        ("Chicago me concerts", "hi-Latn"),
        ("Ben ko pucho what time does the class end", "hi-Latn"),
        ("remind me tomorrow", "en"),
        ("how's the lo mein rated at that place", "en"),
        ("माझा पासपोर्ट कसा नूतनीकरण करायचा आहे?", "mr"),
        ("আমি কিভাবে পাসপোর্ট নবায়ন করব?", "bn"),
        ("எனது கடவுச்சீட்டை எவ்வாறு புதுப்பிப்பது?", "ta"),
        ("నా పాస్‌పోర్ట్ ఎలా పునరుద్ధరించాలి?", "te"),
        ("如何更新我的护照？", "und"),
        ("😀😀", "und"),
    ],
)
def test_languages_are_told_apart(classifier, text, language):
    assert classifier.predict([user(text)]).labels.language == language


def test_an_identifier_anywhere_in_the_conversation_is_seen(classifier):
    first = user("my PAN is ABCPE1234F")
    messages = [first, Message("assistant", "Noted."), user("thanks")]
    assert classifier.predict(messages).labels.pii is True
    assert classifier.predict([user("thanks")]).labels.pii is False


def test_what_is_too_long_to_search_is_of_unknown_privacy(classifier):
    assert classifier.predict([user("word " * 200_000)]).labels.pii is None


def test_predictions_do_not_depend_on_what_came_before_them(classifier):
    first = classifier.predict([user(HARD)])
    for text in ("", "zzzqqq unheard-of wordings", "😀"):
        classifier.predict([user(text)])
    assert classifier.predict([user(HARD)]) == first


def test_a_missing_or_corrupt_or_foreign_model_is_one_error(tmp_path):
    with pytest.raises(ModelFileError):
        OnnxClassifier.load(tmp_path)
    folder = shutil.copytree(MODEL_FOLDER, tmp_path / "model")
    model = (folder / MODEL_FILE).read_bytes()
    (folder / MODEL_FILE).write_bytes(model[: len(model) // 2])
    with pytest.raises(ModelFileError):
        OnnxClassifier.load(folder)
    (folder / MODEL_FILE).write_bytes(model)
    vocabulary = (folder / "vocabulary.txt").read_text("utf-8").split("\n")
    (folder / "vocabulary.txt").write_text("\n".join(vocabulary[:-100]), "utf-8")
    with pytest.raises(ModelFileError, match="another version"):
        OnnxClassifier.load(folder)


def test_scores_are_finite_for_random_tokens(classifier):
    draw = np.random.default_rng(0)
    for _ in range(50):
        points = draw.integers(1, 0x3000, 60)
        text = "".join(chr(point) for point in points)
        assert 0 <= classifier.predict([user(text)]).score <= 1
