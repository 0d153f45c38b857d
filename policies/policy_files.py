"""Policy files: NAME.yaml in the folders of the configuration, then those that are packaged.

Owns where they are and what was read of them last. A file that breaks leaves the last good policy.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from policies.errors import DocumentErrors, UnknownPolicy
from policies.policy import Policy

log = logging.getLogger("turnwise.policies")

Parse = Callable[[str, str, str], Policy]
"""(text, source, name) -> the policy; raises DocumentErrors."""


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """A file as it was read last; `told` is what was wrong with it since.

    `is_numbered` says whether the policy's revision was looked up.
    """

    text: str
    policy: Policy
    is_numbered: bool = False
    told: str = ""


class PolicyFiles:
    """The files that policies were asked for by name.

    Args:
        folders: searched in order, before the packaged files.
        parse: makes a policy of a text.
    """

    def __init__(self, folders: Sequence[Path], parse: Parse) -> None:
        self._folders = tuple(folders)
        self._parse = parse
        self._read: dict[str, PolicyFile] = {}

    def policy_of(self, name: str) -> Policy:
        """Return the policy of a file as it was read last.

        Raises:
            UnknownPolicy: there is no such file.
            DocumentErrors: it was never read before, and has a wrong value.
        """
        known = self._read.get(name)
        if known is None:
            text, source = self.find(name)
            known = self._read[name] = PolicyFile(text, self._parse(text, source, name))
        return known.policy

    def find(self, name: str) -> tuple[str, str]:
        """Return the text of a file, and where it is.

        Raises:
            UnknownPolicy: there is no such file.
        """
        for folder in self._folders:
            path = folder / f"{name}.yaml"
            if path.is_file():
                return path.read_text(encoding="utf-8"), str(path)
        packaged = files("policies").joinpath(f"{name}.yaml")
        if packaged.is_file():
            return packaged.read_text(encoding="utf-8"), f"policies/{name}.yaml"
        names = [path.stem for folder in self._folders for path in folder.glob("*.yaml")]
        near = difflib.get_close_matches(name, [*names, "default"], n=1, cutoff=0.5)
        raise UnknownPolicy(name, near[0] if near else None)

    def read_anew(self) -> None:
        """Follow what was written to the files; blocks, and is run in a worker thread."""
        for name, known in list(self._read.items()):
            try:
                text, source = self.find(name)
                if text != known.text:
                    self._read[name] = PolicyFile(text, self._parse(text, source, name))
                    log.info("policy file %s was read anew", source)
            except (DocumentErrors, UnknownPolicy, OSError, UnicodeDecodeError) as error:
                # The last good one goes on; told once per change of the file.
                if str(error) != known.told:
                    self._read[name] = replace(known, told=str(error))
                    log.error("policy file %r is not read anew: %s", name, error)

    def without_number(self) -> list[tuple[str, str]]:
        """Return name and text of each file whose revision was not looked up yet."""
        return [(name, each.text) for name, each in self._read.items() if not each.is_numbered]

    def number(self, name: str, text: str, revision: int) -> None:
        """Give a file's policy its revision, unless the file has another text by now."""
        known = self._read[name]
        if known.text == text:
            policy = replace(known.policy, revision=revision)
            self._read[name] = replace(known, policy=policy, is_numbered=True)
