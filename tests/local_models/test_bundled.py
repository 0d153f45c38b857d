from __future__ import annotations

import itertools
import random
import re

import pytest

from local_models.bundled.corpus import dialogues, load_intents
from local_models.bundled.evaluate import right_answers
from local_models.bundled.noise import roughen
from local_models.bundled.prompts import (
    declined_exchange,
    groups,
    prompts,
    refusal_line,
    refusal_lines,
)
from local_models.bundled.recollection import HEADER, recollect, repeat_after
from local_models.bundled.sums import Sum, ask_for, draw_sum, long_sum, training_sum
from local_models.bundled.unseen import plain, unseen_questions
from memory import quoting


def said(role: str, dialogue: list[dict[str, str]]) -> list[str]:
    return [message["content"] for message in dialogue if message["role"] == role]


@pytest.mark.parametrize(
    ("drawn", "answer"),
    [
        (Sum(12, "+", 7), "12 + 7 = 19"),
        (Sum(8, "-", 12), "8 - 12 = -4"),
        (Sum(7, "x", 8), "7 x 8 = 56"),
        (Sum(63, "/", 9), "63 / 9 = 7"),
        (Sum(15, "%", 240), "15% of 240 = 36"),
    ],
)
def test_a_sum_by_heart_is_answered_with_its_result(drawn, answer):
    assert drawn.is_by_heart
    assert drawn.answer == answer


@pytest.mark.parametrize(
    "drawn",
    [Sum(13, "+", 7), Sum(45, "-", 12), Sum(46, "x", 8), Sum(64, "/", 9), Sum(132, "/", 12)],
)
def test_a_sum_past_the_tables_is_not_known_by_heart(drawn):
    assert not drawn.is_by_heart


def test_training_never_sees_a_held_out_sum():
    rng = random.Random(3)
    assert not any(training_sum(rng).is_held_out for _ in range(5000))
    assert sum(draw_sum(rng).is_held_out for _ in range(5000)) > 150


def test_dialogues_state_only_true_sums_known_by_heart():
    closing = re.compile(r"^(\d+)(% of| [-+x/]) (\d+) = (.+)$", re.MULTILINE)
    found = [
        (Sum(int(match[1]), match[2].strip()[0], int(match[3])), match[4])
        for dialogue in itertools.islice(dialogues(11), 2000)
        for answer in said("assistant", dialogue)
        for match in closing.finditer(answer)
    ]
    assert len(found) > 500
    assert all(drawn.is_by_heart and drawn.value == value for drawn, value in found)


def test_a_sum_asked_for_names_both_numbers():
    rng = random.Random(4)
    for _ in range(500):
        drawn = draw_sum(rng)
        asked = ask_for(rng, drawn, "hi")
        assert str(drawn.first) in asked
        assert str(drawn.second) in asked


def test_test_prompts_are_in_no_training_dialogue():
    learned = {
        text.casefold()
        for each in itertools.islice(dialogues(12), 4000)
        for text in said("user", each)
    }
    unseen = {text for texts in prompts("test").values() for text in texts}
    seen = {text for texts in prompts("train").values() for text in texts}
    assert len(learned & seen) > 30
    # A few of the shortest ("thank you") are in every set of prompts.
    assert len(learned & unseen - seen) < 0.01 * len(unseen)


def test_every_group_of_prompts_has_an_answer_or_is_declined():
    for split in ("train", "test"):
        for name, texts in prompts(split).items():
            assert texts, name
            assert groups()[name] or name == "refuse"


def test_the_same_seed_gives_the_same_dialogues():
    first, second = (list(itertools.islice(dialogues(5), 200)) for _ in range(2))
    assert first == second
    assert first != list(itertools.islice(dialogues(6), 200))


def test_a_dialogue_alternates_until_the_assistant_has_spoken():
    for dialogue in itertools.islice(dialogues(7), 500):
        assert dialogue[-1]["role"] == "assistant"
        spoken = [message["role"] for message in dialogue if message["role"] != "system"]
        assert all(a != "assistant" or b == "user" for a, b in itertools.pairwise(spoken))


def test_no_slot_or_alternative_is_left_open():
    for dialogue in itertools.islice(dialogues(8), 2000):
        for answer in said("assistant", dialogue):
            assert "{" not in answer
            assert "|" not in answer


def test_what_is_recalled_was_told_in_the_dialogue():
    rng = random.Random(9)
    for _ in range(400):
        *before, last = recollect(rng, [])
        shown = "\n".join(message["content"] for message in before[:-1])
        match = re.match(r"Your (?:name|order number) is (.+)\.", last["content"])
        if match:
            assert match[1] in shown


def test_quotations_are_headed_as_memory_heads_them():
    assert HEADER == quoting.HEADER


def test_each_language_can_decline():
    rng = random.Random(10)
    for language in ("en", "hi", "hinglish", "ta", "te", "bn", "mr"):
        asked, answer = declined_exchange(rng, language)
        assert asked
        assert answer in refusal_lines(language)


def test_code_is_declined_as_code_and_a_fact_as_a_fact():
    rng = random.Random(14)
    drawn = {declined_exchange(rng, "en") for _ in range(500)}
    asked_by_line = {
        line: [asked for asked, answer in drawn if answer == line] for line in refusal_lines()
    }
    assert all(asked_by_line.values())
    assert not any("poem" in asked for asked in asked_by_line[refusal_line("code")])
    assert not any("python" in asked for asked in asked_by_line[refusal_line("open")])


def test_unseen_questions_are_in_no_dialogue():
    learned = {
        plain(text) for each in itertools.islice(dialogues(15), 8000) for text in said("user", each)
    }
    unseen = {plain(question) for _, _, question in unseen_questions()}
    assert len(unseen) > 100
    assert not learned & unseen


def test_every_unseen_question_has_a_right_answer():
    for language, names, question in unseen_questions():
        assert right_answers(language, names), question


def test_what_is_to_be_repeated_stands_in_the_question_as_it_is():
    rng = random.Random(16)
    for _ in range(100):
        asked, words = repeat_after(rng)
        assert asked.endswith(words)


def test_noise_leaves_numbers_as_they_are():
    rng = random.Random(13)
    for _ in range(300):
        asked = long_sum(rng)
        assert re.findall(r"\d+", roughen(rng, asked)) == re.findall(r"\d+", asked)


def test_intents_of_one_name_mean_the_same_in_all_languages():
    english = {intent.name for intent in load_intents("en")}
    shared = [intent.name for intent in load_intents("hi") if intent.name in english]
    assert {"greet", "refund", "upi", "track"} <= set(shared)
