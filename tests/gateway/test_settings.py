from __future__ import annotations

import stat
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from gateway.settings import Settings, load_settings
from policies.errors import DocumentErrors

MINIMAL = """
backends:
  practice: {kind: simulated}
models:
  only: {backend: practice, name: practice, context_tokens: 8000}
"""
WHOLE = """
server: {host: 0.0.0.0, port: 9090, workers: 2}
redis:  {url: "redis://cache-1:6379/0", cluster: true, cache_url: "redis://cache-2:6379/0"}
ledger: {url: "postgresql://turnwise@db/turnwise"}
backends:
  local:    {kind: engine, model: bundled, quantize: int8}
  vllm:     {kind: openai, base_url: "http://gpu-1:8000/v1", region: on_premises}
  openai:   {kind: openai, base_url: "https://api.openai.com/v1/", api_key: env:OPENAI_API_KEY}
  claude:   {kind: litellm, api_key: env:ANTHROPIC_API_KEY}
  practice: {kind: simulated}
models:
  local-small: {backend: local, name: bundled, context_tokens: 2048,
                price: {busy_second_usd: "0.0008"}}
  gpt:         {backend: openai, name: gpt-5, context_tokens: 400000,
                price: {input_usd_per_mtok: "1.25", cached_input_usd_per_mtok: "0.125",
                        output_usd_per_mtok: "10"},
                max_output_tokens: 16384, supports: [tools, json, images]}
  claude-strong: {backend: claude, name: claude-sonnet-4-5, context_tokens: 200000}
timeouts: {connect_s: 3, first_token_s: 10, idle_s: 20, total_s: 600}
tenants: {demo: {policy: default, currency: INR, timezone: Asia/Kolkata,
                 keys: [env:TURNWISE_DEMO_KEY]}}
fx: {USD_INR: [{from: 2026-04-01, rate: "85.0"}, {from: 2026-01-01, rate: 83}]}
embedder: {model: bundled}
"""
KEYS = {"OPENAI_API_KEY": "sk-1", "ANTHROPIC_API_KEY": "sk-2"}


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(text: str, environ: Mapping[str, str] | None = None) -> Settings:
    path = Path("conf") / "turnwise.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return load_settings(path, environ or {})


def complaint(text: str, environ: Mapping[str, str] | None = None) -> str:
    with pytest.raises(DocumentErrors) as caught:
        load(text, environ)
    return str(caught.value)


def test_without_a_file_the_strong_tier_is_simulated_and_everything_is_priced() -> None:
    settings = load_settings(None, {})

    assert sorted(settings.catalog) == ["local-small", "strong"]
    assert settings.catalog["strong"].is_simulated
    assert all(spec.price is not None for spec in settings.catalog.values())
    assert settings.redis.is_embedded
    assert settings.tenants["demo"].currency == "INR"
    assert settings.notes == ("no provider key is set: the strong tier is simulated",)


def test_the_first_provider_with_a_key_takes_the_strong_tier() -> None:
    environ = {"OPENAI_API_KEY": "sk-1", "GEMINI_API_KEY": "g-1"}

    settings = load_settings(None, environ, has_module=lambda _: True)

    strong = settings.catalog["strong"]
    assert not strong.is_simulated
    assert settings.backends[strong.backend].kind == "openai"
    assert settings.backends[strong.backend].api_key == "sk-1"


def test_a_provider_that_needs_a_missing_extra_is_skipped_with_one_remark() -> None:
    settings = load_settings(None, {"ANTHROPIC_API_KEY": "sk"}, has_module=lambda _: False)

    assert settings.catalog["strong"].is_simulated
    assert "turnwise[providers]" in settings.notes[0]


def test_a_provider_behind_litellm_is_used_when_litellm_is_there() -> None:
    settings = load_settings(None, {"ANTHROPIC_API_KEY": "sk"}, has_module=lambda _: True)

    assert settings.backends[settings.catalog["strong"].backend].kind == "litellm"


def test_the_whole_contract_is_understood() -> None:
    settings = load(WHOLE, KEYS)

    assert (settings.server.port, settings.server.workers) == (9090, 2)
    assert settings.redis.is_cluster
    assert settings.backends["openai"].base_url == "https://api.openai.com/v1"
    assert settings.catalog["gpt"].upstream_name == "gpt-5"
    assert settings.catalog["gpt"].supports == {"tools", "json", "images"}
    assert settings.catalog["local-small"].supports == frozenset()
    listed = settings.catalog["claude-strong"].price  # from the price library
    assert listed is not None and listed.input_usd_per_mtok == Decimal(3)
    assert settings.timeouts.idle_s == 20


def test_only_an_engine_or_a_stated_region_is_on_premises() -> None:
    settings = load(WHOLE, KEYS)

    regions = {name: backend.region for name, backend in settings.backends.items()}
    assert regions == {
        "local": "on_premises",
        "vllm": "on_premises",
        "openai": None,
        "claude": None,
        "practice": None,
    }
    assert settings.catalog["local-small"].region == "on_premises"


def test_rates_are_in_the_order_of_their_days() -> None:
    settings = load(WHOLE, KEYS)

    assert settings.rates.rate_on("INR", date(2026, 3, 31)) == (Decimal("83"), date(2026, 1, 1))
    assert settings.rates.rate_on("INR", date(2026, 4, 1)) == (Decimal("85.0"), date(2026, 4, 1))


def test_a_missing_secret_is_named_with_its_line() -> None:
    text = complaint(WHOLE, {"ANTHROPIC_API_KEY": "sk"})

    assert "turnwise.yaml:8: backends.openai.api_key" in text
    assert "environment variable OPENAI_API_KEY, which is not set" in text


