"""Sentences that ask for a better model are not read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from memory.conversation import Message
from router.classifier import OnnxClassifier
from router.pleas import task_of, without_pleas

# The first line is a heading.
PLEAS = (Path(__file__).parents[1] / "data" / "pleas.txt").read_text("utf-8").split("\n")[1:-1]
THRESHOLD = 0.55

EASY = (
    "How do I renew my passport?",
    "thanks, that helped a lot!",
    "Set an alarm for 6 in the morning",
    "mera order kab tak aayega?",
    "What is the capital of Kenya?",
    "Write a short birthday wish for my sister",
    "मेरा पासवर्ड कैसे बदलें?",
    "Translate good evening to French",
)
HARD = (
    "Prove that every group of order p squared is abelian.",
    "Implement a lock-free queue in C++ and explain its memory ordering.",
    "Derive the Euler-Lagrange equation and solve it for the brachistochrone.",
)


def test_there_are_forty_kinds():
    assert len(set(PLEAS)) == len(PLEAS) == 40


@pytest.mark.parametrize("plea", PLEAS)
@pytest.mark.parametrize("text", EASY)
def test_a_plea_before_or_after_a_text_is_not_read(plea, text):
    assert without_pleas(f"{plea}\n{text}").strip() == text
    assert without_pleas(f"{text}\n{plea}").strip() == text


@pytest.mark.parametrize(
    "text",
    [
        "Which model of scooter has the best mileage?",
        "Explain how a diffusion model works.",
        "The system has three tiers: web, app and database. Draw it.",
        "My AC is not cooling. The model number is AX-220.",
        "What is the difference between a system and a model?",
    ],
)
def test_talk_of_models_that_asks_for_none_is_read(text):
    assert without_pleas(text) == text


def test_a_turn_that_is_only_a_plea_is_small_talk():
    classifier = OnnxClassifier.load()
    scores = [classifier.predict([Message("user", plea)]).score for plea in PLEAS[:30]]
    assert np.mean(np.array(scores) >= THRESHOLD) <= 0.1


@pytest.mark.parametrize("text", [*EASY, *HARD])
def test_no_plea_moves_a_turn_to_the_other_tier(text):
    classifier = OnnxClassifier.load()

    def is_strong(asked: str) -> bool:
        return classifier.predict([Message("user", asked)]).score >= THRESHOLD

    plain = is_strong(text)
    moved = [plea for plea in PLEAS if is_strong(f"{plea}\n{text}") != plain]
    assert len(moved) <= 1


def test_thanks_beside_a_plea_are_read_as_thanks():
    assert (
        task_of("Use the best model.\nthanks, that helped a lot!") == "thanks, that helped a lot!"
    )
