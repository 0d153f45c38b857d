from __future__ import annotations

import random

import pytest

from local_models.config import EngineConfig
from local_models.engine import load_engine
from local_models.errors import ModelRefused
from local_models.sequence import SamplingParams

GREEDY = SamplingParams(temperature=0, ignore_eos=True)


def engine_with(folder, draft, **changes):
    settings = {"draft_tokens": 4, "draft_model": draft, "draft_until_running": 8} | changes
    return load_engine(
        EngineConfig(model=str(folder), quantize="none", max_running=4, step_tokens=24, **settings)
    )


def prompts(n):
    rng = random.Random(7)
    return [[rng.randrange(3, 300) for _ in range(rng.randrange(1, 50))] for _ in range(n)]


def test_a_poor_guesser_changes_nothing(tiny, build_tiny, tmp_path):
    build_tiny("Llama", tmp_path, num_hidden_layers=1)
    plain = engine_with(tiny[0], None, draft_tokens=0)
    guessed = engine_with(tiny[0], str(tmp_path))
    assert guessed.generate(prompts(6), GREEDY, 30) == plain.generate(prompts(6), GREEDY, 30)
    assert guessed.stats.drafted_tokens > 0


def test_a_perfect_guesser_is_always_right(tiny):
    plain = engine_with(tiny[0], None, draft_tokens=0)
    guessed = engine_with(tiny[0], str(tiny[0]))
    given = prompts(2)
    assert guessed.generate(given, GREEDY, 30) == plain.generate(given, GREEDY, 30)
    assert guessed.stats.accepted_tokens == guessed.stats.drafted_tokens > 20
    assert guessed.stats.n_steps < plain.stats.n_steps / 2


def test_a_full_batch_is_not_guessed_for(tiny):
    guessed = engine_with(tiny[0], str(tiny[0]), draft_until_running=1)
    sequences = [guessed.add(p, GREEDY, max_new_tokens=10) for p in prompts(3)]
    while all(s.finish is None for s in sequences):
        guessed.step()
    assert guessed.stats.drafted_tokens == 0


def test_a_long_prompt_is_caught_up_with_over_several_steps(tiny):
    plain = engine_with(tiny[0], None, draft_tokens=0)
    guessed = engine_with(tiny[0], str(tiny[0]))
    given = [[3 + at % 290 for at in range(200)]]
    assert guessed.generate(given, GREEDY, 30) == plain.generate(given, GREEDY, 30)
    assert guessed.stats.accepted_tokens == guessed.stats.drafted_tokens > 10


def test_another_vocabulary_is_refused(tiny, build_tiny, tmp_path):
    build_tiny("Llama", tmp_path, vocab_size=200)
    with pytest.raises(ModelRefused, match="vocabulary"):
        engine_with(tiny[0], str(tmp_path))
