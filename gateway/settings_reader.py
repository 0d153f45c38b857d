"""From a configuration file's text to Settings: secrets, cross-references, paths.

Owns the order of those steps. The shape of the file is `settings_schema.py`'s, the result
`settings.py`'s.
"""

from __future__ import annotations

import difflib
import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from gateway.dated_tables import table_errors
from gateway.keys import new_key
from gateway.price_library import library_price
from gateway.providers import strong_tier, with_strong_tier
from gateway.settings import (
    ADMIN_KEY_VARIABLE,
    DEMO_TENANT,
    PEPPER_VARIABLE,
    STATE_DIR_VARIABLE,
    BackendSettings,
    DatedRate,
    EmbedderSettings,
    LedgerSettings,
    RedisSettings,
    ServerSettings,
    Settings,
    TenantSettings,
    Timeouts,
    keep_secret,
    secret_in,
)
from gateway.settings_schema import BackendSection, Configuration, ModelSection, PriceSection
from policies.catalog import DatedPrice, ModelCatalog, ModelSpec, Price
from policies.document import Document, DocumentError, load_document, validate
from policies.errors import DocumentErrors

ALL_FEATURES = frozenset({"tools", "json", "images"})
DEFAULT_SOURCE = "gateway/default.yaml"


def read_configuration(
    path: Path | None,
    environ: Mapping[str, str],
    *,
    has_module: Callable[[str], bool],
    is_dry: bool,
) -> Settings:
    """Return the settings of a file, or of the embedded default when path is None."""
    default = load_document(
        resources.files("gateway").joinpath("default.yaml").read_text(encoding="utf-8"),
        DEFAULT_SOURCE,
    )
    notes: list[str] = []
    if path is None:
        document, base = default, Path.cwd()
        provider, notes = strong_tier(environ, has_module)
        if provider is not None:
            document = replace(document, data=with_strong_tier(document.data, provider))
    else:
        document = load_document(path.read_text(encoding="utf-8"), str(path))
        base = path.resolve().parent
    configuration = validate(Configuration, _with_secrets(document, environ))
    _check_references(configuration, document, base)
    _check_tables(configuration, document, datetime.now(UTC).date())
    if configuration.fx is None:
        rates = validate(Configuration, _with_secrets(default, environ)).fx
        configuration = configuration.model_copy(update={"fx": rates})
    return _settings(configuration, base, environ, path, tuple(notes), is_dry=is_dry)


def _is_optional_secret(path: tuple[str | int, ...]) -> bool:
    """Return whether a value may be missing from the environment: keys of tenants are."""
    return len(path) == 4 and path[0] == "tenants" and path[2] == "keys"


