"""The command line: `turnwise COMMAND`, or `python -m gateway COMMAND`.

A command's module is imported when the command is asked for, so that small ones answer at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from gateway.cli.output import one_line_errors

# Where each command lives: a function, or a Typer of commands.
COMMANDS = {
    "serve": "gateway.cli.serving:serve",
    "demo": "gateway.cli.demo:demo",
    "route": "gateway.cli.route:route",
    "doctor": "gateway.cli.doctor:doctor",
    "keys": "gateway.cli.keys:app",
    "policy": "gateway.cli.policy:app",
    "conversation": "gateway.cli.conversation:app",
    "costs": "gateway.cli.costs:app",
    "router": "gateway.cli.router:app",
    "engine": "gateway.cli.engine:app",
    "version": "gateway.cli.version:version",
}
STYLE: dict[str, Any] = {
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
}


class LazyGroup(TyperGroup):
    """The group of all commands, each imported on first use."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands in the order of the help page."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command of a name, None when there is none."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        found = getattr(import_module(module), attribute)
        if not isinstance(found, typer.Typer):
            alone = typer.Typer(**STYLE)
            alone.command(cmd_name)(found)
            found = alone
        command = get_command(found)
        command.name = cmd_name
        return command


app = typer.Typer(
    name="turnwise",
    cls=LazyGroup,
    help="Conversational gateway with tiered model routing.",
    no_args_is_help=True,
    **STYLE,
)


@app.callback()
def _turnwise() -> None:
    """Conversational gateway with tiered model routing."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; ends the process with 0 done, 1 it did not work, 2 it was asked wrongly."""
    with one_line_errors():
        app(args=None if arguments is None else list(arguments))


if __name__ == "__main__":
    main()
