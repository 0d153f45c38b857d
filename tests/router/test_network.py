"""The exported graph computes what the fitted network computes."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from router.features import FACTS
from router.network import (
    FORMATS,
    N_KINDS,
    N_LOGITS,
    N_OUTPUTS,
    SCALARS,
    Weights,
    forward,
    onnx_bytes,
)

pytest.importorskip("onnx")

VOCABULARY, DIM, WIDTH = 200, 8, 6


def some_weights(seed: int) -> Weights:
    draw = np.random.default_rng(seed)
    n_inputs = DIM + N_KINDS + 1 + len(FACTS)

    def floats(*shape: int) -> np.ndarray:
        return draw.normal(size=shape).astype(np.float32)

    table = draw.integers(-127, 128, (VOCABULARY, DIM + N_KINDS + 1)).astype(np.int8)
    table[:, DIM:-1] = abs(table[:, DIM:-1])
    return Weights(
        table=table,
        scale=abs(floats(DIM + N_KINDS + 1)) / 50,
        mean=floats(n_inputs),
        spread=abs(floats(n_inputs)) + 0.5,
        hidden=floats(n_inputs, WIDTH),
        hidden_bias=floats(WIDTH),
        heads=floats(n_inputs + WIDTH, N_LOGITS) / 4,
        heads_bias=floats(N_LOGITS),
        usual=floats(len(FORMATS)),
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
    (outputs,) = session.run(None, {"tokens": np.array(ids, np.int32), "facts": facts[None]})
    assert outputs.shape == (1, N_OUTPUTS)
    np.testing.assert_allclose(outputs[0], forward(weights, ids, facts.tolist()), atol=1e-4)


def test_probabilities_are_probabilities():
    outputs = forward(some_weights(0), [1, 2, 3], [0.0] * len(FACTS))[: len(SCALARS)]
    assert ((outputs >= 0) & (outputs <= 1)).all()


def test_a_turn_of_one_format_alone_has_the_level_of_that_format():
    weights = some_weights(0)
    of_formats = slice(len(FORMATS) + 2, 2 * len(FORMATS) + 2)
    weights.heads[:] = 0
    weights.heads_bias[:] = 0
    weights.heads_bias[of_formats] = [0, 0, 60, 0, 0, 0, 0]
    weights.heads_bias[2] = 1.5
    score = forward(weights, [1, 2, 3], [0.0] * len(FACTS))[0]
    assert score == pytest.approx(1 / (1 + np.exp(-1.5)), abs=1e-5)
