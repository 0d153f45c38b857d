"""Identifiers and their look-alikes, made from the published formats; knows no recogniser.

Check digits are computed here from the issuers' own tables, so that an error in the recogniser's
arithmetic cannot hide itself.
"""

from __future__ import annotations

import random
from collections.abc import Callable

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# First digits of the scripts people write numbers in: Devanagari, Bengali, Gurmukhi, Gujarati,
# Tamil, Telugu, Kannada, Malayalam.
INDIC_ZEROS = (0x0966, 0x09E6, 0x0A66, 0x0AE6, 0x0BE6, 0x0C66, 0x0CE6, 0x0D66)
# Handles as payment apps print them.
HANDLES = [
    "okhdfcbank",
    "okicici",
    "oksbi",
    "okaxis",
    "paytm",
    "ptaxis",
    "ptsbi",
    "pthdfc",
    "ptyes",
    "ybl",
    "ibl",
    "axl",
    "upi",
    "apl",
    "yapl",
    "sbi",
    "hdfcbank",
    "icici",
    "axisbank",
    "kotak",
    "barodampay",
    "pnb",
    "cnrb",
    "idfcbank",
    "rbl",
    "federal",
    "fbl",
    "jupiteraxis",
    "freecharge",
    "airtel",
    "postbank",
    "slice",
    "superyes",
    "yescred",
    "axisb",
    "waicici",
    "wahdfcbank",
    "wasbi",
    "naviaxis",
    "timecosmos",
    "tapicici",
    "abfspay",
    "indus",
    "boi",
    "uboi",
    "kbl",
    "dbs",
    "hsbc",
    "citi",
    "amazonpay",
    "jio",
]
# Bank codes of the central bank's list.
BANKS = [
    "HDFC",
    "ICIC",
    "SBIN",
    "UTIB",
    "PUNB",
    "KKBK",
    "BARB",
    "CNRB",
    "YESB",
    "IDIB",
    "IOBA",
    "FDRL",
    "INDB",
    "UBIN",
    "MAHB",
]
# Verhoeff's dihedral group, as printed in his book.
_D = [
    "0123456789",
    "1234067895",
    "2340178956",
    "3401289567",
    "4012395678",
    "5987604321",
    "6598710432",
    "7659821043",
    "8765932104",
    "9876543210",
]
_P = [
    "0123456789",
    "1576283094",
    "5803796142",
    "8916043527",
    "9453126870",
    "4286573901",
    "2793806415",
    "7046913258",
]
_INVERSE = "0432156789"


def digits(draw: random.Random, n: int) -> str:
    return "".join(draw.choices("0123456789", k=n))


def with_verhoeff(body: str) -> str:
    check = 0
    for place, digit in enumerate(reversed(body), start=1):
        check = int(_D[check][int(_P[place % 8][int(digit)])])
    return body + _INVERSE[check]


def with_luhn(body: str) -> str:
    total = 0
    for place, digit in enumerate(reversed(body)):
        doubled = int(digit) * (2 if place % 2 == 0 else 1)
        total += sum(map(int, str(doubled)))
    return body + str(-total % 10)


def with_gst_check(body: str) -> str:
    alphabet = "0123456789" + LETTERS
    total = 0
    for place, char in enumerate(body):
        quotient, rest = divmod(alphabet.index(char) * (1, 2)[place % 2], 36)
        total += quotient + rest
    return body + alphabet[-total % 36]


def word(draw: random.Random) -> str:
    return "".join(draw.choices(LETTERS.lower(), k=draw.randint(3, 9)))


def pan(draw: random.Random) -> str:
    holder = draw.choices("PCHFATBLJG", weights=(80, 6, 3, 3, 2, 2, 1, 1, 1, 1))[0]
    return (
        "".join(draw.choices(LETTERS, k=3))
        + holder
        + draw.choice(LETTERS)
        + f"{draw.randint(1, 9999):04d}"
        + draw.choice(LETTERS)
    )