def test_a_missing_key_of_a_tenant_is_no_error() -> None:
    text = MINIMAL + "tenants: {acme: {keys: [env:ACME_KEY, env:OTHER_KEY]}}\n"

    settings = load(text, {"OTHER_KEY": "other"})

    assert settings.tenants["acme"].keys == ("other",)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("server: {prot: 80}", "did you mean 'port'?"),
        ("server: {port: 70000}", "less than or equal to 65535"),
        ("timeout: {idle_s: 1}", "did you mean 'timeouts'?"),
        ("timeouts: {idle_s: 0}", "greater than 0"),
        ("redis: {url: memcached://x}", "redis://"),
        ("ledger: {url: mysql://x}", "sqlite:///PATH or postgresql://"),
        ("tenants: {a: {timezone: Asia/Kolkatta}}", "Asia/Kolkata"),
        ("tenants: {a: {currency: EUR}}", "USD_EUR"),
        ("tenants: {Acme: {}}", "pattern"),
        ("fx: {USD_INR: [{from: 2026-04-01, rate: 0}]}", "greater than 0"),
        ("fx: {USD_INR: [{from: yesterday, rate: 85}]}", "date"),
    ],
)
def test_a_wrong_value_is_named_with_line_and_remedy(line: str, expected: str) -> None:
    text = complaint(MINIMAL + line + "\n")

    assert "turnwise.yaml:6:" in text
    assert expected in text


def test_a_model_of_an_unknown_backend_names_the_nearest() -> None:
    text = complaint(MINIMAL.replace("backend: practice", "backend: practise"))

    assert "did you mean 'practice'?" in text


def test_half_a_price_is_refused() -> None:
    text = complaint(
        MINIMAL.replace(
            "context_tokens: 8000", 'context_tokens: 8000, price: {input_usd_per_mtok: "1"}'
        )
    )

    assert "both input_usd_per_mtok and output_usd_per_mtok" in text


def test_paths_stand_beside_the_file() -> None:
    settings = load(
        MINIMAL.replace(
            "practice: {kind: simulated}",
            "practice: {kind: simulated}\n  own: {kind: engine, model: ./weights}",
        )
    )

    folder = Path("conf").resolve()
    assert settings.state_dir == folder / ".turnwise"
    assert settings.ledger.sqlite_path == folder / ".turnwise" / "ledger.db"
    assert settings.policy_dirs[0] == folder / "policies"
    assert settings.backends["own"].model == str(folder / "weights")


def test_the_file_may_be_named_by_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "other.yaml"
    path.write_text(MINIMAL)

    settings = load_settings(None, {"TURNWISE_CONFIG": str(path)})

    assert list(settings.catalog) == ["only"]


def test_pepper_and_demo_key_are_made_once_and_private() -> None:
    first = load_settings(None, {})
    second = load_settings(None, {})

    assert (first.pepper, first.demo_key) == (second.pepper, second.demo_key)
    assert first.tenants["demo"].keys == (first.demo_key,)
    for name in ("pepper", "demo.key"):
        mode = stat.S_IMODE((first.state_dir / name).stat().st_mode)
        assert mode == 0o600


def test_pepper_and_keys_of_the_environment_go_first() -> None:
    load_settings(None, {})

    settings = load_settings(None, {"TURNWISE_PEPPER": "salt", "TURNWISE_DEMO_KEY": "mine"})

    assert settings.pepper == b"salt"
    assert settings.demo_key == "mine"
    assert (settings.state_dir / "demo.key").read_text() == "mine\n"


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    load_settings(None, {}, is_dry=True)

    assert list(tmp_path.iterdir()) == []


def test_secrets_do_not_show_when_settings_are_printed() -> None:
    settings = load(WHOLE, {**KEYS, "TURNWISE_PEPPER": "pepper-1", "TURNWISE_ADMIN_KEY": "admin-1"})

    shown = repr(settings)

    for secret in ("sk-1", "sk-2", "pepper-1", "admin-1", str(settings.demo_key)):
        assert secret not in shown


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "backends:\n  far: {kind: simulatd}\n",
            "turnwise.yaml:2: backends.far.kind: 'simulatd' is not allowed; one of engine, openai, "
            "litellm, simulated; did you mean 'simulated'?",
        ),
        (
            "backends:\n  far: {kind: openai, base_url: 'http://x/v1', regoin: any}\n",
            "turnwise.yaml:2: backends.far.regoin: 'regoin' is not allowed",
        ),
        (
            "backends: {far: {kind: simulated}}\n"
            "models: {m: {backend: far, name: m, context_tokens: 100}}\n"
            "tenants: {acme: {policy: defualt, currency: USD, timezone: UTC}}\n",
            "turnwise.yaml:3: tenants.acme.policy: 'defualt' is not allowed",
        ),
        (
            "backends: {far: {kind: simulated}}\n"
            "models: {m: {backend: far, name: m, context_tokens: 100}}\n"
            "tenants: {acme: {policy: defualt, currency: USD, timezone: UTC}}\n",
            "did you mean 'default'?",
        ),
    ],
)
def test_a_wrong_name_is_told_with_its_place_and_the_nearest(
    tmp_path: Path, text: str, told: str
) -> None:
    file = tmp_path / "turnwise.yaml"
    file.write_text(text)
    with pytest.raises(DocumentErrors) as refused:
        load_settings(file, {})
    assert told in str(refused.value)


@pytest.mark.parametrize("url", ["embedded", "unix:///run/redis.sock"])
def test_a_cluster_has_no_single_server_of_its_own(url: str) -> None:
    with pytest.raises(DocumentErrors) as refused:
        load(f"redis: {{url: '{url}', cluster: true}}\n{MINIMAL}")
    [error] = refused.value.errors
    assert (error.field, error.line) == ("redis.cluster", 1)
    assert "redis://" in error.allowed
