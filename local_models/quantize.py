"""A model's folder -> the same folder in integers: `turnwise engine quantize FOLDER OUT --bits 4`.

Owns the writing of what `weights.py` reads: int8 matrices beside `NAME_scale`, 4-bit matrices as
pairs of codes beside `NAME_scale` and `NAME_low`. One tensor at a time is held in full precision.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from local_models.errors import LocalModelError, ModelRefused
from local_models.shape import load_shape
from local_models.store import find_model
from local_models.weights import (
    INT4_GROUP,
    load_tensors,
    pack_codes,
    quantize_groups,
    quantize_rows,
)

# Errors of these go straight into the choice, so they stay at 8 bits.
_ALWAYS_INT8 = ("model.embed_tokens.weight", "lm_head.weight")


def quantize_folder(folder: Path, out: Path, bits: int) -> None:
    """Write the model of `folder` with its matrices in 8 or 4 bits to the new folder `out`.

    Raises:
        ModelRefused: the model is not served here, is in integers already, or `out` holds files.
    """
    shape = load_shape(folder)
    if shape.quantized_bits is not None:
        raise ModelRefused(f"{folder} holds {shape.quantized_bits}-bit weights already.")
    if out.exists() and any(out.iterdir()):
        raise ModelRefused(f"{out} is not empty.")
    out.mkdir(parents=True, exist_ok=True)
    written: dict[str, torch.Tensor] = {}
    for name, tensor in load_tensors(folder).items():
        written |= _integers(name, tensor, bits)
    save_file(written, out / "model.safetensors", metadata={"format": "pt"})
    for file in folder.iterdir():
        is_weights = file.suffix in (".safetensors", ".bin") or file.name.endswith(".index.json")
        if file.is_file() and not is_weights and file.suffix in (".json", ".jinja", ".model"):
            shutil.copy(file, out)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["turnwise_quantization"] = {"bits": bits}
    (out / "config.json").write_text(json.dumps(config, indent=1), "utf-8")


def _integers(name: str, tensor: torch.Tensor, bits: int) -> dict[str, torch.Tensor]:
    if tensor.ndim != 2:
        return {name: tensor.float().contiguous()}
    if bits == 8 or name in _ALWAYS_INT8 or tensor.shape[1] % INT4_GROUP:
        codes, scale = quantize_rows(tensor.float())
        return {name: codes, f"{name}_scale": scale}
    codes, scale, low = quantize_groups(tensor.float())
    packed = pack_codes(codes).contiguous()
    return {name: packed, f"{name}_scale": scale.half(), f"{name}_low": low.half()}


def main(arguments: list[str] | None = None) -> int:
    """Write the folder; return 1 after one line on stderr when that cannot be done."""
    parser = argparse.ArgumentParser(prog="turnwise engine quantize", description=__doc__)
    parser.add_argument("model", help="a folder or a hub id")
    parser.add_argument("out", type=Path, help="a new folder")
    parser.add_argument("--bits", type=int, choices=(8, 4), default=8)
    options = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    try:
        quantize_folder(find_model(options.model), options.out, options.bits)
    except LocalModelError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    n_bytes = (options.out / "model.safetensors").stat().st_size
    sys.stdout.write(f"{options.out}: {n_bytes:,} bytes of weights\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
