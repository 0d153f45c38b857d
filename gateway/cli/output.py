"""How commands speak: data on stdout, one clear line on stderr when something is wrong.

Exit codes: 0 done, 1 it did not work, 2 the command or the configuration is wrong.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from gateway.settings import Settings

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ConfigPath = Annotated[
    Path | None,
    typer.Option("--config", help="turnwise.yaml; without one, the embedded default."),
]

_EXTRAS = {
    "litellm": "providers",
    "psycopg": "postgres",
    "torch": "local",
    "transformers": "local",
    "safetensors": "local",
    "sklearn": "train",
    "onnx": "train",
    "matplotlib": "train",
    "sentence_transformers": "train",
}


class CommandFailed(Exception):
    """A command cannot go on; its text is one line for the person, `code` the exit code."""

    def __init__(self, message: str, *, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


def say(text: str = "") -> None:
    """Print a line of data on stdout."""
    typer.echo(text)


def note(text: str) -> None:
    """Print a remark on stderr."""
    typer.echo(text, err=True)


def say_json(data: Any) -> None:
    """Print data as JSON on stdout."""
    typer.echo(json.dumps(data, indent=2, ensure_ascii=False, default=str))


def say_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under their headings, columns aligned, plain enough to cut and grep."""
    lines = [list(columns), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        typer.echo("  ".join(cells).rstrip())


def load_settings_or_fail(config: Path | None, *, is_dry: bool = False) -> Settings:
    """Return the settings of this process's environment and the given file."""
    from gateway.settings import load_settings, process_environ

    try:
        return load_settings(config, process_environ(), is_dry=is_dry)
    except FileNotFoundError as error:
        raise CommandFailed(f"there is no such file: {error.filename}", code=2) from error


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn the failures a person can do something about into one line and an exit code.

    What is not among them is a defect, and keeps its traceback.
    """
    try:
        yield
    except CommandFailed as error:
        _leave(str(error), error.code)
    except OSError as error:
        _leave(_system_line(error), 1)
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        _leave(f"{error.name} is not installed: pip install 'turnwise[{extra}]'", 1)
    except Exception as error:
        known = _known_failure(error)
        if known is None:
            raise
        _leave(*known)


def _known_failure(error: Exception) -> tuple[str, int] | None:
    """Return line and exit code of our own errors and the database's, None for anything else."""
    from sqlalchemy.exc import SQLAlchemyError

    from gateway.errors import GatewayError
    from policies.errors import DocumentErrors, PolicyError

    if isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        return _known_failure(error.exceptions[0])
    if isinstance(error, DocumentErrors):
        return str(error), 2
    if isinstance(error, OSError):
        return _system_line(error), 1
    if isinstance(error, GatewayError | PolicyError):
        return str(error), 1
    if isinstance(error, SQLAlchemyError):
        return f"the database says: {str(error).splitlines()[0]}", 1
    return None


def _system_line(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return f"the disk is full{f' at {error.filename}' if error.filename else ''}"
    if error.errno == errno.EADDRINUSE:
        return f"the port is in use by another program: {error}"
    if error.errno in (errno.EEXIST, errno.ENOTDIR) and error.filename:
        return f"{error.filename} is not a folder"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and error.filename:
        return f"no permission for {error.filename}"
    return str(error)


def _leave(line: str, code: int) -> NoReturn:
    for part in line.splitlines():
        note(f"turnwise: {part}")
    raise SystemExit(code)


def facts_of(values: Mapping[str, object]) -> str:
    """Return `name=value` pairs on one line, for a table's last column."""
    return " ".join(f"{name}={value}" for name, value in values.items())
