"""YAML documents whose mistakes are told with file, line, field, value, and what is allowed.

Owns parsing with positions and the translation of pydantic's complaints. Knows no schema.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from policies.errors import DocumentErrors

Path = tuple[str | int, ...]
M = TypeVar("M", bound=BaseModel)
_SHOWN = 80
_MAX_CHARACTERS = 100_000
_MAX_DEPTH = 50
_MAX_NODES = 50_000  # aliases unfolded: a few lines of them can stand for billions of values


@dataclass(frozen=True, slots=True)
class DocumentError:
    """One mistake; `line` counts from 1, None where the document has no lines (JSON bodies)."""

    file: str
    line: int | None
    field: str
    value: str
    allowed: str
    nearest: str | None = None

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        text = f"{place}: {self.field or '(document)'}: {self.value} is not allowed; {self.allowed}"
        return f"{text}; did you mean {self.nearest!r}?" if self.nearest else text


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed document: plain data, and the line on which each field stands."""

    data: Any
    source: str
    lines: Mapping[Path, int]

    def error(
        self, path: Sequence[str | int], value: object, allowed: str, nearest: str | None = None
    ) -> DocumentError:
        """Return the error that the value at this path is not allowed."""
        steps = tuple(path)
        while steps and steps not in self.lines:
            steps = steps[:-1]
        return DocumentError(
            self.source, self.lines.get(steps), _field(path), _shown(value), allowed, nearest
        )


def load_document(text: str, source: str) -> Document:
    """Return the document of a YAML (or JSON) text.

    Raises:
        DocumentErrors: the text is not YAML, names a key twice, holds no mapping, or is too large.
    """
    if len(text) > _MAX_CHARACTERS:
        raise _refused(source, None, f"it may have at most {_MAX_CHARACTERS} characters")
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        lines, twice = _positions(node, source) if node is not None else ({}, [])
        if twice:
            raise DocumentErrors(twice)
        data = None if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise _refused(source, line, f"it must be YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise _refused(source, None, f"it must be YAML: {error}") from error
    except RecursionError as error:
        raise _refused(source, None, "it is nested too deeply") from error
    if not isinstance(data, dict):
        allowed = "a mapping of keys to values is needed"
        raise DocumentErrors([DocumentError(source, 1, "", _shown(data), allowed)])
    return Document(data, source, lines)


def _refused(source: str, line: int | None, allowed: str) -> DocumentErrors:
    return DocumentErrors([DocumentError(source, line, "", "this text", allowed)])


def _positions(root: yaml.Node, source: str) -> tuple[dict[Path, int], list[DocumentError]]:
    """Return the line of every path, and an error for each key that stands twice."""
    lines: dict[Path, int] = {(): root.start_mark.line + 1}
    twice: list[DocumentError] = []
    waiting: list[tuple[yaml.Node, Path]] = [(root, ())]
    while waiting:
        node, path = waiting.pop()
        if len(lines) > _MAX_NODES:
            raise _refused(source, None, f"it may have at most {_MAX_NODES} values")
        if len(path) > _MAX_DEPTH:  # an alias of its own parent has no end
            raise _refused(source, node.start_mark.line + 1, "it is nested too deeply")
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                name = str(key.value)
                line = key.start_mark.line + 1
                if name in seen:
                    field = _field((*path, name))
                    twice.append(DocumentError(source, line, field, name, "a key stands once"))
                seen.add(name)
                lines[(*path, name)] = line
                waiting.append((value, (*path, name)))
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                lines[(*path, index)] = value.start_mark.line + 1
                waiting.append((value, (*path, index)))
    return lines, twice


def validate(model: type[M], document: Document) -> M:
    """Return the document's data as the pydantic model.

    Raises:
        DocumentErrors: every wrong value of the document.
    """
    try:
        return model.model_validate(document.data)
    except ValidationError as error:
        problems = [_translate(model, document, problem) for problem in error.errors()]
        raise DocumentErrors(sorted(problems, key=lambda found: found.line or 0)) from error


def _translate(model: type[BaseModel], document: Document, problem: Any) -> DocumentError:
    kind, value, told = problem["type"], problem["input"], problem.get("ctx", {})
    path = _written(document, problem["loc"])
    if kind == "extra_forbidden":
        name = str(problem["loc"][-1])
        known = _names_at(model, problem["loc"][:-1])
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        allowed = "known keys are " + ", ".join(known) if known else "no key is known here"
        return document.error(path, name, allowed, near[0] if near else None)
    if kind == "missing":
        return document.error(path, "nothing", "a value is required")
    if kind == "union_tag_not_found":
        key = told["discriminator"].strip("'")
        return document.error((*path, key), "nothing", "a value is required")
    if kind == "union_tag_invalid":
        key, names = told["discriminator"].strip("'"), _options(told["expected_tags"])
        allowed, tag = "one of " + ", ".join(names), str(told["tag"])
        return document.error((*path, key), tag, allowed, _nearest(tag, names))
    nearest = None
    if kind in ("literal_error", "enum") and isinstance(value, str):
        nearest = _nearest(value, _options(str(told.get("expected", ""))))
    message = problem["msg"].removeprefix("Value error, ")
    return document.error(path, value, message[:1].lower() + message[1:], nearest)


def _options(text: str) -> list[str]:
    return [option.strip("' ") for option in text.replace(" or ", ", ").split(",")]


def _nearest(name: str, known: Sequence[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=0.5)), None)


def _written(document: Document, location: Sequence[Any]) -> Path:
    """Return the steps of pydantic's location that the author wrote, or should have written.

    The others name which of several models was tried.
    """
    path: list[str | int] = []
    data = document.data
    for place, step in enumerate(location, 1):
        is_there = step in data if isinstance(data, Mapping) else isinstance(step, int)
        if is_there and isinstance(data, Mapping | list):
            data = data[step]
        elif place < len(location) or not isinstance(data, Mapping):
            continue
        path.append(step)
    return tuple(path)


def _names_at(model: type[BaseModel], location: Sequence[Any]) -> list[str]:
    """Return the keys that the model knows at a location, [] where it is no model."""
    found: list[type[BaseModel]] = [model]
    for step in location:
        chosen = [owner for owner in found if step in _kinds_of(owner)]
        following: list[type[BaseModel]] = []
        for owner in found:
            info = owner.model_fields.get(str(step))
            following += _models_in(info.annotation) if info else [owner]
        found = chosen or following
    return sorted({name for owner in found for name in owner.model_fields})


def _kinds_of(model: type[BaseModel]) -> tuple[Any, ...]:
    """Return the values of `kind` by which the model is told from its siblings."""
    kind = model.model_fields.get("kind")
    return () if kind is None else get_args(kind.annotation)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for argument in get_args(annotation) for found in _models_in(argument)]


def _field(path: Sequence[str | int]) -> str:
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
