"""Identifiers of people, recognised by form and checksum in Latin and Indian digits."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum

# About a millisecond's search; beyond it the answer is "unknown", which a careful rule heeds.
MOST_CHARS = 200_000


class Pii(StrEnum):
    """Kinds of identifiers that are recognised."""

    AADHAAR = "aadhaar"
    PAN = "pan"
    GSTIN = "gstin"
    UPI = "upi"
    IFSC = "ifsc"
    CARD = "card"
    PHONE = "phone"
    EMAIL = "email"


# Every Indian script's digits, one block of ten each, to ASCII.
_DIGITS = {
    zero + digit: ord("0") + digit
    for zero in range(0x0966, 0x0DF0, 0x80)
    for digit in range(10)
    if chr(zero + digit).isdigit()
}
_INDIAN_DIGITS = re.compile(f"[{''.join(map(chr, _DIGITS))}]{{3}}")
# What an identifier has somewhere; only the text around such marks is searched. They are looked for
# in the text's shape, where digits are 0, capitals A, other letters a and separators blank: a
# pattern that begins with a fixed character is found many times faster than one of a class.
_SHAPE = bytes(
    {ord("("): 32, ord(")"): 32, ord("-"): 32}.get(byte)
    or (48 if 48 <= byte < 58 else 65 if 65 <= byte < 91 else 97 if 97 <= byte < 123 else byte)
    for byte in range(256)
)
_MARKS = (
    (b"@", re.compile(b"@").finditer),
    (b"0000", re.compile(b"0[0 ]{8,24}0").finditer),  # Aadhaar, cards, phones
    (b"0000A", re.compile(b"0000A").finditer),  # PAN, GSTIN
    (b"0000a", re.compile(b"0000a").finditer),
    (b"+0", re.compile(rb"\+0[0 ]").finditer),
    (b"AAAA0", re.compile(b"AAAA0[0A]{6}").finditer),  # IFSC
    (b"aaaa0", re.compile(b"[Aa]aaa0000000").finditer),
)
_AROUND_CHARS = 72

_AADHAAR = re.compile(
    r"(?<![0-9A-Za-z.,+-])(?<![0-9]{4} )[2-9][0-9]{3}([ -]?)[0-9]{4}\1[0-9]{4}"
    r"(?![0-9A-Za-z]|[.,-][0-9]|[ ][0-9]{4}(?![0-9]))"
)
_CARD = re.compile(
    r"(?<![0-9A-Za-z.+-])(?<![0-9]{4} )[2-68][0-9]{3}(?:[ -]?[0-9]){9,15}"
    r"(?![0-9A-Za-z]|[.-][0-9]|[ ][0-9]{4}(?![0-9/]))"
)
# What a card's number begins with and how long it is then: Visa, Mastercard, RuPay, Maestro,
# American Express, Diners, JCB. Source: ISO/IEC 7812 registrations as the schemes publish them.
_ISSUED = re.compile(
    r"4(?:[0-9]{12}|[0-9]{15}|[0-9]{18})|5[0-9]{15}|2(?:2[2-9]|[3-6][0-9]|7[01])[0-9]{13}|2720[0-9]{12}"
    r"|6[0-9]{15}(?:[0-9]{3})?|8[12][0-9]{14}|3[47][0-9]{13}|3[0689][0-9]{12}|35[0-9]{14}"
)
_PAN = re.compile(r"(?<![A-Z0-9])[A-Z]{3}[ABCFGHJLPT][A-Z][0-9]{4}[A-Z](?![A-Z0-9])", re.IGNORECASE)
_GSTIN = re.compile(
    r"(?<![A-Z0-9])(?:[0-2][0-9]|3[0-8]|97|99)[A-Z]{5}[0-9]{4}[A-Z][1-9A-Z]Z[0-9A-Z](?![A-Z0-9])",
    re.IGNORECASE,
)
_IFSC = re.compile(r"(?<![A-Za-z0-9])(?:[A-Z]{4}0[A-Z0-9]{6}|[A-Za-z]{4}0[0-9]{6})(?![A-Za-z0-9])")
_EMAIL = re.compile(
    r"(?<![\w.+-])[A-Za-z0-9][\w.+%-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,6}[A-Za-z]{2,24}(?![\w-])"
)
# What stands after the sign in UPI ids: NPCI's public list of handles, and the forms new ones take.
_UPI = re.compile(
    r"(?<![\w.@-])[a-z0-9][a-z0-9._-]{1,63}@"
    r"(?:ok(?:hdfcbank|icici|sbi|(?:biz)?axis)|(?:pt|wa)(?:hdfc|icici|sbi|axis|yes)[a-z]{0,4}"
    r"|[a-z]{2,12}(?:bank|upi|pay)|[a-z]{2,9}axis|kbl"
    r"|upi|paytm|ybl|ibl|axl|apl|yapl|rapl|abfspay|axis[a-z]{0,4}|sbi|icici|hdfc|kotak|kmbl|idfc"
    r"|indus|barodampay|pnb|boi|cnrb|uboi|unionbankofindia|idbi|rbl|dbs|hsbc|citi|citigold|federal"
    r"|fbl|freecharge|jio|airtel|postbank|ippb|slice|superyes|yes[a-z]{0,4}|fam|naviaxis|tapicici"
    r"|timecosmos|amazonpay|mbk|ikwik|sib|kvb|dlb|equitas|aubank|ujjivan|utbi|cboi|mahb|obc|psb"
    r"|uco|iob|allbank|andb|csb|tjsb|nsdl|ezeepay|payzapp|pockets|eazypay|imobile|goaxb|waaxis"
    r"|shriramhdfcbank|trans|kaypay|pingpay|dcb|jkb|jsb|lvb|karb|rmhdfcbank|zoicici|yescred|cred)"
    r"(?![\w@-]|\.[a-z0-9])",
    re.IGNORECASE,
)
_PHONE = re.compile(
    # Indian mobile numbers, plain or in the usual groups, with or without the country's code.
    r"(?<![0-9A-Za-z.,/-])(?:(?:\+|00)91[ -]?|\(\+91\) ?|91[ -]|0)?"
    r"(?:[6-9][0-9]{9}(?![0-9A-Za-z]|[.,-][0-9])"
    r"|(?<![0-9][ -])(?:[6-9][0-9]{4}[ -][0-9]{5}|[6-9][0-9]{2}[ -][0-9]{3}[ -][0-9]{4}"
    r"|[6-9][0-9]{3}[ -][0-9]{3}[ -][0-9]{3})(?![0-9A-Za-z]|[ .,-][0-9]))"
    r"|(?<![0-9A-Za-z.,/-])(?:(?:\+|00)91[ -]?|\(\+91\) ?|91[ -])"
    r"(?:[6-9][0-9]{4}[ -][0-9]{5}|[6-9][0-9]{2}[ -][0-9]{3}[ -][0-9]{4}"
    r"|[6-9][0-9]{3}[ -][0-9]{3}[ -][0-9]{3})(?![0-9A-Za-z]|[.,-][0-9])"
    # Numbers of other countries, which begin with a plus.
    r"|(?<![0-9A-Za-z])\+(?!91)[1-9][0-9]{0,2}[ -]?(?:\(?[0-9]{2,4}\)?[ -]?){2,4}[0-9]{2,4}"
    r"(?![0-9A-Za-z])"
)


# A bare number after one of these counts orders, not people.
_COUNTED = re.compile(
    r"\b(?:order|invoice|bill|receipt|ticket|pnr|awb|tracking|docket|consignment|transaction|txn"
    r"|reference|ref|case|serial|roll|version|build)(?: ?(?:id|no|number|code)\b)?"
    r"[ .:#-]{0,4}(?:is )?$",
    re.IGNORECASE,
)

_Check = Callable[[re.Match[str]], bool]


def has_pii(texts: Iterable[str]) -> bool | None:
    """Return whether any text holds an identifier; None when there is too much to search."""
    n_chars = 0
    for text in texts:
        if _holds_pii(text[:MOST_CHARS]):
            return True
        n_chars += len(text)
    return None if n_chars > MOST_CHARS else False


def _holds_pii(text: str) -> bool:
    for part in _parts(text):
        for pattern, passes in _RECOGNISERS.values():
            if pattern.search(part) is not None and _is_found(pattern, passes, part):
                return True
    return False


def pii_kinds(text: str) -> frozenset[Pii]:
    """Return the kinds of identifiers that a text holds.

    Numbers with a checksum (Aadhaar, cards, GSTIN) count only where it holds.
    """
    return frozenset(
        kind
        for part in _parts(text)
        for kind, (pattern, passes) in _RECOGNISERS.items()
        if _is_found(pattern, passes, part)
    )


def _parts(text: str) -> Iterator[str]:
    """Yield the parts of a text that could hold an identifier, in Latin digits."""
    if not text.isascii() and _INDIAN_DIGITS.search(text):
        text = text.translate(_DIGITS)
    # One byte for each character, so that places in the shape are places in the text.
    shape = text.encode("latin-1", "replace").translate(_SHAPE)
    if b"@" not in shape and b"0" not in shape:
        return
    spans = sorted(mark.span() for must, marks in _MARKS if must in shape for mark in marks(shape))
    start = end = 0
    for first, last in spans:
        if end and first - _AROUND_CHARS > end:
            yield text[start:end]
            end = 0
        if not end:
            start = max(first - _AROUND_CHARS, 0)
        end = max(end, last + _AROUND_CHARS)
    if end:
        yield text[start:end]


def _is_found(pattern: re.Pattern[str], passes: _Check | None, text: str) -> bool:
    return any(passes is None or passes(match) for match in pattern.finditer(text))


def is_verhoeff(digits: str) -> bool:
    """Return whether the last of the digits is the Verhoeff check digit of the others.

    Source: J. Verhoeff, Error Detecting Decimal Codes (1969): the dihedral group D5.
    """
    check = 0
    for position, digit in enumerate(reversed(digits)):
        check = _TIMES[check][_PERMUTED[position % 8][int(digit)]]
    return check == 0


def is_luhn(digits: str) -> bool:
    """Return whether the digits pass the Luhn check. Source: ISO/IEC 7812-1, annex B."""
    total = 0
    for position, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if position % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def is_gstin(text: str) -> bool:
    """Return whether the fifteenth character is the check character of the fourteen before it.

    Source: GSTN's published scheme, modulus 36 with factors 1 and 2.
    """
    total = 0
    for position, char in enumerate(text[:14].upper()):
        product = _BASE_36.index(char) * (1 + position % 2)
        total += product // 36 + product % 36
    return _BASE_36[(36 - total % 36) % 36] == text[14].upper()


def _times(left: int, right: int) -> int:
    """Return the product in D5: 0-4 are rotations, 5-9 reflections."""
    if left < 5:
        return (left + right) % 5 if right < 5 else 5 + (left + right - 5) % 5
    return 5 + (left - 5 - right) % 5 if right < 5 else (left - right) % 5


def _permutations() -> list[list[int]]:
    rows = [list(range(10)), [1, 5, 7, 6, 2, 8, 3, 0, 9, 4]]
    while len(rows) < 8:
        rows.append([rows[1][digit] for digit in rows[-1]])
    return rows


def _digits_of(match: re.Match[str]) -> str:
    return "".join(filter(str.isdigit, match.group()))


def _is_aadhaar(match: re.Match[str]) -> bool:
    return is_verhoeff(_digits_of(match)) and not _is_counted(match)


def _is_card(match: re.Match[str]) -> bool:
    digits = _digits_of(match)
    return bool(_ISSUED.fullmatch(digits)) and len(set(digits)) > 1 and is_luhn(digits)


def _is_phone(match: re.Match[str]) -> bool:
    return not (match.group().isdigit() and _is_counted(match))


def _is_counted(match: re.Match[str]) -> bool:
    return bool(_COUNTED.search(match.string, max(match.start() - 32, 0), match.start()))


_BASE_36 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_TIMES = [[_times(left, right) for right in range(10)] for left in range(10)]
_PERMUTED = _permutations()
# The form of each kind, and what else must hold of it.
_RECOGNISERS: dict[Pii, tuple[re.Pattern[str], _Check | None]] = {
    Pii.AADHAAR: (_AADHAAR, _is_aadhaar),
    Pii.PAN: (_PAN, None),
    Pii.GSTIN: (_GSTIN, lambda match: is_gstin(match.group())),
    Pii.UPI: (_UPI, None),
    Pii.IFSC: (_IFSC, None),
    Pii.CARD: (_CARD, _is_card),
    Pii.PHONE: (_PHONE, _is_phone),
    Pii.EMAIL: (_EMAIL, None),
}
