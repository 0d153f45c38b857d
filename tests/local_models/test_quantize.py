from __future__ import annotations

import pytest
import torch

from local_models.config import EngineConfig
from local_models.engine import load_engine
from local_models.errors import ModelRefused
from local_models.quantize import main, quantize_folder
from local_models.sequence import SamplingParams
from local_models.weights import load_weights, pack_codes, unpack_codes

GREEDY = SamplingParams(temperature=0, ignore_eos=True)


def outputs(folder, quantize):
    engine = load_engine(EngineConfig(model=str(folder), quantize=quantize, max_running=2))
    return engine.generate([[5, 6, 7, 8], [9] * 20], GREEDY, 12)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_saved_folder_answers_as_the_model_quantized_at_load(build_tiny, tmp_path, bits):
    source, out = tmp_path / "source", tmp_path / "out"
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "head_dim": 16}
    build_tiny("Qwen3", source, **sizes)
    quantize_folder(source, out, bits)
    assert (out / "model.safetensors").stat().st_size < (
        source / "model.safetensors"
    ).stat().st_size / 2
    if bits == 8:
        assert outputs(out, "int8") == outputs(source, "int8")
    name = "model.layers.0.mlp.up_proj.weight"
    saved = load_weights(out, "int4").matrix(name)
    given = load_weights(source, "none").matrix(name)
    assert (saved - given).abs().max() <= given.abs().max() / (127 if bits == 8 else 12)
    assert outputs(out, "int4")


def test_codes_survive_packing():
    codes = torch.randint(0, 16, (5, 64), dtype=torch.uint8)
    assert torch.equal(unpack_codes(pack_codes(codes)), codes)


def test_integers_are_not_rounded_twice(build_tiny, tmp_path):
    build_tiny("Llama", tmp_path / "source")
    quantize_folder(tmp_path / "source", tmp_path / "out", 8)
    with pytest.raises(ModelRefused, match="already"):
        quantize_folder(tmp_path / "out", tmp_path / "again", 4)


def test_a_folder_with_files_is_never_written_over(build_tiny, tmp_path, capsys):
    build_tiny("Llama", tmp_path)
    assert main([str(tmp_path), str(tmp_path)]) == 1
    assert "not empty" in capsys.readouterr().err
