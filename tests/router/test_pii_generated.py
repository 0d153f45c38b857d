"""Recall and precision on identifiers and look-alikes of `pii_cases`, in all Indian digits."""

from __future__ import annotations

import random

from router.pii import Pii, has_pii, pii_kinds
from tests.router.pii_cases import FRAMES, INDIC_ZEROS, KINDS, look_alike

NUMERIC = ("aadhaar", "phone", "card")


def in_indian_digits(text: str, draw: random.Random) -> str:
    zero = draw.choice(INDIC_ZEROS)
    return "".join(chr(zero + int(char)) if char.isdigit() else char for char in text)


def test_recall_is_98_in_a_hundred_for_every_kind():
    draw = random.Random(2024)
    for name, made in KINDS.items():
        missed = []
        for _ in range(300):
            value = made(draw)
            if name in NUMERIC and draw.random() < 0.3:
                value = in_indian_digits(value, draw)
            text = draw.choice(FRAMES).replace("{}", value)
            if Pii(name) not in pii_kinds(text):
                missed.append(text)
        assert len(missed) <= 0.02 * 300, missed[:5]


def test_one_text_in_two_being_a_look_alike_precision_is_95_in_a_hundred():
    draw = random.Random(2025)
    texts = [look_alike(draw) for _ in range(2400)]
    mistaken = [text for text in texts if has_pii([text])]
    assert len(mistaken) <= 0.05 * len(texts), mistaken[:5]


def test_every_kind_has_its_recogniser():
    assert {kind.value for kind in Pii} == set(KINDS)


def test_an_identifier_is_found_wherever_it_stands_in_a_long_text():
    draw = random.Random(5)
    filler = "the parcel of 2023 came 3 days late, and nobody called. " * 400
    for name, made in KINDS.items():
        at = draw.randrange(len(filler))
        at = filler.index(" ", at)
        assert Pii(name) in pii_kinds(f"{filler[:at]} {made(draw)} {filler[at:]}"), name
