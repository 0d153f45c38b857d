"""Identifiers are found by form and checksum, and ordinary numbers are left alone."""

from __future__ import annotations

import random

import pytest

from router.pii import Pii, has_pii, is_gstin, is_luhn, is_verhoeff, pii_kinds


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("my aadhaar is 2341 2341 2346", Pii.AADHAAR),
        ("आधार २३४१ २३४१ २३४६ है", Pii.AADHAAR),
        ("PAN: ABCPE1234F", Pii.PAN),
        ("bill to 27AAPFU0939F1ZV please", Pii.GSTIN),
        ("pay raj.k@okhdfcbank now", Pii.UPI),
        ("IFSC HDFC0001234", Pii.IFSC),
        ("card 4111 1111 1111 1111", Pii.CARD),
        ("call +91 98765 43210", Pii.PHONE),
        ("कॉल करें ९८७६५४३२१०", Pii.PHONE),
        ("என் எண் ௯௮௭௬௫௪௩௨௧௦", Pii.PHONE),
        ("mail a.b+c@example.co.in.", Pii.EMAIL),
    ],
)
def test_each_kind_is_recognised(text, kind):
    assert kind in pii_kinds(text)
    assert has_pii(["hello", text])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "the year 2024 and pi is 3.14159265358979",
        "2341 2341 2347",  # an Aadhaar number's form, another check digit
        "4111 1111 1111 1112",
        "@user meet at 10:30",
        "1234567890123456789012345678901234567890",
        "order 12345678 shipped on 2024-05-01 12:30:45",
        "f(x) = 3x^2 + 12x - 4500",
        "12345 67890 12345 67890",
        "0000 0000 0000 0000",
        "use @dataclass and obj@matrix",
        "\ud800 \x00",
    ],
)
def test_other_numbers_are_left_alone(text):
    assert pii_kinds(text) == frozenset()


def test_checksums_agree_with_published_examples():
    assert is_verhoeff("2363") and not is_verhoeff("2364")
    assert is_luhn("79927398713") and not is_luhn("79927398710")
    assert is_gstin("27AAPFU0939F1ZV") and not is_gstin("27AAPFU0939F1ZW")


def test_one_wrong_digit_always_breaks_a_verhoeff_number():
    draw = random.Random(0)
    for _ in range(100):
        body = "".join(draw.choices("0123456789", k=11))
        number = next(body + digit for digit in "0123456789" if is_verhoeff(body + digit))
        at = draw.randrange(12)
        other = draw.choice([digit for digit in "0123456789" if digit != number[at]])
        assert not is_verhoeff(number[:at] + other + number[at + 1 :])
