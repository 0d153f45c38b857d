"""The exported graph computes what the fitted network computes."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from router.features import FACTS
from router.labels import DOMAINS, TASKS
from router.network import N_OUTPUTS, Weights, forward, onnx_bytes

pytest.importorskip("onnx")

VOCABULARY, DIM, KINDS, WIDTH = 200, 8, 5, 6


def some_weights(seed: int) -> Weights:
    draw = np.random.default_rng(seed)
    n_inputs = DIM + KINDS + len(FACTS)
    n_logits = 3 + len(TASKS) + len(DOMAINS)

    def floats(*shape: int) -> np.ndarray:
        return draw.normal(size=shape).astype(np.float32)

    return Weights(
        vectors=draw.integers(-127, 128, (VOCABULARY, DIM)).astype(np.int8),
        vector_scale=abs(floats(DIM)) / 50,
        counts=draw.integers(0, 128, (VOCABULARY, KINDS)).astype(np.int8),
        count_scale=abs(floats(KINDS)) / 50,
        mean=floats(n_inputs),
        spread=abs(floats(n_inputs)) + 0.5,
        hidden=floats(n_inputs, WIDTH),
        hidden_bias=floats(WIDTH),
        heads=floats(n_inputs + WIDTH, n_logits) / 4,
        heads_bias=floats(n_logits),
        task_levels=floats(len(TASKS)),
        mixing=floats(3),
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n_tokens", [1, 2, 100, 2000])
def test_onnx_equals_the_fitted_network(seed, n_tokens):
    weights = some_weights(seed)
    model = onnx_bytes(weights, version="t", vocabulary_size=VOCABULARY, about={})
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    draw = np.random.default_rng(seed + 100)
    ids = draw.integers(0, VOCABULARY, n_tokens).tolist()
    facts = draw.random(len(FACTS)).astype(np.float32)
    (outputs,) = session.run(None, {"tokens": np.array(ids, np.int32), "facts": facts})
    assert outputs.shape == (N_OUTPUTS,)
    np.testing.assert_allclose(outputs, forward(weights, ids, facts.tolist()), atol=2e-5)


def test_probabilities_are_probabilities():
    outputs = forward(some_weights(0), [1, 2, 3], [0.0] * len(FACTS))
    assert ((outputs >= 0) & (outputs <= 1)).all()
    tasks = outputs[5 : 5 + len(TASKS)]
    assert tasks.sum() == pytest.approx(1, abs=1e-5)
