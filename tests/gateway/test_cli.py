from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.__main__ import COMMANDS, main
from gateway.cli.serving import base_url, welcome
from gateway.settings import load_settings
from gateway.spreadsheet import harmless

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("TURNWISE_CONFIG", "TURNWISE_STATE_DIR", "TURNWISE_DEMO_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


class Told:
    """What a command said, and how it ended."""

    def __init__(self, out: str, err: str, code: object) -> None:
        self.out = out
        self.err = err
        self.code = code


@pytest.fixture
def turnwise(capsys: pytest.CaptureFixture[str]):
    def run(*arguments: str) -> Told:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        captured = capsys.readouterr()
        return Told(captured.out, captured.err, ended.value.code or 0)

    return run


def test_every_command_explains_itself(turnwise) -> None:
    for name in COMMANDS:
        told = turnwise(name, "--help")
        assert told.code == 0
        assert "Usage:" in told.out


def test_version_is_data_on_stdout(turnwise) -> None:
    told = turnwise("version", "--json")

    assert told.code == 0
    assert "version" in json.loads(told.out)


def test_small_commands_import_no_heavy_package() -> None:
    heavy = ("torch", "litellm", "onnxruntime", "fastapi", "sqlalchemy", "aiohttp", "transformers")
    program = (
        "import sys; from gateway.__main__ import main\n"
        "try: main(['version'])\n"
        "except SystemExit: pass\n"
        f"assert not set({heavy!r}) & set(sys.modules), set({heavy!r}) & set(sys.modules)"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("nope",),
        ("serve", "--config", "missing.yaml"),
        ("serve", "--port", "seventy"),
        ("keys", "create", "--name", "x"),
        ("keys", "create", "--name", "x", "--tenant", "demo", "--scopes", "root"),
        ("costs", "show", "--group-by", "colour"),
        ("costs", "show", "--tz", "Mars/Olympus"),
        ("costs", "show", "--from", "2026-02-02", "--to", "2026-02-01"),
        ("router", "score", "--in", "missing.jsonl"),
    ],
)
def test_what_is_asked_wrongly_ends_with_code_two_and_one_line(turnwise, arguments) -> None:
    told = turnwise(*arguments)

    assert told.code == 2
    assert told.out == ""
    assert "Traceback" not in told.err


def test_a_wrong_configuration_names_line_and_remedy(turnwise, tmp_path: Path) -> None:
    (tmp_path / "turnwise.yaml").write_text("sevrer: {port: 1}\n")

    told = turnwise("serve", "--config", "turnwise.yaml")

    assert told.code == 2
    assert "turnwise.yaml:1: sevrer" in told.err
    assert "did you mean 'server'?" in told.err


def test_a_busy_port_is_one_clear_line(turnwise) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        told = turnwise("serve", "--port", str(port))

    assert told.code == 1
    assert told.err.splitlines() == [
        f"turnwise: port {port} on 127.0.0.1 is in use by another program; "
        "stop it, or choose another with --port"
    ]


def test_a_key_is_printed_once_and_listed_without_its_secret(turnwise) -> None:
    made = turnwise("keys", "create", "--tenant", "demo", "--name", "phone", "--json")
    listed = turnwise("keys", "list", "--tenant", "demo", "--json")

    key = json.loads(made.out)
    assert key["key"].startswith(f"tw_{key['id']}_")
    assert key["id"] in [each["id"] for each in json.loads(listed.out)]
    assert key["key"] not in listed.out


def test_only_the_key_goes_to_stdout(turnwise) -> None:
    told = turnwise("keys", "create", "--admin", "--name", "ops")

    assert told.out.startswith("tw_")
    assert len(told.out.splitlines()) == 1


def test_a_revoked_key_is_listed_as_revoked(turnwise) -> None:
    made = json.loads(turnwise("keys", "create", "--admin", "--name", "ops", "--json").out)

    assert turnwise("keys", "revoke", made["id"]).code == 0

    (key,) = json.loads(turnwise("keys", "list", "--admin", "--json").out)
    assert key["status"] == "revoked"


def test_an_unknown_key_cannot_be_revoked(turnwise) -> None:
    assert turnwise("keys", "revoke", "nobody").code == 1


def test_policy_check_passes_the_packaged_policy(turnwise) -> None:
    told = turnwise("policy", "check", str(ROOT / "policies" / "default.yaml"))

    assert (told.code, told.err) == (0, "")


def test_policy_check_tells_every_mistake_with_its_line(turnwise, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(
        "routing:\n  tiers: {small: [local-small]}\n  treshold: {}\n  floor: tiny\n"
    )

    told = turnwise("policy", "check", "bad.yaml", "--json")

    assert told.code == 1
    (error,) = [each for each in json.loads(told.out)["errors"] if each["line"] == 3]
    assert error["nearest"] == "thresholds"


def test_a_policy_is_put_and_shown(turnwise, tmp_path: Path) -> None:
    text = "routing: {tiers: {small: [local-small]}}"
    (tmp_path / "frugal.yaml").write_text(text)

    assert turnwise("policy", "put", "demo", "frugal.yaml").code == 0

    shown = json.loads(turnwise("policy", "show", "demo", "--json").out)
    assert (shown["version"], shown["text"]) == (1, text)


def test_route_explains_a_decision_without_writing_anything(turnwise, tmp_path: Path) -> None:
    told = turnwise("route", "Prove that the square root of two is irrational.", "--json")

    decision = json.loads(told.out)["decision"]
    assert decision["tier"] in ("small", "strong")
    assert [candidate["model"] for candidate in decision["candidates"]] == ["local-small", "strong"]
    assert list(tmp_path.iterdir()) == []


def test_costs_of_nothing_are_zero(turnwise) -> None:
    told = turnwise("costs", "show", "--json")

    assert json.loads(told.out)["total"]["cost_micro"] == 0


def test_the_doctor_finds_a_machine_that_can_serve(turnwise) -> None:
    told = turnwise("doctor", "--json")

    assert told.code == 0
    assert {each["check"] for each in json.loads(told.out)} >= {"redis", "ledger", "port"}


def test_a_csv_cell_is_never_a_formula() -> None:
    assert harmless("=HYPERLINK()") == "'=HYPERLINK()"
    assert harmless("strong") == "strong"
    assert harmless(-5) == -5


def test_the_welcome_can_be_pasted() -> None:
    settings = load_settings(None, {})

    text = welcome(settings)

    assert base_url(settings) == "http://127.0.0.1:8080"
    assert f"Bearer {settings.demo_key}" in text
    assert 'OpenAI(base_url="http://127.0.0.1:8080/v1"' in text
    assert "demonstration model" in text
