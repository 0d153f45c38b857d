from __future__ import annotations

import json

import pytest

from local_models.defaults import load_sampling
from local_models.sequence import SamplingParams
from local_models.wire import parse_chat

ASKED = {"messages": [{"role": "user", "content": "x"}]}


def sampling(folder, **config):
    (folder / "generation_config.json").write_text(json.dumps(config))
    return load_sampling(folder)


def test_a_folder_that_says_nothing_is_greedy(tmp_path):
    assert load_sampling(tmp_path).temperature == 0
    assert sampling(tmp_path, eos_token_id=2).temperature == 0


def test_a_folder_that_samples_brings_its_numbers(tmp_path):
    found = sampling(tmp_path, do_sample=True, temperature=0.6, top_p=0.95, top_k=20)
    assert (found.temperature, found.top_p, found.top_k) == (0.6, 0.95, 20)


def test_a_request_that_names_a_number_is_obeyed(tmp_path):
    found = sampling(tmp_path, do_sample=True, temperature=0.6, top_p=0.95, top_k=20)
    params = parse_chat(ASKED | {"temperature": 0, "top_p": 1, "top_k": 0}, found).params
    assert (params.temperature, params.top_p, params.top_k) == (0, 1, 0)


@pytest.mark.parametrize(("asked", "temperature"), [({}, 0), ({"seed": 3}, 0), ({"n": 2}, 1)])
def test_several_choices_of_a_greedy_model_are_drawn(asked, temperature):
    assert (
        parse_chat(ASKED | asked, SamplingParams(temperature=0)).params.temperature == temperature
    )
