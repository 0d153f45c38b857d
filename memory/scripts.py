"""The Lua files of this package, and the part of a Redis handle that runs them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any, Protocol


class Script(Protocol):
    """A Lua script registered on a connection pool."""

    async def __call__(self, keys: Sequence[str], args: Sequence[str | bytes | int]) -> Any:
        """Run it and return Redis's reply."""
        ...


class RedisHandle(Protocol):
    """The part of `redis.asyncio.Redis` (or RedisCluster) that this package uses."""

    def register_script(self, script: str) -> Any:
        """Return a callable Script that loads itself where the server lost it."""
        ...

    def pipeline(self, transaction: bool = ...) -> Any:
        """Return a pipeline: one round trip for several commands."""
        ...


def script_of(redis: RedisHandle, name: str) -> Script:
    """Return one of this package's Lua files, registered on a handle."""
    text = files("memory").joinpath(f"{name}.lua").read_text(encoding="utf-8")
    script: Script = redis.register_script(text)
    return script
