"""The command line: `turnwise COMMAND`, or `python -m gateway COMMAND`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of

import typer

from gateway.cli import demo, doctor, engine, keys, policy, serving
from gateway.cli.output import JsonFlag, one_line_errors, say, say_json

app = typer.Typer(
    name="turnwise",
    help="Conversational gateway with tiered model routing.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(serving.serve)
app.command()(demo.demo)
app.command()(doctor.doctor)
app.add_typer(keys.app, name="keys")
app.add_typer(policy.app, name="policy")
app.add_typer(engine.app, name="engine")


@app.command()
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; ends the process with 0 done, 1 it did not work, 2 it was asked wrongly."""
    with one_line_errors():
        app(args=None if arguments is None else list(arguments))


if __name__ == "__main__":
    main()
