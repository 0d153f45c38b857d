"""What a model's folder says about sampling, for requests that say nothing themselves.

Owns the reading of generation_config.json's sampling fields; knows no request.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from local_models.sequence import SamplingParams

GREEDY = SamplingParams(temperature=0)


def load_sampling(folder: Path) -> SamplingParams:
    """Return how a request that names no temperature is sampled: as `generate` would do it.

    `do_sample` decides, and is false where it is missing: then the likeliest token is taken. A
    folder that samples brings its temperature, top_p, top_k, min_p and repetition penalty.
    Source: transformers, GenerationConfig.
    """
    path = folder / "generation_config.json"
    if not path.is_file():
        return GREEDY
    config = json.loads(path.read_text("utf-8"))
    penalty = _number(config, "repetition_penalty", 1.0)
    if not config.get("do_sample", False):
        return SamplingParams(temperature=0, repetition_penalty=penalty)
    return SamplingParams(
        temperature=_number(config, "temperature", 1.0),
        top_p=_number(config, "top_p", 1.0),
        top_k=int(_number(config, "top_k", 50)),
        min_p=_number(config, "min_p", 0.0),
        repetition_penalty=penalty,
    )


def _number(config: dict[str, Any], name: str, default: float) -> float:
    value = config.get(name)
    is_number = isinstance(value, int | float) and math.isfinite(value) and value >= 0
    return float(value) if is_number and value is not None else default
