"""turnwise policy: check a file, show and change what a tenant's turns are routed by."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.output import (
    CommandFailed,
    ConfigPath,
    JsonFlag,
    load_settings_or_fail,
    note,
    say,
    say_json,
)

if TYPE_CHECKING:
    from gateway.settings import Settings
    from policies.policy import Policy

app = typer.Typer(help="Check, show and change routing policies.", no_args_is_help=True)


@app.command()
def check(
    files: Annotated[list[Path], typer.Argument(help="Policy files.")],
    config: ConfigPath = None,
    as_json: JsonFlag = False,
) -> None:
    """Check policy files against the configured models; exit code 1 when one is wrong."""
    from policies.errors import DocumentErrors

    settings = load_settings_or_fail(config, is_dry=True)
    problems: list[dict[str, Any]] = []
    for path in files:
        try:
            policy = read_policy(path, settings)
        except DocumentErrors as errors:
            problems += [error_to_wire(error) for error in errors.errors]
            if not as_json:
                note(str(errors))
        else:
            if not as_json:
                tiers = " < ".join(
                    f"{tier.name} ({', '.join(tier.models)})" for tier in policy.tiers
                )
                say(f"{path}: ok: {tiers}")
    if as_json:
        say_json({"ok": not problems, "errors": problems})
    if problems:
        raise SystemExit(1)


def read_policy(path: Path, settings: Settings) -> Policy:
    """Return the policy of a file.

    Raises:
        CommandFailed: the file cannot be read as text.
        DocumentErrors: it holds wrong values.
    """
    from policies.document import load_document
    from policies.policy import parse_policy

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise CommandFailed(f"{path} cannot be read: {reason}", code=2) from error
    return parse_policy(load_document(text, str(path)), settings.catalog, name=path.stem)


def policy_named(name: str, settings: Settings) -> Policy:
    """Return the policy of a file, given its path or its name in the policy folders."""
    path = Path(name)
    if path.suffix not in (".yaml", ".yml", ".json"):
        candidates = [folder / f"{name}.yaml" for folder in settings.policy_dirs]
        found = [candidate for candidate in candidates if candidate.exists()]
        if not found:
            folders = ", ".join(str(folder) for folder in settings.policy_dirs)
            raise CommandFailed(f"there is no policy {name!r} in {folders}", code=2)
        path = found[0]
    return read_policy(path, settings)


def error_to_wire(error: Any) -> dict[str, Any]:
    """Return one mistake of a document with its place and remedy."""
    return {
        "file": error.file,
        "line": error.line,
        "field": error.field,
        "value": error.value,
        "allowed": error.allowed,
        "nearest": error.nearest,
    }