def aadhaar(draw: random.Random) -> str:
    number = with_verhoeff(draw.choice("23456789") + digits(draw, 10))
    return draw.choice((" ", " ", "", "-")).join((number[:4], number[4:8], number[8:]))


def gstin(draw: random.Random) -> str:
    return with_gst_check(f"{draw.randint(1, 37):02d}{pan(draw)}{draw.choice('1112')}Z")


def upi(draw: random.Random) -> str:
    name = draw.choice((word(draw), f"{word(draw)}.{word(draw)}", f"9{digits(draw, 9)}"))
    return f"{name}{draw.choice(('', '', '-1', '99'))}@{draw.choice(HANDLES)}"


def ifsc(draw: random.Random) -> str:
    return draw.choice(BANKS) + "0" + draw.choice((digits(draw, 6), "0" + digits(draw, 5)))


def card(draw: random.Random) -> str:
    first, size = draw.choice(
        (("4", 16), ("51", 16), ("55", 16), ("2221", 16), ("6521", 16), ("6071", 16), ("5085", 16))
        + (("37", 15), ("36", 14))
    )
    number = with_luhn(first + digits(draw, size - len(first) - 1))
    if size == 16:
        groups = [number[at : at + 4] for at in range(0, 16, 4)]
    else:
        groups = [number[:4], number[4:10], number[10:]]
    return draw.choice(("", " ", "-")).join(groups)


def phone(draw: random.Random) -> str:
    number = draw.choice("6789") + digits(draw, 9)
    halves = f"{number[:5]} {number[5:]}"
    forms = (number, number, f"+91{number}", f"+91 {halves}", f"0{number}", halves)
    forms += (f"+91-{number}", f"91 {number}", f"{number[:3]}-{number[3:6]}-{number[6:]}")
    abroad = f"+1 (415) 555-{digits(draw, 4)}", f"+44 20 7946 0{digits(draw, 3)}"
    return draw.choice((*forms, *forms, *abroad))


def email(draw: random.Random) -> str:
    name = draw.choice((word(draw), f"{word(draw)}.{word(draw)}", f"{word(draw)}+{word(draw)}"))
    host = draw.choice(("gmail.com", "yahoo.co.in", f"{word(draw)}.in", f"mail.{word(draw)}.org"))
    return draw.choice((f"{name}@{host}", f"{name}@{host}".upper()))


KINDS: dict[str, Callable[[random.Random], str]] = {
    "aadhaar": aadhaar,
    "pan": lambda draw: draw.choice((pan(draw), pan(draw), pan(draw).lower())),
    "gstin": gstin,
    "upi": upi,
    "ifsc": lambda draw: draw.choice((ifsc(draw), ifsc(draw), ifsc(draw).lower())),
    "card": card,
    "phone": phone,
    "email": email,
}
FRAMES = (
    "{}",
    "my id is {}",
    "please update {} in my account, it changed on 12/05/2024",
    "({})",
    "{}, thanks",
    "mera number {} hai",
    "मेरा नंबर {} है।",
    "என் எண் {}.",
    "నా నంబర్ {}",
    "আমার নম্বর {}।",
    "details:\n{}\nregards",
    'value="{}"',
    "{{'id': '{}'}}",
    "order 4821 for 2 people: {}?",
    "{}/{}",
    "Is {} valid!",
)


def look_alike(draw: random.Random) -> str:
    """Return a text with numbers that identify nobody, as near to identifiers as life brings."""
    return draw.choice(_LOOK_ALIKES)(draw)


def _wrong_last(number: str, draw: random.Random) -> str:
    return number[:-1] + draw.choice([d for d in "0123456789" if d != number[-1]])


def _day(draw: random.Random) -> str:
    return f"20{draw.randint(10, 29)}-{draw.randint(1, 12):02d}-{draw.randint(1, 28):02d}"


