from __future__ import annotations

import pytest
import torch

from local_models.attention import Span
from local_models.bundled.train import quantize_int8
from local_models.config import EngineConfig
from local_models.engine import load_engine
from local_models.model import Model
from local_models.native import NativeModel, build_library
from local_models.sequence import SamplingParams
from local_models.shape import load_shape
from local_models.weights import Weights, load_weights

GREEDY = SamplingParams(temperature=0, ignore_eos=True)
WIDE = {"hidden_size": 96, "intermediate_size": 160, "head_dim": 32, "vocab_size": 299}


@pytest.fixture(scope="module")
def library():
    found = build_library()
    if found is None:
        pytest.skip("no C compiler on this machine")
    return found


def logits_of(model, chunks: list[list[int]], kv_cache: str = "full") -> torch.Tensor:
    """Run the chunks of one sequence; return the logits of every row."""
    model.allocate(8, 16, kv_cache)
    rows, position = [], 0
    for chunk in chunks:
        span = Span(0, len(chunk), position, [5, 2, 7, 1, 0, 3])
        rows.append(model.forward(chunk, [span], range(len(chunk))))
        position += len(chunk)
    return torch.cat(rows)


def similarity(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one, other).median())


def rounded_to_four_bits(matrix: torch.Tensor) -> torch.Tensor:
    groups = matrix.view(matrix.shape[0], -1, 32)
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    step = (high - low) / 15
    return (((groups - low) / step).round() * step + low).view_as(matrix)


@pytest.mark.parametrize("architecture", ["Llama", "Qwen2", "Qwen3"])
def test_the_c_decoder_computes_what_torch_computes_at_8_bits(
    library, build_tiny, tmp_path, architecture
):
    model = build_tiny(architecture, tmp_path, **WIDE)
    shape, weights = load_shape(tmp_path), Weights(quantize_int8(model.state_dict()), "int8")
    chunks = [list(range(3, 40)), [50], [51], list(range(60, 80))]
    expected = logits_of(Model(shape, weights), chunks)
    found = logits_of(NativeModel(shape, weights, 8, library, 1), chunks)
    # Both round the same numbers; where a tie falls the other way, later layers drift a little.
    assert similarity(found, expected) > 0.9995


def test_the_c_decoder_computes_what_torch_computes_at_4_bits(library, build_tiny, tmp_path):
    model = build_tiny("Llama", tmp_path, **WIDE)
    shape, state = load_shape(tmp_path), dict(model.state_dict())
    four = NativeModel(shape, Weights(state, "int4"), 4, library, 1)
    for name, tensor in state.items():
        if "_proj" in name:
            state[name] = rounded_to_four_bits(tensor)
    chunks = [list(range(3, 40)), [50], [51]]
    expected = logits_of(Model(shape, Weights(state, "none")), chunks)
    # What remains is the rounding of activations.
    assert similarity(logits_of(four, chunks), expected) > 0.995


@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_batched_equals_single_to_the_bit(library, build_tiny, tmp_path, quantize):
    build_tiny("Qwen3", tmp_path, **WIDE)
    config = EngineConfig(model=str(tmp_path), quantize=quantize, step_tokens=32)
    prompts = [list(range(3 + i, 20 + 5 * i)) for i in range(7)]
    alone = [load_engine(config).generate([p], GREEDY, 15)[0] for p in prompts]
    assert load_engine(config).generate(prompts, GREEDY, 15) == alone


def test_two_threads_change_nothing(library, build_tiny, tmp_path):
    build_tiny("Qwen3", tmp_path, **WIDE)
    shape, weights = load_shape(tmp_path), load_weights(tmp_path, "int8")
    one = logits_of(NativeModel(shape, weights, 8, library, 1), [list(range(3, 60))])
    two = logits_of(NativeModel(shape, weights, 8, library, 2), [list(range(3, 60))])
    assert torch.equal(one, two)


@pytest.mark.parametrize("architecture", ["Llama", "Qwen3"])
def test_an_int8_cache_is_the_same_in_c_and_in_torch(library, build_tiny, tmp_path, architecture):
    model = build_tiny(architecture, tmp_path, **WIDE)
    shape, weights = load_shape(tmp_path), Weights(quantize_int8(model.state_dict()), "int8")
    chunks = [list(range(3, 40)), [50], [51], list(range(60, 80))]
    expected = logits_of(Model(shape, weights), chunks, "int8")
    found = logits_of(NativeModel(shape, weights, 8, library, 1), chunks, "int8")
    assert similarity(found, expected) > 0.9995
    full = logits_of(NativeModel(shape, weights, 8, library, 1), chunks)
    assert 0.995 < similarity(found, full) < 1.0


def test_an_int8_cache_batches_to_the_bit(library, build_tiny, tmp_path):
    build_tiny("Qwen3", tmp_path, **WIDE)
    config = EngineConfig(model=str(tmp_path), kv_cache="int8", step_tokens=32)
    prompts = [list(range(3 + i, 20 + 5 * i)) for i in range(7)]
    alone = [load_engine(config).generate([p], GREEDY, 15)[0] for p in prompts]
    assert load_engine(config).generate(prompts, GREEDY, 15) == alone
