"""The configuration as the rest of the gateway sees it; the one place that reads the environment.

Owns: the frozen settings, `load_settings`, the secrets kept in the state folder (pepper, demo key).
Knows nothing of what is built from them; the file's own shape lives in `settings_schema.py`.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Literal

from policies.catalog import ModelCatalog
from policies.usage import Rates

BackendKind = Literal["engine", "openai", "litellm", "simulated"]

CONFIG_VARIABLE = "TURNWISE_CONFIG"
STATE_DIR_VARIABLE = "TURNWISE_STATE_DIR"
PEPPER_VARIABLE = "TURNWISE_PEPPER"
ADMIN_KEY_VARIABLE = "TURNWISE_ADMIN_KEY"
DEMO_TENANT = "demo"


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Where the gateway listens, and with how many processes."""

    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 1


@dataclass(frozen=True, slots=True)
class RedisSettings:
    """Which Redis holds what is hot; `cache_url` names a second, evicting server, if any."""

    url: str = "embedded"
    is_cluster: bool = False
    cache_url: str | None = None

    @property
    def is_embedded(self) -> bool:
        """True when the gateway starts and owns the server itself."""
        return self.url == "embedded"


@dataclass(frozen=True, slots=True)
class LedgerSettings:
    """The SQL database of record as an SQLAlchemy URL; SQLite paths are absolute here."""

    url: str

    @property
    def sqlite_path(self) -> Path | None:
        """The database file, None where the database is not a SQLite file."""
        prefix = "sqlite:///"
        return Path(self.url.removeprefix(prefix)) if self.url.startswith(prefix) else None


@dataclass(frozen=True, slots=True)
class BackendSettings:
    """One place that answers.

    `model`, `quantize`, `device` and `kv_cache` belong to `engine`; `base_url` to `openai` (and,
    optionally, `litellm`); `metrics_url` is where a server of kind `openai` shows vLLM's metrics,
    for its load; `region` is None where nothing was said: then it is outside every boundary but
    `any`.
    """

    name: str
    kind: BackendKind
    region: str | None = None
    base_url: str | None = None
    metrics_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    model: str = "bundled"
    quantize: Literal["none", "int8", "int4"] = "int8"
    device: Literal["cpu", "cuda"] = "cpu"
    kv_cache: Literal["full", "int8"] = "full"

    @property
    def is_simulated(self) -> bool:
        """True when answers come from no model at all."""
        return self.kind == "simulated"

    @property
    def is_demonstration(self) -> bool:
        """True when answers come from the small model that ships with Turnwise."""
        return self.kind == "engine" and self.model == "bundled"


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long one attempt may take, in seconds: connecting, first token, silence, all of it."""

    connect_s: float = 3.0
    first_token_s: float = 10.0
    idle_s: float = 20.0
    total_s: float = 600.0


@dataclass(frozen=True, slots=True)
class TenantSettings:
    """A tenant named in the file; `keys` are whole bearer keys, secrets already resolved."""

    id: str
    policy: str = "default"
    currency: str = "USD"
    timezone: str = "UTC"
    keys: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class DatedRate:
    """Units of the second currency for one unit of the first, from this day on."""

    since: date
    rate: Decimal


@dataclass(frozen=True, slots=True)
class EmbedderSettings:
    """Which sentence encoder: `bundled`, an absolute folder, or a hub id."""

    model: str = "bundled"


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything an operator decides, checked.

    `fx` maps pairs such as `USD_INR` to their rates, oldest first. `source` is the file it all came
    from, None for the embedded default. `policy_dirs` are searched in order. `demo_key` is a key of
    the tenant `demo`, None when there is no such tenant. `notes` are remarks for the log at start.
    """

    backends: Mapping[str, BackendSettings]
    catalog: ModelCatalog
    ledger: LedgerSettings
    state_dir: Path
    policy_dirs: tuple[Path, ...]
    pepper: bytes = field(repr=False)
    server: ServerSettings = field(default_factory=ServerSettings)
    redis: RedisSettings = field(default_factory=RedisSettings)
    timeouts: Timeouts = field(default_factory=Timeouts)
    tenants: Mapping[str, TenantSettings] = field(default_factory=dict)
    fx: Mapping[str, tuple[DatedRate, ...]] = field(default_factory=dict)
    embedder: EmbedderSettings = field(default_factory=EmbedderSettings)
    admin_key: str | None = field(default=None, repr=False)
    demo_key: str | None = field(default=None, repr=False)
    source: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def rates(self) -> Rates:
        """The exchange rates, as costs are computed with them."""
        return Rates(
            {
                pair.removeprefix("USD_"): [(row.since, row.rate) for row in rows]
                for pair, rows in self.fx.items()
            }
        )


def process_environ() -> Mapping[str, str]:
    """Return this process's environment, for `load_settings` and for child processes."""
    return dict(os.environ)


def is_installed(module: str) -> bool:
    """Return whether a top-level module could be imported, without importing it."""
    return importlib.util.find_spec(module) is not None


def keep_litellm_offline() -> None:
    """Make a later `import litellm` use the price list it ships instead of downloading one."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")


def share_metrics(folder: Path) -> None:
    """Make processes started from here on count into files of this folder, emptied first."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.db"):
        stale.unlink()
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)


def shared_metrics_folder() -> str | None:
    """Return the folder that this process counts into together with others, if any."""
    return os.environ.get("PROMETHEUS_MULTIPROC_DIR")


def load_settings(
    path: Path | None,
    environ: Mapping[str, str],
    *,
    has_module: Callable[[str], bool] = is_installed,
    is_dry: bool = False,
) -> Settings:
    """Return the settings of a configuration file, or the embedded default when there is none.

    Args:
        path: the file; None takes `TURNWISE_CONFIG`, and where that is unset the embedded default.
        environ: the environment; `env:NAME` values are read from it.
        has_module: says whether an optional package is there.
        is_dry: True only checks: nothing is written, the pepper and demo key are not created.

    Raises:
        policies.errors.DocumentErrors: a value is missing, misspelt or out of range.
        OSError: the file cannot be read or the state folder cannot be written.
    """
    from gateway.settings_reader import read_configuration

    if path is None and environ.get(CONFIG_VARIABLE):
        path = Path(environ[CONFIG_VARIABLE])
    return read_configuration(path, environ, has_module=has_module, is_dry=is_dry)


def secret_in(path: Path, make: Callable[[], str]) -> str:
    """Return the secret kept in a file, made on first use and readable by its owner alone."""
    try:
        kept = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        kept = ""
    return kept or keep_secret(path, make(), is_first=True)


def keep_secret(path: Path, secret: str, *, is_first: bool = False) -> str:
    """Put a secret into a file that its owner alone can read, and return what the file holds.

    Args:
        path: the file; its folder is made.
        secret: the text.
        is_first: True gives way to what another process has put there meanwhile.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written whole beside its place and put there in one step, so that nobody reads half a secret.
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(secret + "\n")
        if is_first:
            os.link(draft, path)
        else:
            draft.replace(path)
    except FileExistsError:
        return path.read_text(encoding="utf-8").strip()
    finally:
        draft.unlink(missing_ok=True)
    return secret
