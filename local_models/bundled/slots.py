"""What fills the slots of the bundled model's grammar, drawn once a dialogue.

Owns the word lists and made-up names. The same slot means the same thing in a question and in its
answer, so a dialogue stays consistent.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

_COUNTRIES = {
    "United Kingdom": "London",
    "South Korea": "Seoul",
    "Thailand": "Bangkok",
    "Bangladesh": "Dhaka",
    "Pakistan": "Islamabad",
    "Bhutan": "Thimphu",
    "Austria": "Vienna",
    "Argentina": "Buenos Aires",
    "Indonesia": "Jakarta",
    "Ireland": "Dublin",
    "India": "New Delhi",
    "France": "Paris",
    "Japan": "Tokyo",
    "Nepal": "Kathmandu",
    "Germany": "Berlin",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Sri Lanka": "Sri Jayawardenepura Kotte",
    "China": "Beijing",
    "Russia": "Moscow",
    "Egypt": "Cairo",
    "Kenya": "Nairobi",
    "Canada": "Ottawa",
    "Brazil": "Brasilia",
    "Australia": "Canberra",
    "Portugal": "Lisbon",
    "Greece": "Athens",
    "Turkey": "Ankara",
    "Mexico": "Mexico City",
    "the USA": "Washington, D.C.",
    "Norway": "Oslo",
    "Sweden": "Stockholm",
    "Poland": "Warsaw",
    "Vietnam": "Hanoi",
    "Afghanistan": "Kabul",
}
_FACTS = {
    "how many days are there in a week": "There are seven days in a week.",
    "how many months are in a year": "There are twelve months in a year.",
    "how many hours are in a day": "A day has 24 hours.",
    "how many minutes are in an hour": "An hour has 60 minutes.",
    "what colour is the sky": "On a clear day the sky is blue.",
    "which planet do we live on": "We live on Earth.",
    "what is the largest ocean": "The Pacific is the largest ocean.",
    "what is the largest planet": "Jupiter is the largest planet in our solar system.",
    "what do bees make": "Bees make honey.",
    "who wrote the national anthem of India": "Rabindranath Tagore wrote it.",
    "at what temperature does water boil": "At sea level, water boils at 100 degrees Celsius.",
    "how many legs does a spider have": "A spider has eight legs.",
    "what is the tallest mountain": "Mount Everest is the tallest mountain above sea level.",
    "which is the longest river": "The Nile is usually called the longest river.",
    "how many grams are in a kilogram": "There are 1,000 grams in a kilogram.",
    "how many seconds are in a minute": "A minute has 60 seconds.",
    "how many weeks are in a year": "A year has 52 weeks and a day or two.",
    "how many days are in a year": "A year has 365 days, a leap year 366.",
    "how many days does february have": "February has 28 days, 29 in a leap year.",
    "how many planets are there": "There are eight planets in our solar system.",
    "how many continents are there": "There are seven continents.",
    "how many states does India have": "India has 28 states and eight union territories.",
    "what is the national animal of India": "The national animal of India is the tiger.",
    "what is the national bird of India": "The national bird of India is the peacock.",
    "what is the national flower of India": "The national flower of India is the lotus.",
    "what is the currency of India": "The currency of India is the rupee.",
    "who was the first prime minister of India": "Jawaharlal Nehru was the first.",
    "when did India become independent": "India became independent on 15 August 1947.",
    "who is the father of the nation": "India calls Mahatma Gandhi the father of the nation.",
    "where is the Taj Mahal": "The Taj Mahal stands in Agra.",
    "what is the largest country": "Russia is the largest country by area.",
    "what is the largest animal": "The blue whale is the largest animal.",
    "what is the fastest land animal": "The cheetah is the fastest land animal.",
    "what is the closest star": "The Sun is the star closest to us.",
    "what is H2O": "H2O is water.",
    "at what temperature does water freeze": "Water freezes at 0 degrees Celsius.",
    "how many letters are in the English alphabet": "The English alphabet has 26 letters.",
    "how many metres are in a kilometre": "There are 1,000 metres in a kilometre.",
    "how many rupees are in a lakh": "A lakh is 100,000 rupees.",
    "what colours make green": "Blue and yellow together make green.",
    "which day comes after sunday": "Monday comes after Sunday.",
    "which month comes after march": "April comes after March.",
    "who wrote Hamlet": "William Shakespeare wrote Hamlet.",
    "what is a leap year": "A leap year has 366 days; February has 29 of them.",
}
_NAMES = (  # noqa: SIM905 - words read better in lines
    "Asha Ravi Meera Arjun Sana John Priya Kabir Lata Tom Rahul Neha Vikram Anita Sunita Rajesh "
    "Deepak Pooja Suresh Kavita Amit Sneha Rohan Divya Karan Anjali Manoj Geeta Sanjay Rekha "
    "Vijay Lakshmi Ganesh Murugan Selvi Karthik Revathi Senthil Kavya Harish Fatima Imran Ayesha "
    "Salman Zoya Farhan Gurpreet Harpreet Simran Jaspreet Subhash Debjani Sourav Mitali Prakash "
    "Mary Peter James Linda David Sarah Michael Emma Daniel Laura Carlos Maria Pedro Elena Ivan "
    "Olga Yuki Kenji Mei Chen Ahmed Omar Leila Fatou Kwame Amara Nils Ingrid Pierre Claire Hans"
).split()
_SLOTS: dict[str, Sequence[str]] = {
    "thing": ["kitchen tap", "fan", "bicycle", "door", "roof", "garden"],
    "city": ["Pune", "Mumbai", "Delhi", "Chennai", "Jaipur", "Kochi", "Singapore", "Bengaluru"],
    "person": ["grandmother", "mother", "father", "sister", "friend", "teacher", "boss", "son"],
    "item": ["shoes", "shirt", "phone", "saree", "headphones", "jacket", "bag", "kettle", "watch"],
    "age": ["20", "28", "35", "43", "51", "64"],
    "people_hinglish": ["do", "teen", "chaar", "paanch", "chhe"],
    "dish": [
        "masala dosa",
        "paneer wrap",
        "veg biryani",
        "lime soda",
        "dal khichdi",
        "filter kaapi",
    ],
    "people": ["two", "three", "four", "five", "six", "eight"],
    "name_hi": ["आशा", "रवि", "मीरा", "अर्जुन", "सना", "कबीर", "लता", "राहुल"],
    "task": [
        "sorts a list",
        "finds the second largest number in a list",
        "removes duplicates",
        "parses a date",
        "works for any iterable in one pass",
        "reads a large file",
        "gives the median for each city",
        "merges two sorted lists",
        "runs tasks in parallel",
    ],
    "claim": [
        "the square root of two is irrational",
        "the sum of the first odd numbers is a square",
        "there are infinitely many primes",
        "the series converges",
        "both answers agree",
    ],
    "topic": [
        "inflation and small farmers",
        "database isolation levels",
        "the causes of the war",
        "how a transformer works",
        "quantum mechanics",
        "the tax rules for freelancers",
        "the design of a message queue",
        "climate policy",
        "the clauses of this contract",
    ],
    "task_hinglish": [
        "array se duplicate kaise hataun",
        "ek function likho",
        "do list ko sort karke jodo",
        "file kaise padhun",
        "API banake do",
    ],
    "habit": [
        "ask people to come without gifts",
        "drink tea at night",
        "call early in the morning",
        "walk every day",
        "take a day off",
        "keep a diary",
    ],
    "memo": [
        "the caterer is Saffron Table",
        "three guests cannot eat nuts",
        "the meeting is on Friday at ten",
        "my train leaves at six",
        "the spare key is with Meera",
        "we are five people",
    ],
}
_SYLLABLES = (  # noqa: SIM905 - words read better in lines
    "ka ra mi ta no li sa ve du pe ri an el or ma shi ba lo ne ji go ha vi ko su da ren tal "
    "bri mon far dev jo wil har bet sam ro qui zen pra nav ash ish ani ku lak mee sha thi vel "
    "bo cri dra eth fi gre hol in jas kel lo mag nes ob pau rik sti tre um vin wen xa yas zo "
    "che ddi ffe gu hu ik ju ky lu mu nu pu ru tu wa ya dha bha kri shu tya nna rra"
).split()
_PLAIN = (  # noqa: SIM905 - words read better in lines
    "blue red green amber silver night river paper north lucky tiger lotus kettle garden"
).split()


def made_up_name(rng: random.Random) -> str:
    """Return a name that nobody has, so that the model copies rather than remembers."""
    return "".join(rng.choice(_SYLLABLES) for _ in range(rng.choice([2, 2, 3]))).capitalize()


def made_up_code(rng: random.Random) -> str:
    """Return something like a password or an account's name."""
    words = [rng.choice(_PLAIN) for _ in range(rng.choice([1, 2]))]
    return rng.choice("-_-").join([*words, str(rng.randrange(1, 1000))])


def fill_slots(rng: random.Random) -> dict[str, str]:
    """Return one value for every slot."""
    slots = {name: rng.choice(values) for name, values in _SLOTS.items()}
    slots["name"] = rng.choice(_NAMES) if rng.random() < 0.55 else made_up_name(rng)
    if rng.random() < 0.12:  # People write their own name small, and it is given back so.
        slots["name"] = slots["name"].lower()
    slots["order"] = str(rng.randrange(1000, 10 ** rng.choice([5, 5, 6, 7])))
    slots["amount"] = f"{rng.randrange(100, 5000):,}"
    slots["country"] = "India" if rng.random() < 0.1 else rng.choice(list(_COUNTRIES))
    slots["capital"] = _COUNTRIES[slots["country"]]
    slots["question"] = rng.choice(list(_FACTS))
    slots["fact"] = _FACTS[slots["question"]]
    return slots
