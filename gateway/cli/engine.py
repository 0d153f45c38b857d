"""turnwise engine: the local engine alone, as an OpenAI-compatible server, and its benchmark."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

import typer

from gateway.cli.output import CommandFailed

app = typer.Typer(help="The local engine alone.", no_args_is_help=True)

Quantize = Annotated[Literal["none", "int8", "int4"], typer.Option(help="Weights on this machine.")]
Model = Annotated[str, typer.Option(help="bundled, a model folder, or a hub id.")]


# What a command does not know itself goes on to the engine, whose own options it lists.
_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.command(context_settings=_PASS_ON)
def serve(
    context: typer.Context,
    model: Model = "bundled",
    quantize: Quantize = "int8",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8090,
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
) -> None:
    """Serve one model with OpenAI's chat completions; --all-options lists the engine's own."""
    if "--all-options" in context.args:
        _run_module("local_models.server", ["--help"])
    chosen = ["--model", model, "--quantize", quantize, "--port", str(port), "--host", host]
    _run_module("local_models.server", [*chosen, *context.args])


@app.command(context_settings=_PASS_ON)
def bench(context: typer.Context) -> None:
    """Measure the engine on this machine; --all-options lists what can be chosen."""
    is_help = "--all-options" in context.args
    _run_module("local_models.bench", ["--help"] if is_help else list(context.args))


@app.command()
def quantize(
    model: Annotated[str, typer.Argument(help="A model folder or a hub id.")],
    out: Annotated[str, typer.Argument(help="The new folder.")],
    bits: Annotated[int, typer.Option(help="8 or 4.")] = 8,
) -> None:
    """Write a model's folder with its weights in 8 or 4 bits, for `--model FOLDER` to read."""
    _run_module("local_models.quantize", [model, out, "--bits", str(bits)])


def _run_module(name: str, arguments: list[str]) -> None:
    """Run a module's command line in this process, so that signals reach it directly."""
    import runpy
    from importlib.util import find_spec

    from gateway.settings import is_installed

    missing = [each for each in ("torch", "transformers", "safetensors") if not is_installed(each)]
    if missing:
        raise CommandFailed(f"{', '.join(missing)} missing: pip install 'turnwise[local]'")
    if find_spec(name) is None:
        raise CommandFailed(f"this installation has no {name}")
    sys.argv = [name, *arguments]
    runpy.run_module(name, run_name="__main__", alter_sys=True)
