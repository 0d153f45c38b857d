"""Where a model's files are: the bundled folder, a folder of the caller's, or a hub snapshot."""

from __future__ import annotations

from pathlib import Path

from local_models.errors import ModelRefused

BUNDLED = Path(__file__).parent / "bundled"
_GGUF = (
    "GGUF weights are llama.cpp's; serve them with llama-server and name that as a backend of kind "
    "openai, or give the folder with the safetensors."
)
_WANTED = ["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt"]


def find_model(name: str) -> Path:
    """Return the folder of `bundled`, of a path, or of a hub id (downloaded once, then cached).

    Raises:
        ModelRefused: nothing is there under that name.
    """
    if name == "bundled":
        return BUNDLED
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _checked(folder, name)
    if folder.suffix == ".gguf":
        raise ModelRefused(f"{name!r}: {_GGUF}")
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ModelRefused(f"{name!r} is no folder, and hub ids look like owner/name.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, allow_patterns=_WANTED))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        said = " ".join(str(error).split())
        raise ModelRefused(f"The hub does not give {name!r}: {said}") from error
    return _checked(folder, name)


def _checked(folder: Path, name: str) -> Path:
    """Return a folder that looks like a model's; what its files say is others' to check."""
    if (folder / "config.json").is_file():
        return folder
    # A hub's GGUF repository arrives without its weights, which were not asked for.
    if any(folder.glob("*.gguf")) or "gguf" in name.lower():
        raise ModelRefused(f"{name!r}: {_GGUF}")
    raise ModelRefused(
        f"{name!r} holds no config.json; a model's folder has config.json, *.safetensors and "
        "tokenizer.json."
    )
