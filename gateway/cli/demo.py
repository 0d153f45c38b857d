"""turnwise demo: replay the bundled conversations and print what they came to."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from time import perf_counter
from typing import Annotated, Literal

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
from gateway.demo_client import GatewayClient, GatewayUnusable

_START_S, _DEGRADED_S = 60.0, 30.0
Readiness = Literal["absent", "starting", "degraded", "ready"]


def demo(
    config: ConfigPath = None,
    url: Annotated[
        str | None, typer.Option(help="A running gateway; left out, the configured one.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="A tenant key; left out, the demo tenant's.")
    ] = None,
    limit_s: Annotated[
        float, typer.Option(help="No further turn starts after this many seconds.", min=1)
    ] = 45.0,
    at_once: Annotated[int, typer.Option(help="Conversations at once.", min=1, max=64)] = 8,
    cache: Annotated[bool, typer.Option("--cache", help="Let the response cache answer.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Replay the bundled conversations through the gateway, starting it when none runs."""
    from gateway.cli.serving import base_url
    from gateway.demo import DemoOptions, DemoRun, run_demo
    from gateway.demo_report import report_of
    from gateway.demo_text import text_of
    from gateway.demo_trace import load_trace

    settings = load_settings_or_fail(config)
    key = key or settings.demo_key
    if key is None:
        raise CommandFailed("there is no tenant `demo` with a key: give --key", code=2)
    where = url or base_url(settings)
    options = DemoOptions(n_at_once=at_once, limit_s=limit_s, use_cache=cache)
    trace = load_trace()

    async def work() -> DemoRun:
        command = None if url is not None else serve_command(config)
        async with gateway_at(where, command, settings.state_dir / "demo-serve.log"):
            with progress(sum(len(conversation.turns) for conversation in trace)) as on_turn:
                return await run_demo(where, key, trace=trace, options=options, on_turn=on_turn)

    try:
        run = asyncio.run(work())
    except GatewayUnusable as error:
        raise CommandFailed(str(error)) from error
    report = report_of(run, settings.catalog)
    if as_json:
        say_json(report.to_wire())
    else:
        say(text_of(report))


@contextmanager
def progress(n_turns: int) -> Iterator[Callable[[], None]]:
    """Show a progress bar on stderr where that is a terminal; yields what advances it."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("turns"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("turns", total=n_turns)
        yield lambda: bar.advance(task)


@asynccontextmanager
async def gateway_at(
    base_url: str, command: Sequence[str] | None, log_path: Path
) -> AsyncIterator[bool]:
    """Hold a gateway at `base_url` for the block: the one that runs there, else one we start.

    `command` starts it; None means that it must be running already. Yields True when it was started
    here; then it is stopped at the end, and its log is `log_path`.

    Raises:
        GatewayUnusable: there is none, it stopped, or it was not ready within a minute.
    """
    async with GatewayClient(base_url, "", timeout_s=5) as client:
        if await _readiness(client) != "absent":
            await _wait_ready(client, lambda: False)
            yield False
            return
        if command is None:
            raise GatewayUnusable(f"no gateway answers at {base_url}")
        note(f"no gateway runs at {base_url}: starting one")
        log_path.parent.mkdir(parents=True, exist_ok=True)
        with log_path.open("wb") as log:
            child = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            try:
                await _wait_ready(client, lambda: child.returncode is not None)
            except GatewayUnusable as error:
                raise GatewayUnusable(f"{error}; see {log_path}{_last_line(log_path)}") from error
            yield True
        finally:
            if child.returncode is None:
                child.terminate()
            await child.wait()


def _last_line(log_path: Path) -> str:
    lines = log_path.read_text(encoding="utf-8", errors="replace").splitlines()
    return f": {lines[-1].strip()}" if lines else ""


async def _wait_ready(client: GatewayClient, has_stopped: Callable[[], bool]) -> None:
    """Wait until every part is ready; after half a minute a degraded gateway will do."""
    started_s = perf_counter()
    while (readiness := await _readiness(client)) != "ready":
        waited_s = perf_counter() - started_s
        if readiness == "degraded" and waited_s > _DEGRADED_S:
            note("the gateway is ready, but not all of its parts are: see /readyz")
            return
        if has_stopped() or waited_s > _START_S:
            raise GatewayUnusable(f"the gateway did not come up at {client.base_url}")
        await asyncio.sleep(0.2)


async def _readiness(client: GatewayClient) -> Readiness:
    try:
        status, body = await client.json("GET", "/readyz")
    except GatewayUnusable:
        return "absent"
    if status != 200:
        return "starting"
    parts = (body or {}).get("checks") or {}
    return "ready" if all(state == "ready" for state in parts.values()) else "degraded"


def serve_command(config: Path | None) -> list[str]:
    """Return the command that serves this configuration with this Python."""
    command = [sys.executable, "-m", "gateway", "serve"]
    return command if config is None else [*command, "--config", str(config)]
