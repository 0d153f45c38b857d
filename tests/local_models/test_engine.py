from __future__ import annotations

import random

import pytest
import torch
from safetensors.torch import save_file

from local_models.config import EngineConfig
from local_models.engine import load_engine, page_count
from local_models.errors import ModelRefused, RequestRefused
from local_models.sequence import Finish, SamplingParams
from local_models.shape import load_shape
from local_models.weights import load_tensors, load_weights
from tests.local_models.conftest import expected

GREEDY = SamplingParams(temperature=0, ignore_eos=True)


def prompts(n: int, seed: int = 1) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(3, 300) for _ in range(rng.randrange(1, 70))] for _ in range(n)]


@pytest.mark.parametrize("architecture", ["Llama", "Qwen2", "Qwen3", "Mistral"])
def test_greedy_output_equals_generate(build_tiny, architecture, tmp_path):
    model = build_tiny(architecture, tmp_path)
    engine = load_engine(EngineConfig(model=str(tmp_path), quantize="none", max_running=4))
    given = prompts(5)
    assert engine.generate(given, GREEDY, 12) == [expected(model, p, 12) for p in given]


def test_scaled_rotary_frequencies_equal_transformers(build_tiny, tmp_path):
    rope = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    model = build_tiny("Llama", tmp_path, rope_parameters=rope)
    engine = load_engine(EngineConfig(model=str(tmp_path), quantize="none"))
    given = prompts(3)
    assert engine.generate(given, GREEDY, 12) == [expected(model, p, 12) for p in given]


@pytest.mark.parametrize("draft_tokens", [0, 4])
def test_any_schedule_gives_the_same_tokens(tiny, draft_tokens):
    folder, model = tiny
    config = EngineConfig(
        model=str(folder),
        quantize="none",
        max_running=4,
        step_tokens=24,
        draft_tokens=draft_tokens,
        draft_until_running=8,
    )
    engine = load_engine(config)
    rng = random.Random(9)
    given = prompts(14, seed=2)
    # Repetition gives the lookup something to find.
    given += [p[:8] * 5 for p in given[:4]]
    waiting = [(p, rng.randrange(1, 40), rng.choice("ab")) for p in given]
    started = []
    while waiting or engine.has_work:
        if waiting and rng.random() < 0.5:
            prompt, n_new, scope = waiting.pop()
            started.append((engine.add(prompt, GREEDY, max_new_tokens=n_new, scope=scope), n_new))
        if engine.scheduler.running and rng.random() < 0.1:
            engine.scheduler.preempt(rng.choice(engine.scheduler.running))
        engine.step()
    for sequence, n_new in started:
        prompt = sequence.tokens[: sequence.n_prompt]
        assert sequence.tokens[sequence.n_prompt :] == expected(model, prompt, n_new)
    assert engine.pool.n_held == 0


def test_every_sequence_ends_with_exactly_one_terminal_event(engine):
    rng = random.Random(4)
    sequences = [
        engine.add(p, GREEDY, max_new_tokens=rng.randrange(1, 20)) for p in prompts(20, seed=3)
    ]
    ends: dict[int, list[Finish]] = {s.id: [] for s in sequences}
    while engine.has_work:
        if rng.random() < 0.2:
            engine.cancel(rng.choice(sequences))
        for event in engine.step():
            if event.finish is not None:
                ends[event.sequence.id].append(event.finish)
    assert all(len(found) == 1 for found in ends.values())
    assert {Finish.LENGTH, Finish.CANCELLED} == {f[0] for f in ends.values()}


def test_a_cancelled_sequence_frees_its_pages_at_once(engine):
    sequence = engine.add([5] * 40, GREEDY, max_new_tokens=50)
    engine.step()
    assert engine.pool.n_held > 0
    engine.cancel(sequence)
    assert engine.pool.n_held == 0


def test_a_reused_prefix_changes_nothing(engine):
    prompt = prompts(1, seed=8)[0] * 3
    first, second = engine.generate([prompt], GREEDY, 10), engine.generate([prompt], GREEDY, 10)
    assert first == second
    assert engine.stats.reused_tokens > 0


