"""The conversation commands against a running gateway."""

import asyncio
import json

import pytest

from gateway.__main__ import main

NAME = "trip/../2026"


@pytest.fixture
def turnwise(gateway, capfdbinary):
    async def run(*arguments):
        options = ["--url", gateway.url, "--key", gateway.key]
        with pytest.raises(SystemExit) as ended:
            await asyncio.to_thread(main, ["conversation", *arguments, *options])
        return ended.value.code or 0, capfdbinary.readouterr()

    return run


async def test_context_tells_what_the_model_would_see_token_by_part(gateway, turnwise):
    await gateway.chat("My order number is 48213.", conversation=NAME)
    code, told = await turnwise("context", NAME, "Which number?", "--max-tokens", "300")
    assert code == 0
    assert b"[user] My order number is 48213." in told.out
    assert b"[user] Which number?" in told.out
    code, told = await turnwise("context", NAME, "Which number?", "--json")
    shown = json.loads(told.out)
    assert sum(shown["tokens_by_part"].values()) == shown["tokens"]
    assert shown["tokens_by_part"]["recent"] > 0
    assert shown["tokens_by_part"]["recalled"] == 0


async def test_a_conversation_is_exported_deleted_and_imported_again(gateway, turnwise, tmp_path):
    await gateway.chat("My order number is 48213.", conversation=NAME)
    file = tmp_path / "trip.jsonl"
    assert (await turnwise("export", NAME, "--out", str(file)))[0] == 0
    _, told = await turnwise("export", NAME)
    assert told.out == file.read_bytes()
    assert (await turnwise("delete", NAME))[0] == 0
    code, told = await turnwise("show", NAME)
    assert (code, told.err.startswith(b"turnwise: no conversation")) == (1, True)
    code, told = await turnwise("import", str(file))
    assert (code, told.out) == (0, f"{NAME}: 2 items, 2 of them new\n".encode())
    _, told = await turnwise("show", NAME)
    assert b"48213" in told.out


async def test_a_file_that_names_no_conversation_needs_a_name(turnwise, tmp_path):
    file = tmp_path / "bare.jsonl"
    file.write_text('{"role": "user", "content": "hello"}\n')
    assert (await turnwise("import", str(file)))[0] == 1
    code, told = await turnwise("import", str(file), "--id", "bare")
    assert (code, told.out) == (0, b"bare: 1 items, 1 of them new\n")
