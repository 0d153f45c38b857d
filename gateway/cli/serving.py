"""turnwise serve and turnwise demo: the gateway itself, and a replay through it."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.output import (
    CommandFailed,
    ConfigPath,
    JsonFlag,
    load_settings_or_fail,
    say,
    say_json,
)

if TYPE_CHECKING:
    from gateway.settings import Settings

_LEAST_DISK_MB = 20


def serve(
    config: ConfigPath = None,
    host: Annotated[str | None, typer.Option(help="Overrides server.host.")] = None,
    port: Annotated[
        int | None, typer.Option(help="Overrides server.port.", min=0, max=65535)
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Overrides server.workers.", min=1)] = None,
    as_json: JsonFlag = False,
) -> None:
    """Serve until stopped."""
    settings = load_settings_or_fail(config)
    server = settings.server
    settings = replace(
        settings,
        server=replace(
            server,
            host=server.host if host is None else host,
            port=server.port if port is None else port,
            workers=server.workers if workers is None else workers,
        ),
    )
    _check_port(settings)
    _check_disk(settings)
    _check_policies(settings)
    _check_database(settings)

    # Imported late: everything the gateway is made of comes with it.
    from gateway.serving import serve as serve_gateway
    from gateway.telemetry import set_up_logging

    set_up_logging()
    for remark in settings.notes:
        logging.getLogger("turnwise.settings").info(remark)
    if as_json:
        say_json({"url": base_url(settings), "demo_key": settings.demo_key})
    else:
        say(welcome(settings))
    serve_gateway(settings)


def base_url(settings: Settings) -> str:
    """Return where a client on this machine finds the gateway."""
    host = settings.server.host
    if host in ("0.0.0.0", "::", ""):
        host = "127.0.0.1"
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.server.port}"


def welcome(settings: Settings) -> str:
    """Return what a person needs first: the address, a key, one request, one change of client."""
    url = base_url(settings)
    key = settings.demo_key or "YOUR_KEY"
    lines = [f"Turnwise serves on {url}"]
    if settings.demo_key is None:
        lines += ["make a key: turnwise keys create --tenant TENANT --name NAME"]
    else:
        lines += [f"demo key:  {key}   (kept in {settings.state_dir / 'demo.key'})"]
    lines += [
        "",
        "Try it:",
        f"  curl {url}/v1/chat/completions \\",
        f'    -H "Authorization: Bearer {key}" -H "Content-Type: application/json" \\',
        """    -d '{"model": "auto", "messages": [{"role": "user", "content": "Namaste!"}]}'""",
        "",
        "From the OpenAI Python SDK:",
        "  from openai import OpenAI",
        f'  client = OpenAI(base_url="{url}/v1", api_key="{key}")',
        "  client.chat.completions.create("
        'model="auto", messages=[{"role": "user", "content": "Namaste!"}])',
        "",
    ]
    demonstrations = [name for name, b in settings.backends.items() if b.is_demonstration]
    simulations = [name for name, b in settings.backends.items() if b.is_simulated]
    if demonstrations:
        lines.append(
            f"{', '.join(demonstrations)} is a tiny demonstration model; set `model:` of that "
            "backend in turnwise.yaml to a real one."
        )
    if simulations:
        lines.append(
            f"{', '.join(simulations)} simulates its answers; set OPENAI_API_KEY or another "
            "provider's key for real ones."
        )
    return "\n".join(lines)


def _check_policies(settings: Settings) -> None:
    """Refuse early when a tenant's policy is missing or wrong."""
    from gateway.cli.policy import policy_named

    for name in dict.fromkeys(tenant.policy for tenant in settings.tenants.values()):
        policy_named(name, settings)


def _check_database(settings: Settings) -> None:
    """Refuse early when the ledger cannot be opened; what it raises is told by its caller."""
    from gateway.database import open_database

    engine = open_database(settings.ledger.url)
    try:
        engine.connect().close()
    finally:
        engine.dispose()


def _check_disk(settings: Settings) -> None:
    """Refuse early when the ledger cannot grow: a turn must be recorded."""
    folder = settings.state_dir
    folder.mkdir(parents=True, exist_ok=True)
    free_mb = shutil.disk_usage(folder).free // 1_000_000
    if free_mb < _LEAST_DISK_MB:
        raise CommandFailed(f"the disk is full: {free_mb} MB are free at {folder}")
    if not os.access(folder, os.W_OK):
        raise CommandFailed(
            f"nothing can be written in {folder}; it is read-only, or another user's"
        )


def _check_port(settings: Settings) -> None:
    """Refuse early, before models are loaded and children started, when the port is taken."""
    server = settings.server
    if server.port == 0:
        return
    family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((server.host, server.port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise CommandFailed(
                    f"port {server.port} on {server.host} is in use by another program; "
                    "stop it, or choose another with --port"
                ) from error
            raise CommandFailed(
                f"cannot listen on {server.host}:{server.port}: {error.strerror or error}"
            ) from error
