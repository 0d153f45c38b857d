from __future__ import annotations

import pytest
from pydantic import BaseModel, ConfigDict

from policies.document import DocumentError, load_document, validate
from policies.errors import DocumentErrors


class Server(BaseModel):
    model_config = ConfigDict(extra="forbid")

    host: str = "127.0.0.1"
    port: int


class Shape(BaseModel):
    model_config = ConfigDict(extra="forbid")

    server: Server
    names: list[str] = []


def errors_of(text: str) -> tuple[DocumentError, ...]:
    with pytest.raises(DocumentErrors) as raised:
        validate(Shape, load_document(text, "a.yaml"))
    return raised.value.errors


def test_a_good_document_becomes_the_model() -> None:
    shape = validate(Shape, load_document("server: {port: 80}\nnames: [a, b]\n", "a.yaml"))
    assert (shape.server.port, shape.names) == (80, ["a", "b"])


def test_json_is_a_document_too() -> None:
    assert load_document('{"server": {"port": 80}}', "body").data == {"server": {"port": 80}}


def test_a_bad_value_names_file_line_field_and_value() -> None:
    (error,) = errors_of("server:\n  host: x\n  port: many\n")
    assert (error.file, error.line, error.field, error.value) == (
        "a.yaml",
        3,
        "server.port",
        "'many'",
    )
    assert str(error).startswith("a.yaml:3: server.port: 'many' is not allowed; input should be")


def test_an_unknown_key_names_the_nearest_known_one() -> None:
    (error,) = errors_of("server:\n  port: 1\n  hots: x\n")
    assert (error.line, error.field, error.nearest) == (3, "server.hots", "host")
    assert "did you mean 'host'?" in str(error)


def test_a_missing_value_names_the_line_of_its_section() -> None:
    (error,) = errors_of("names: []\nserver:\n  host: x\n")
    assert (error.line, error.field) == (2, "server.port")


def test_every_mistake_is_told_in_the_order_of_the_file() -> None:
    errors = errors_of("names: [1]\nserver:\n  port: x\n  hots: y\n")
    assert [(error.line, error.field) for error in errors] == [
        (1, "names[0]"),
        (3, "server.port"),
        (4, "server.hots"),
    ]


def test_a_key_that_stands_twice_is_refused() -> None:
    (error,) = errors_of("server: {port: 1}\nserver: {port: 2}\n")
    assert (error.line, error.field, error.allowed) == (2, "server", "a key stands once")


@pytest.mark.parametrize(
    "text",
    [
        "server: [",
        "a: b: c",
        "\t- x",
        "- a list",
        "just text",
        "",
        "? [a]\n: b",
        "&a [*a]",
        "a: &a [*a]",
        "x: 2026-13-45",
        "[" * 500,
        "x: !!python/object/apply:os.system ['true']",
        "\x00",
    ],
)
def test_what_is_no_document_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(DocumentErrors) as raised:
        load_document(text, "a.yaml")
    assert len(raised.value.errors) == 1
    assert str(raised.value).startswith("a.yaml")


def test_a_text_too_long_for_a_document_is_refused_unread() -> None:
    with pytest.raises(DocumentErrors, match="at most 100000 characters"):
        load_document("a: b\n" * 30_000, "a.yaml")


def test_aliases_that_unfold_into_billions_of_values_are_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for level in range(1, 12):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]")
    with pytest.raises(DocumentErrors, match="at most 50000 values"):
        load_document("\n".join(lines), "a.yaml")
