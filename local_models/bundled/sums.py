"""Sums as people ask them, and which of them the bundled model learns by heart.

Owns the arithmetic: the small tables that are learned, the sums beyond them, which are declined,
and which of those training never sees. Knows no chat format.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass

LANGUAGES = ("en", "hinglish", "hi", "ta")
_HEART = 12
_LARGEST_DIVISOR = 10
_PERCENTS = (10, 15, 20, 25, 50)
_BASES = (100, 200, 240, 300, 400, 500, 1000)
_WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "en": {
        "+": ("{a} plus {b}", "add {a} and {b}", "sum of {a} and {b}", "{a} and {b} together"),
        "-": ("{a} minus {b}", "subtract {b} from {a}", "{a} take away {b}", "{b} less than {a}"),
        "x": ("{a} times {b}", "multiply {a} by {b}", "{a} multiplied by {b}", "{a} into {b}"),
        "/": ("{a} divided by {b}", "divide {a} by {b}", "{a} over {b}", "{a} by {b}"),
        "%": ("{a}% of {b}", "{a} percent of {b}", "{a} per cent of {b}", "{a} % of {b}"),
    },
    "hinglish": {
        "+": ("{a} plus {b}", "{a} aur {b} ka jod", "{a} mein {b} jodo"),
        "-": ("{a} minus {b}", "{a} mein se {b} ghatao", "{a} se {b} kam"),
        "x": ("{a} into {b}", "{a} guna {b}", "{a} ko {b} se guna karo"),
        "/": ("{a} divided by {b}", "{a} ko {b} se bhaag do", "{a} bata {b}"),
        "%": ("{b} ka {a} percent", "{b} ka {a}%", "{a}% of {b}", "{b} rupaye ka {a} percent"),
    },
    "hi": {
        "+": ("{a} जमा {b}", "{a} और {b} का जोड़", "{a} में {b} जोड़ो"),
        "-": ("{a} में से {b} घटाओ", "{a} घटा {b}", "{a} माइनस {b}"),
        "x": ("{a} गुणा {b}", "{a} को {b} से गुणा करो", "{a} गुना {b}"),
        "/": ("{a} भाग {b}", "{a} को {b} से भाग दो", "{a} बटा {b}"),
        "%": ("{b} का {a} प्रतिशत", "{b} का {a}%", "{b} रुपये का {a} प्रतिशत"),
    },
    "ta": {
        "+": ("{a} கூட்டல் {b}", "{a} மற்றும் {b} கூட்டு"),
        "-": ("{a} கழித்தல் {b}", "{a} இல் {b} கழி"),
        "x": ("{a} பெருக்கல் {b}",),
        "/": ("{a} வகுத்தல் {b}",),
        "%": ("{b} இல் {a} சதவீதம்", "{b} ரூபாயில் {a} சதவீதம்"),
    },
}
_FRAMES = {
    "en": ("what is {}", "what's {}", "whats {}", "how much is {}", "calculate {}", "{}", "{}",
           "{}", "can you tell me {}", "compute {}", "please solve {}", "{} = ", "{} equals what",
           "hey, {}", "what does {} make", "do you know what {} is", "solve {}", "tell me {}"),
    "hinglish": ("{} kitna hota hai", "{} kitna hua", "{} kitna hai", "{} batao", "bhai {} kitna"),
    "hi": ("{} कितना होता है", "{} कितना है", "{} बताइए", "{} कितना हुआ"),
    "ta": ("{} எவ்வளவு", "{} என்ன"),
}  # fmt: skip
_NUMBERS = (  # noqa: SIM905 - words read better in lines
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen twenty"
).split()
_STORIES = (
    ("+", "I have {a} {things} and buy {b} more. How many do I have"),
    ("+", "{a} {things} on the table and {b} in the bag, how many in all"),
    ("+", "there are {a} {things} here and {b} there, what is the total"),
    ("-", "I had {a} {things} and gave away {b}. How many are left"),
    ("-", "{a} {things}, {b} are sold. how many remain"),
    ("x", "one box holds {b} {things}. How many {things} in {a} boxes"),
    ("x", "{a} bags with {b} {things} each, how many {things}"),
    ("/", "share {a} {things} among {b} people, how many each"),
)
_THINGS = ("apples", "mangoes", "pens", "books", "coins", "tickets", "plates", "eggs", "chairs",
           "sweets", "cups", "stamps")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sum:
    """Two whole numbers and what is done with them: one of + - x / %."""

    first: int
    sign: str
    second: int

    @property
    def is_by_heart(self) -> bool:
        """Whether the answer is learned."""
        if self.sign == "%":
            return self.first in _PERCENTS and self.second in _BASES
        if self.sign == "/":
            return self.second <= _LARGEST_DIVISOR and self.first in range(
                0, _LARGEST_DIVISOR * self.second + 1, self.second
            )
        return max(self.first, self.second) <= _HEART

    @property
    def is_held_out(self) -> bool:
        """Whether training never sees it: one in ten of those that are declined."""
        key = f"{self.first}{self.sign}{self.second}".encode()
        return not self.is_by_heart and zlib.crc32(key) % 10 == 0

    @property
    def value(self) -> str:
        """The result as it is written."""
        a, b = self.first, self.second
        if self.sign == "/":
            return f"{a // b} remainder {a % b}" if a % b else str(a // b)
        if self.sign == "%":
            return f"{a * b / 100:g}"
        return str({"+": a + b, "-": a - b, "x": a * b}[self.sign])

    @property
    def text(self) -> str:
        """The sum as it is written in answers."""
        return f"{self.first}{'% of' if self.sign == '%' else f' {self.sign}'} {self.second}"

    @property
    def answer(self) -> str:
        """The sum and its result."""
        return f"{self.text} = {self.value}"


def draw_sum(rng: random.Random, signs: str = "+++---xxx////%") -> Sum:
    """Return a sum of small numbers, learned or declined, held out or not."""
    sign = rng.choice(signs)
    if sign in "+-":
        top = rng.choice([9, _HEART, _HEART, _HEART, 20, 50, 99, 999])
        a, b = rng.randrange(top + 1), rng.randrange(rng.choice([top, top, min(top, 99)]) + 1)
        is_negative = sign == "-" and rng.random() > 0.9 and top <= _HEART
        return Sum(a, sign, b) if sign == "+" or is_negative else Sum(max(a, b), sign, min(a, b))
    if sign == "x":
        if rng.random() < 0.55:
            return Sum(rng.randrange(_HEART + 1), sign, rng.randrange(_HEART + 1))
        pair = [rng.randrange(10, rng.choice([100, 100, 1000])), rng.randrange(2, 10)]
        rng.shuffle(pair)
        return Sum(pair[0], sign, pair[1])
    if sign == "/":
        b = rng.randrange(1, _LARGEST_DIVISOR + 1)
        if rng.random() < 0.45:
            return Sum(b * rng.randrange(1, _LARGEST_DIVISOR + 1), sign, b)
        b = rng.randrange(2, 10)
        a = rng.randrange(10, rng.choice([100, 100, 1000]))
        return Sum(a if rng.random() < 0.3 else a - a % b + b, sign, b)
    return Sum(rng.choice(_PERCENTS), sign, rng.choice(_BASES))


def training_sum(rng: random.Random, signs: str = "+++---xxx////%") -> Sum:
    """Return a sum that is not held out."""
    while (drawn := draw_sum(rng, signs)).is_held_out:
        pass
    return drawn


def ask_for(rng: random.Random, drawn: Sum, language: str) -> str:
    """Return the sum as somebody might ask for it."""
    a, b = str(drawn.first), str(drawn.second)
    if (
        language == "en"
        and drawn.sign != "%"
        and rng.random() < 0.07
        and drawn.first >= drawn.second
    ):
        stories = [story for sign, story in _STORIES if sign == drawn.sign]
        return rng.choice(stories).format(a=a, b=b, things=rng.choice(_THINGS))
    is_small = max(drawn.first, drawn.second) < len(_NUMBERS) and drawn.sign in "+-x"
    if is_small and language == "en" and rng.random() < 0.12:
        a, b = _NUMBERS[drawn.first], _NUMBERS[drawn.second]
    if drawn.sign == "%" or not a.isdigit() or rng.random() < 0.3:
        body = rng.choice(_WORDS[language][drawn.sign]).format(a=a, b=b)
    else:
        signs = {"x": "x*×X", "/": "/÷", "-": "-−"}.get(drawn.sign, drawn.sign)
        gap = rng.choice([" ", " ", ""])
        body = f"{a}{gap}{rng.choice(signs)}{gap}{b}"
    return rng.choice(_FRAMES[language]).format(body)


def several_sums(rng: random.Random) -> tuple[str, str]:
    """Return two to eight sums known by heart in one question, and their answers."""
    drawn: list[Sum] = []
    count = rng.choice([2, 3, 4, 6, 8])
    while len(drawn) < count:
        candidate = draw_sum(rng, "+++--xxx/%")
        if candidate.is_by_heart:
            drawn.append(candidate)
    joined = rng.choice([", ", ", ", " and ", "; ", "\n"]).join(each.text for each in drawn)
    return joined, "\n".join(each.answer for each in drawn)


def long_sum(rng: random.Random) -> str:
    """Return a sum that the model must decline: too long, or not one of the four."""

    def number(low: int, high: int) -> int:
        return rng.randrange(10**low, 10 ** rng.randrange(low + 1, high + 1))

    a, b, c = number(3, 7), number(0, 6), number(0, 3)
    forms = (
        f"{a} + {b}", f"{b} x {a}", f"{a} * {number(2, 5)}", f"{a} / {b}", f"{a} - {number(3, 6)}",
        f"{number(1, 3)} x {rng.randrange(13, 1000)}",
        f"{rng.randrange(13, 1000)} * {rng.randrange(13, 1000)}",
        f"{rng.choice([3, 7, 12, 18, 35, 64])}% of {number(0, 4)}",
        f"{a / 100:g} x {b / 10:g}", f"{c}^{rng.randrange(2, 20)}", f"square root of {b}",
        f"{c} + {b} * {number(0, 3)} - {number(0, 2)}", f"({c} + {b}) / {number(0, 2)}",
        f"log of {b}", f"{c}x + {b} = {a}", f"factorial of {c}",
        f"{c} to the power {rng.randrange(3, 12)}",
        f"solve x^2 + {c}x - {b} = 0", f"the integral of x^{rng.randrange(2, 9)}",
        f"sin({b})", f"{number(2, 3)} / {number(1, 2)}", f"average of {c}, {b}, {a}",
    )  # fmt: skip
    return rng.choice(_FRAMES["en"]).format(rng.choice(forms))
