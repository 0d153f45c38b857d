"""Where a model's files are: the bundled folder, a folder of the caller's, or a hub snapshot."""

from __future__ import annotations

from pathlib import Path

from local_models.errors import ModelRefused

BUNDLED = Path(__file__).parent / "bundled"
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
        return folder
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ModelRefused(f"{name!r} is no folder, and hub ids look like owner/name.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=_WANTED))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise ModelRefused(f"The hub does not give {name!r}: {error}") from error
