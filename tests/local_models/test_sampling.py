from __future__ import annotations

from collections import Counter

import pytest
import torch

from local_models.sampling import Sampler
from local_models.sequence import SamplingParams, Sequence


def sequence_with(tokens=(1, 2), n_prompt=2, **params) -> Sequence:
    sequence = Sequence(
        id=1,
        scope="",
        tokens=list(tokens),
        n_prompt=n_prompt,
        max_tokens=100,
        params=SamplingParams(**params),
        eos=frozenset(),
        arrived_s=0.0,
    )
    sequence.counts.update(tokens[n_prompt:])
    return sequence


def drawn(logits: list[float], n=400, **params) -> Counter[int]:
    sampler, sequence = Sampler(seed=1), sequence_with(seed=7, **params)
    row = torch.tensor(logits)
    return Counter(sampler.choose(sequence, row)[0] for _ in range(n))


def test_temperature_zero_takes_the_likeliest():
    assert drawn([0.0, 3.0, 1.0], temperature=0.0) == {1: 400}


def test_temperature_one_draws_by_the_models_own_odds():
    counts = drawn([0.0, 1.0986, 0.0], n=4000)
    assert counts[1] / 4000 == pytest.approx(0.6, abs=0.03)


def test_top_k_keeps_the_k_likeliest():
    assert set(drawn([1.0, 1.1, 1.2, 0.9], top_k=2)) == {1, 2}


def test_top_p_keeps_the_smallest_set_that_reaches_it():
    assert set(drawn([3.0, 3.0, 0.0, 0.0], top_p=0.9)) == {0, 1}


def test_min_p_drops_what_is_far_below_the_best():
    assert set(drawn([2.0, 1.9, -1.0], min_p=0.5)) == {0, 1}


def test_a_seed_repeats_the_draws():
    assert drawn([0.0, 0.1, 0.2], n=30) == drawn([0.0, 0.1, 0.2], n=30)


def test_a_frequency_penalty_counts_generated_tokens_only():
    row = torch.tensor([0.0, 2.0, 1.5])
    of_prompt = sequence_with((1, 1), 2, temperature=0, frequency_penalty=1.0)
    of_reply = sequence_with((0, 1), 1, temperature=0, frequency_penalty=1.0)
    assert Sampler().choose(of_prompt, row)[0] == 1
    assert Sampler().choose(of_reply, row)[0] == 2


def test_a_repetition_penalty_counts_the_prompt_too():
    sequence = sequence_with((1,), 1, temperature=0, repetition_penalty=2.0)
    assert Sampler().choose(sequence, torch.tensor([0.0, 2.0, 1.5]))[0] == 2


def test_a_logit_bias_can_forbid_a_token():
    sequence = sequence_with(temperature=0, logit_bias={1: -100.0})
    assert Sampler().choose(sequence, torch.tensor([0.0, 2.0, 1.5]))[0] == 2


def test_logprobs_are_those_of_the_untouched_distribution():
    sequence = sequence_with(temperature=0, top_logprobs=2, logit_bias={1: -100.0})
    row = torch.tensor([0.0, 2.0, 1.5])
    token, found = Sampler().choose(sequence, row)
    expected = torch.log_softmax(row, -1)
    assert token == 2
    assert found.logprob == pytest.approx(float(expected[2]))
    assert [t for t, _ in found.top] == [1, 2]


def test_the_callers_row_is_left_as_it_was():
    row = torch.tensor([0.0, 2.0, 1.5])
    Sampler().choose(sequence_with(temperature=0, logit_bias={1: -5.0}), row)
    assert row.tolist() == [0.0, 2.0, 1.5]