def _with_secrets(document: Document, environ: Mapping[str, str]) -> Document:
    """Return the document with every `env:NAME` replaced by the variable's value.

    Raises:
        DocumentErrors: a variable that is needed is not set; the error names it.
    """
    errors: list[DocumentError] = []

    def resolve(value: Any, path: tuple[str | int, ...]) -> Any:
        if isinstance(value, Mapping):
            return {key: resolve(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            items = [resolve(item, (*path, index)) for index, item in enumerate(value)]
            is_optional = _is_optional_secret((*path, 0))
            return [item for item in items if item is not None or not is_optional]
        if not isinstance(value, str) or not value.startswith("env:"):
            return value
        name = value.removeprefix("env:")
        if environ.get(name):
            return environ[name]
        if not _is_optional_secret(path):
            allowed = f"a value for the environment variable {name}, which is not set"
            errors.append(document.error(path, value, allowed))
        return None

    data = resolve(document.data, ())
    if errors:
        raise DocumentErrors(errors)
    return replace(document, data=data)


def _check_references(configuration: Configuration, document: Document, base: Path) -> None:
    known = list(configuration.backends)
    errors = []
    for name, model in configuration.models.items():
        if model.backend not in configuration.backends:
            near = difflib.get_close_matches(model.backend, known, n=1)
            path = ("models", name, "backend")
            allowed = f"a name under backends: {', '.join(known)}"
            errors.append(document.error(path, model.backend, allowed, near[0] if near else None))
    policies = sorted({path.stem for each in _policy_dirs(base) for path in each.glob("*.yaml")})
    for name, tenant in configuration.tenants.items():
        if tenant.policy not in policies:
            near = difflib.get_close_matches(tenant.policy, policies, n=1)
            path = ("tenants", name, "policy")
            allowed = (
                f"a file in {base / 'policies'}, or one that is packaged: {', '.join(policies)}"
            )
            errors.append(document.error(path, tenant.policy, allowed, near[0] if near else None))
        if tenant.currency != "USD" and f"USD_{tenant.currency}" not in (configuration.fx or {}):
            if configuration.fx is None and tenant.currency == "INR":
                continue
            path = ("tenants", name, "currency")
            allowed = f"USD, or a currency with rates under fx: USD_{tenant.currency}"
            errors.append(document.error(path, tenant.currency, allowed))
    if errors:
        raise DocumentErrors(errors)


def _check_tables(configuration: Configuration, document: Document, today: date) -> None:
    errors = []
    for pair, rates in (configuration.fx or {}).items():
        errors += table_errors(rates, document, ("fx", pair), today, may_end=False)
    for name, model in configuration.models.items():
        if isinstance(model.price, tuple):
            has_list_price = _list_price(model, configuration.backends[model.backend]) is not None
            path = ("models", name, "price")
            errors += table_errors(model.price, document, path, today, may_end=has_list_price)
    if errors:
        raise DocumentErrors(errors)


def _settings(
    configuration: Configuration,
    base: Path,
    environ: Mapping[str, str],
    source: Path | None,
    notes: tuple[str, ...],
    *,
    is_dry: bool,
) -> Settings:
    state_dir = base / (environ.get(STATE_DIR_VARIABLE) or ".turnwise")
    backends = {
        name: BackendSettings(name=name, **section.model_dump())
        for name, section in configuration.backends.items()
    }
    backends = {name: _with_local_model(backend, base) for name, backend in backends.items()}
    server, redis = configuration.server, configuration.redis
    pepper, demo_key = _secrets(configuration, state_dir, environ, is_dry=is_dry)
    return Settings(
        server=ServerSettings(server.host, server.port, server.workers),
        redis=RedisSettings(redis.url, redis.cluster, redis.cache_url),
        ledger=LedgerSettings(_ledger_url(configuration.ledger.url, base, state_dir)),
        backends=backends,
        catalog=_catalog(configuration.models, backends),
        timeouts=Timeouts(**configuration.timeouts.model_dump()),
        tenants=_tenants(configuration, demo_key),
        fx={
            pair: tuple(sorted((DatedRate(row.since, row.rate) for row in rows), key=_day))
            for pair, rows in (configuration.fx or {}).items()
        },
        embedder=EmbedderSettings(_folder_or_name(configuration.embedder.model, base)),
        state_dir=state_dir,
        policy_dirs=_policy_dirs(base),
        pepper=pepper.encode(),
        admin_key=environ.get(ADMIN_KEY_VARIABLE) or None,
        demo_key=demo_key,
        source=source,
        notes=notes,
    )


def _day(rate: DatedRate) -> date:
    return rate.since


def _catalog(
    models: Mapping[str, ModelSection], backends: Mapping[str, BackendSettings]
) -> ModelCatalog:
    specs = {}
    for name, model in models.items():
        backend = backends[model.backend]
        if model.supports is not None:
            supports = frozenset[str](model.supports)
        else:
            supports = frozenset() if backend.kind == "engine" else ALL_FEATURES
        specs[name] = ModelSpec(
            name=name,
            backend=model.backend,
            upstream_name=model.name,
            context_tokens=model.context_tokens,
            max_output_tokens=model.max_output_tokens,
            **_prices(model, backend, datetime.now(UTC).date()),
            supports=supports,
            region=model.region or backend.region,
            is_simulated=backend.is_simulated,
        )
    return ModelCatalog(specs)


def _prices(model: ModelSection, backend: BackendSettings, today: date) -> dict[str, Any]:
    """Return the fields of a model's prices: the configured ones, else a provider's list price."""
    if isinstance(model.price, PriceSection):
        return {"price": Price(**model.price.model_dump())}
    listed = _list_price(model, backend)
    if model.price is None:
        return {"price": listed}
    dated = tuple(
        DatedPrice(row.since, row.to, Price(**row.model_dump(exclude={"since", "to"})))
        for row in sorted(model.price, key=lambda row: row.since)
    )
    spec = ModelSpec("", "", "", 0, dated_prices=dated, list_price=listed)
    return {"price": spec.price_on(today), "dated_prices": dated, "list_price": listed}


def _list_price(model: ModelSection, backend: BackendSettings | BackendSection) -> Price | None:
    if backend.kind not in ("openai", "litellm"):
        return None
    return library_price(
        model.name,
        base_url=backend.base_url,
        context_tokens=model.context_tokens,
        at=datetime.now(UTC),
    )


def _secrets(
    configuration: Configuration, state_dir: Path, environ: Mapping[str, str], *, is_dry: bool
) -> tuple[str, str | None]:
    """Return the pepper and the demo key, making and keeping what is not there yet."""
    pepper = environ.get(PEPPER_VARIABLE) or ""
    demo = configuration.tenants.get(DEMO_TENANT)
    if is_dry:
        return pepper or "not-made-in-a-dry-run", demo.keys[0] if demo and demo.keys else None
    pepper = pepper or secret_in(state_dir / "pepper", lambda: secrets.token_hex(32))
    if demo is None:
        return pepper, None
    path = state_dir / "demo.key"
    if not demo.keys:
        return pepper, secret_in(path, new_key)
    keep_secret(path, demo.keys[0])
    return pepper, demo.keys[0]


def _tenants(configuration: Configuration, demo_key: str | None) -> dict[str, TenantSettings]:
    tenants = {}
    for name, section in configuration.tenants.items():
        keys = section.keys
        if name == DEMO_TENANT and demo_key is not None and not keys:
            keys = (demo_key,)
        tenants[name] = TenantSettings(
            name, section.policy, section.currency, section.timezone, keys
        )
    return tenants


def _ledger_url(url: str, base: Path, state_dir: Path) -> str:
    """Return the URL with an absolute SQLite path; `.turnwise/` stands for the state folder."""
    prefix = "sqlite:///"
    if not url.startswith(prefix):
        return url
    path = Path(url.removeprefix(prefix))
    if path.parts[:1] == (".turnwise",):
        return prefix + str(state_dir.joinpath(*path.parts[1:]))
    return prefix + str(base / path)


def _folder_or_name(model: str, base: Path) -> str:
    """Return an absolute folder where the name is one beside the file, else the name as it is."""
    folder = (base / Path(model).expanduser()).resolve()
    is_path = model.startswith((".", "/", "~")) or (model != "bundled" and folder.is_dir())
    return str(folder) if is_path else model


def _with_local_model(backend: BackendSettings, base: Path) -> BackendSettings:
    if backend.kind != "engine":
        return backend
    return replace(backend, model=_folder_or_name(backend.model, base))


def _policy_dirs(base: Path) -> tuple[Path, ...]:
    packaged = Path(str(resources.files("policies")))
    beside = base / "policies"
    return (packaged,) if beside.resolve() == packaged.resolve() else (beside, packaged)