_LOOK_ALIKES: tuple[Callable[[random.Random], str], ...] = (
    lambda d: f"invoice INV-{digits(d, 8)} dated {_day(d)}",
    lambda d: f"order number {digits(d, 3)}-{digits(d, 7)}-{digits(d, 7)}",
    lambda d: f"order #{d.randint(1, 5)}{digits(d, 9)} has not arrived",
    lambda d: f"order no. {d.choice('6789')}{digits(d, 9)} is late",
    lambda d: f"PNR {d.choice('24689')}{digits(d, 9)}, coach B{d.randint(1, 9)}",
    lambda d: f"aadhaar-like {_wrong_last(aadhaar(d).replace(' ', ''), d)}",
    lambda d: f"card-like {_wrong_last(with_luhn('4' + digits(d, 14)), d)}",
    lambda d: f"tracking AWB {d.choice('179')}{digits(d, 10)}",
    lambda d: f"logged at {_day(d)}T{d.randint(0, 23):02d}:{d.randint(0, 59):02d}:07.123456Z",
    lambda d: f"{_day(d)} {_day(d)} {_day(d)}",
    lambda d: f"epoch 17{digits(d, 8)} or in ms 17{digits(d, 11)}",
    lambda d: f"₹{d.randint(1, 99)},{digits(d, 2)},{digits(d, 3)}.{digits(d, 2)} for 3 items",
    lambda d: f"the total is 1,{digits(d, 3)},{digits(d, 3)},{digits(d, 3)} rupees",
    lambda d: f"pin code {d.randint(1, 8)}{digits(d, 5)}, flat {digits(d, 3)}",
    lambda d: f"isbn 978-{d.randint(0, 9)}-{digits(d, 4)}-{digits(d, 4)}-{d.randint(0, 9)}",
    lambda d: f"imei {with_luhn('35' + digits(d, 12))}",
    lambda d: (
        f"latitude {d.randint(8, 35)}.{digits(d, 7)}, longitude 7{digits(d, 1)}.{digits(d, 8)}"
    ),
    lambda d: f"pi is 3.14159265358979{digits(d, 6)}",
    lambda d: f"{digits(d, 4)} {digits(d, 4)} {digits(d, 4)} {digits(d, 4)} {digits(d, 4)}",
    lambda d: (
        f"uuid 4f{digits(d, 6)}-{digits(d, 4)}-4{digits(d, 3)}-a{digits(d, 3)}-{digits(d, 12)}"
    ),
    lambda d: f"sha {d.randbytes(20).hex()}",
    lambda d: f"version {digits(d, 1)}.{digits(d, 2)}.{digits(d, 5)} build {digits(d, 8)}",
    lambda d: f"ip 192.168.{d.randint(0, 255)}.{d.randint(0, 255)}:8080",
    lambda d: f"https://example.com/a/{digits(d, 12)}?q={word(d)}&v=@{word(d)}",
    lambda d: f"python: a @ b, @{word(d)}.setter, @{word(d)}",
    lambda d: f"follow @{word(d)} and @{word(d)} at 10:30",
    lambda d: f"matrix {word(d)}@{word(d)} and x@y",
    lambda d: (
        f"part {''.join(d.choices(LETTERS, k=4))}{digits(d, 5)}, "
        f"model {word(d).upper()}-{digits(d, 4)}A"
    ),
    lambda d: f"flight {''.join(d.choices(LETTERS, k=2))}{digits(d, 4)}, seat {d.randint(1, 40)}C",
    lambda d: f"car MH {digits(d, 2)} AB {digits(d, 4)}",
    lambda d: f"compute {digits(d, 6)} * {digits(d, 5)} + {digits(d, 7)}",
    lambda d: f"roll no {d.choice('12345')}{digits(d, 11)}",
    lambda d: f"scores: {' '.join(digits(d, 2) for _ in range(8))}",
    lambda d: f"years {' '.join(str(d.randint(1900, 2030)) for _ in range(4))}",
    lambda d: f"array [{', '.join(digits(d, 3) for _ in range(6))}]",
    lambda d: f"call the helpline 1800-{digits(d, 3)}-{digits(d, 4)} or 1947",
)
