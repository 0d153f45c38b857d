"""turnwise version."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of

from gateway.cli.output import JsonFlag, say, say_json


def version(as_json: JsonFlag = False) -> None:
    """Print the version."""
    try:
        text = version_of("turnwise")
    except PackageNotFoundError:
        text = "unknown (run from a source folder)"
    if as_json:
        say_json({"version": text})
    else:
        say(text)