def test_a_seed_repeats_itself_in_any_batch(engine):
    params = SamplingParams(temperature=1.0, top_p=0.9, seed=11, ignore_eos=True)
    prompt = [7, 8, 9]
    alone = engine.generate([prompt], params, 12)[0]
    together = engine.generate([prompts(1)[0], prompt, [4, 5]], params, 12)[1]
    assert alone == together


def test_the_deadline_ends_a_sequence(tiny):
    now = [100.0]
    config = EngineConfig(model=str(tiny[0]), quantize="none", max_running=2)
    engine = load_engine(config, clock_s=lambda: now[0])
    engine.add([5, 6], GREEDY, max_new_tokens=50, deadline_s=101.0)
    engine.step()
    now[0] = 102.0
    assert [e.finish for e in engine.step()] == [Finish.TIMEOUT]


@pytest.mark.parametrize(
    ("prompt", "n_new", "code"),
    [([], 5, "empty_prompt"), ([5] * 256, 5, "context_length_exceeded"), ([5], 0, "invalid_value")],
)
def test_a_request_that_can_never_run_is_refused(engine, prompt, n_new, code):
    with pytest.raises(RequestRefused) as caught:
        engine.add(prompt, GREEDY, max_new_tokens=n_new)
    assert caught.value.code == code
    assert engine.generate([[5]], GREEDY, 1)


def test_another_architecture_is_refused_with_the_alternative(tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["MambaForCausalLM"]}')
    with pytest.raises(ModelRefused, match="OpenAI-compatible"):
        load_engine(EngineConfig(model=str(tmp_path)))


def test_broken_weights_are_refused_in_one_line(tiny, tmp_path):
    for file in tiny[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"\x10garbage")
    with pytest.raises(ModelRefused, match="cannot be read"):
        load_engine(EngineConfig(model=str(tmp_path)))


def test_weights_that_do_not_fit_the_machine_are_refused(tiny):
    with pytest.raises(ModelRefused, match="this machine has 1,000 left"):
        load_tensors(tiny[0], available_bytes=1000)


def test_weights_that_grow_past_the_machine_are_refused(tmp_path):
    half = {"weight": torch.zeros(500, 100, dtype=torch.bfloat16)}
    save_file(half, tmp_path / "model.safetensors")
    with pytest.raises(ModelRefused, match="take 200,000 bytes with --quantize none"):
        load_weights(tmp_path, "none", available_bytes=150_000)
    load_weights(tmp_path, "int8", available_bytes=150_000)


def test_too_little_memory_is_refused_at_the_start(build_tiny, tmp_path):
    build_tiny("Llama", tmp_path, max_position_embeddings=4096)
    with pytest.raises(ModelRefused, match="kv_memory_bytes"):
        load_engine(EngineConfig(model=str(tmp_path), kv_memory_bytes=1 << 20))


def test_an_int8_cache_holds_more_than_three_times_the_pages(build_tiny, tmp_path):
    build_tiny("Llama", tmp_path, hidden_size=256)
    shape = load_shape(tmp_path)
    small = {"kv_memory_bytes": 1 << 21, "max_running": 1024}
    plain = page_count(EngineConfig(**small), shape, 256)
    packed = page_count(EngineConfig(**small, kv_cache="int8"), shape, 256)
    assert packed > 3.7 * plain


@pytest.mark.parametrize(
    ("files", "line"),
    [
        ([], "holds no config.json"),
        (["model.Q4_K_M.gguf"], "llama-server"),
        (["config.json", "pytorch_model.bin"], "holds no safetensors"),
    ],
)
def test_a_folder_that_is_no_model_is_refused_with_what_it_lacks(tiny, tmp_path, files, line):
    for name in files:
        source = tiny[0] / name
        (tmp_path / name).write_bytes(source.read_bytes() if source.is_file() else b"x")
    with pytest.raises(ModelRefused, match=line):
        load_engine(EngineConfig(model=str(tmp_path)))


def test_a_gguf_file_is_refused_with_the_alternative():
    with pytest.raises(ModelRefused, match="llama-server"):
        load_engine(EngineConfig(model="models/model.Q4_K_M.gguf"))
