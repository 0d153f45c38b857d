from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the extra `local` is not installed")
pytest.importorskip("transformers", reason="the extra `local` is not installed")

SIZES = {
    "vocab_size": 300,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "eos_token_id": 2,
    "bos_token_id": 1,
    "pad_token_id": 0,
}


def expected(model, prompt: list[int], n_new: int) -> list[int]:
    """Return what transformers' own `generate` says greedily: the oracle of every engine."""
    with torch.no_grad():
        out = model.generate(
            torch.tensor([prompt]),
            max_new_tokens=n_new,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
    return out[0, len(prompt) :].tolist()


def save_tiny(architecture: str, folder: Path, **changes):
    """Save a random tiny model of one architecture; return transformers' own copy of it."""
    import transformers

    torch.manual_seed(5)
    config_class = getattr(transformers, f"{architecture}Config")
    config = config_class(**(SIZES | {"tie_word_embeddings": False} | changes))
    model = getattr(transformers, f"{architecture}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # Wider than the default initialisation, so that the likeliest token is clear.
            parameter.copy_(torch.randn_like(parameter) * (0.3 if parameter.ndim > 1 else 0.2))
            if parameter.ndim == 1:
                parameter.add_(1.0)
    model.save_pretrained(folder)
    return model


def give_tokenizer(folder: Path) -> None:
    """Save a byte-level tokenizer of 300 ids with a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = ["<pad>", "<s>", "<|im_end|>", "<|im_start|>", *alphabet]
    tokenizer = Tokenizer(models.BPE(vocab={name: at for at, name in enumerate(names)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(names[:4])
    tokenizer.save(str(folder / "tokenizer.json"))
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}:{{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant:{% endif %}"
    )
    config = {"chat_template": template, "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A tiny Qwen3 with a tokenizer: (folder, transformers' model)."""
    folder = tmp_path_factory.mktemp("tiny")
    model = save_tiny("Qwen3", folder, head_dim=16)
    give_tokenizer(folder)
    return folder, model


@pytest.fixture
def engine(tiny):
    from local_models.config import EngineConfig
    from local_models.engine import load_engine

    return load_engine(EngineConfig(model=str(tiny[0]), quantize="none", max_running=8))


@pytest.fixture
def build_tiny():
    """The function that saves a random tiny model of one architecture."""
    return save_tiny
