from __future__ import annotations

import random

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from local_models.attention import Span
from local_models.config import EngineConfig
from local_models.cuda import Batch, CudaModel, _attend_by_varlen, attend_by_table
from local_models.engine import Engine, load_engine
from local_models.errors import ModelRefused
from local_models.model import Model
from local_models.sequence import SamplingParams
from local_models.shape import load_shape
from local_models.weights import (
    HalfInt4Linear,
    HalfInt8Linear,
    Weights,
    load_tensors,
    quantize_rows,
)
from tests.local_models.conftest import expected

GREEDY = SamplingParams(temperature=0, ignore_eos=True)
NO_GPU = "this machine has no GPU; what is skipped has never run"


def on_the_cpu(folder) -> CudaModel:
    """The GPU's model with everything but its kernels: float32, no capture."""
    return CudaModel(load_shape(folder), Weights(load_tensors(folder), "none"))


def prompts(n: int) -> list[list[int]]:
    rng = random.Random(2)
    return [[rng.randrange(3, 300) for _ in range(rng.randrange(1, 70))] for _ in range(n)]


def test_attention_by_table_gives_the_same_tokens_under_any_schedule(tiny):
    folder, model = tiny
    config = EngineConfig(quantize="none", max_running=6, step_tokens=24, draft_until_running=8)
    engine = Engine(config, on_the_cpu(folder))
    rng = random.Random(9)
    waiting = [(p, rng.randrange(1, 30)) for p in prompts(12)]
    started = []
    while waiting or engine.has_work:
        if waiting and rng.random() < 0.5:
            prompt, n_new = waiting.pop()
            started.append((engine.add(prompt, GREEDY, max_new_tokens=n_new), n_new))
        if engine.scheduler.running and rng.random() < 0.1:
            engine.scheduler.preempt(rng.choice(engine.scheduler.running))
        engine.step()
    for sequence, n_new in started:
        prompt = sequence.tokens[: sequence.n_prompt]
        assert sequence.tokens[sequence.n_prompt :] == expected(model, prompt, n_new)


def test_a_padded_decode_step_equals_an_unpadded_one(tiny):
    folder, _ = tiny
    model = on_the_cpu(folder)
    model.allocate(16, 16)
    spans = [Span(0, 20, 0, [4, 9]), Span(20, 30, 0, [2, 7]), Span(50, 5, 0, [11])]
    model.forward(list(range(3, 58)), spans, [])
    decode = [Span(0, 1, 20, [4, 9]), Span(1, 1, 30, [2, 7]), Span(2, 1, 5, [11])]
    padded = model.forward([60, 61, 62], decode, [0, 1, 2])
    rows = torch.arange(3)
    plain = model._model.compute(
        torch.tensor([60, 61, 62]), rows, model._batch(decode), model._cache
    )
    assert torch.allclose(padded, plain, atol=1e-5)
    assert list(model._graphs) == [(4, 2)]


def test_torchs_variable_length_attention_takes_the_batch(tiny):
    # Shapes alone: the kernel behind it exists on CUDA only.
    with torch.device("meta"):
        cache = torch.empty(8, 16, 2, 64, dtype=torch.bfloat16)
        q = torch.empty(5, 4, 64, dtype=torch.bfloat16)
        long, short = (torch.empty(5, dtype=kind) for kind in (torch.int64, torch.int32))
        table, starts = (torch.empty(n, dtype=torch.int32) for n in ((2, 3), (3,)))
        batch = Batch(long, long, table, short[:2], starts, long[:4].view(2, 2), long)
        assert _attend_by_varlen(q, cache, cache, batch).shape == q.shape


def test_a_row_sees_its_own_sequence_up_to_itself():
    keys = torch.zeros(3, 2, 1, 4)
    values = torch.arange(6.0).view(3, 2, 1, 1).expand(3, 2, 1, 4)
    places = torch.tensor([0, 1, 2])
    batch = Batch(
        positions=torch.tensor([2, 0, 1]),
        slots=places,
        table=torch.tensor([[1, 0], [2, 2]], dtype=torch.int32),
        seen=torch.tensor([3, 2], dtype=torch.int32),
        starts=torch.tensor([0, 1, 3], dtype=torch.int32),
        rows=torch.tensor([[0, 0], [1, 2]]),
        places=torch.tensor([0, 2, 3]),
    )
    out = attend_by_table(torch.zeros(3, 1, 4), keys, values, batch)
    # All scores are equal, so each row gets the mean of the values it sees: pages 1, 0 and page 2.
    assert out[:, 0, 0].tolist() == pytest.approx([(2 + 3 + 0) / 3, 4.0, 4.5])


@pytest.mark.parametrize("n_rows", [1, 40])
def test_int8_weights_under_bfloat16_compute_the_rounded_product(n_rows):
    torch.manual_seed(0)
    weight, x = torch.randn(64, 96), torch.randn(n_rows, 96).bfloat16()
    codes, scale = quantize_rows(weight)
    bias = torch.randn(64).bfloat16()
    found = HalfInt8Linear(codes, scale, bias)(x.clone()).float()
    wanted = x.float() @ (codes.float() * scale[:, None]).T + bias.float()
    assert torch.nn.functional.cosine_similarity(found, wanted).min() > 0.9999


def test_int4_weights_under_bfloat16_have_the_kernels_shapes():
    # The packing and the product exist on CUDA only; their shapes are known without.
    with FakeTensorMode():
        layer = HalfInt4Linear(torch.empty(64, 128), None)
        assert layer(torch.empty(3, 128, dtype=torch.bfloat16)).shape == (3, 64)


def test_cuda_without_a_gpu_is_refused_in_one_line(tiny, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelRefused, match="no CUDA device"):
        load_engine(EngineConfig(model=str(tiny[0]), device="cuda"))


def test_an_int8_cache_is_refused_on_cuda(tiny):
    with pytest.raises(ModelRefused, match="for the CPU"):
        on_the_cpu(tiny[0]).allocate(8, 16, "int8")


@pytest.mark.skipif(not torch.cuda.is_available(), reason=NO_GPU)
@pytest.mark.parametrize(("quantize", "least"), [("none", 0.999), ("int8", 0.995), ("int4", 0.97)])
def test_the_gpu_computes_what_the_cpu_computes(build_tiny, tmp_path, quantize, least):
    build_tiny("Qwen3", tmp_path, hidden_size=128, intermediate_size=256, head_dim=64)
    shape, tensors = load_shape(tmp_path), load_tensors(tmp_path)
    here = Model(shape, Weights(tensors, "none"))
    there = CudaModel(shape, Weights(tensors, quantize, "cuda", torch.bfloat16))
    pages = [3, 1, 2]
    for model in (here, there):
        model.allocate(4, 16)
    steps = [(list(range(3, 33)), 0), ([50], 30), ([51], 31)]
    for tokens, position in steps:
        span, wanted = Span(0, len(tokens), position, pages), range(len(tokens))
        found = there.forward(tokens, [span], wanted).cpu()
        likeness = torch.nn.functional.cosine_similarity(
            found, here.forward(tokens, [span], wanted)
        )
        assert likeness.min() > least
