"""turnwise conversation: what is remembered, as a running gateway shows it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO
from urllib.parse import quote

import typer

from gateway.cli.output import (
    CommandFailed,
    ConfigPath,
    JsonFlag,
    load_settings_or_fail,
    note,
    say,
    say_json,
    say_table,
)

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession
    from yarl import URL

app = typer.Typer(help="What is remembered of a conversation.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The conversation's id.")]
Url = Annotated[str | None, typer.Option(help="The gateway; the configured one by default.")]
Key = Annotated[str | None, typer.Option(help="A tenant's key; the demo key by default.")]
_PIECE_BYTES = 256 * 1024
_SHOWN_CHARACTERS = 100
_PARTS = ("instructions", "summary", "recent", "recalled", "turn")


@app.command()
def context(
    conversation: Name,
    question: Annotated[str, typer.Argument(help="What the user would say next.")],
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="The room; the model's own.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Whose tokens are counted.")] = None,
    url: Url = None,
    key: Key = None,
    config: ConfigPath = None,
    as_json: JsonFlag = False,
) -> None:
    """Show what a model would see, and how many tokens each part takes."""
    body: dict[str, Any] = {"input": question, "max_tokens": max_tokens, "model": model}
    body = {name: value for name, value in body.items() if value is not None}

    async def ask(gateway: _Gateway) -> Any:
        async with gateway.client.post(gateway.at(conversation, "context"), json=body) as answer:
            return await _checked(answer)

    told = _run(ask, url, key, config)
    if as_json:
        say_json(told)
        return
    for message in told["messages"]:
        say(f"[{message['role']}] {_text_of(message)}")
    say()
    rows = [(name, told["tokens_by_part"][name]) for name in _PARTS]
    say_table(("part", "tokens"), [*rows, ("all", told["tokens"])])
    say(f"{told['left_out']} items are left out")


@app.command()
def show(
    conversation: Name,
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many of the newest items.")] = 20,
    url: Url = None,
    key: Key = None,
    config: ConfigPath = None,
    as_json: JsonFlag = False,
) -> None:
    """Show a conversation and its newest items, oldest of them first."""

    async def ask(gateway: _Gateway) -> Any:
        async with gateway.client.get(gateway.at(conversation)) as answer:
            head = await _checked(answer)
        async with gateway.client.get(gateway.at(conversation, f"items?limit={limit}")) as answer:
            return {**head, "items": (await _checked(answer))["data"][::-1]}

    told = _run(ask, url, key, config)
    if as_json:
        say_json(told)
        return
    say(f"{told['id']}: {told['n_items']} items, metadata {json.dumps(told['metadata'])}")
    rows = [
        (item["seq"], item["id"], item["role"], _text_of(item)[:_SHOWN_CHARACTERS])
        for item in told["items"]
    ]
    say_table(("seq", "id", "role", "text"), rows)


@app.command()
def export(
    conversation: Name,
    out: Annotated[Path | None, typer.Option(help="The file; stdout by default.")] = None,
    url: Url = None,
    key: Key = None,
    config: ConfigPath = None,
) -> None:
    """Write a conversation as JSON Lines."""

    async def ask(gateway: _Gateway) -> None:
        async with gateway.client.get(gateway.at(conversation, "export")) as answer:
            if answer.status != 200:
                await _checked(answer)
            async for piece in answer.content.iter_chunked(_PIECE_BYTES):
                file.write(piece)

    with out.open("wb") if out else nullcontext(typer.get_binary_stream("stdout")) as file:
        _run(ask, url, key, config)
        file.flush()


@app.command("import")
def import_file(
    file: Annotated[Path, typer.Argument(help="JSON Lines, as export writes them.")],
    conversation: Annotated[
        str | None, typer.Option("--id", help="Under this name; the file's own by default.")
    ] = None,
    url: Url = None,
    key: Key = None,
    config: ConfigPath = None,
    as_json: JsonFlag = False,
) -> None:
    """Take a file over; doing it again goes on where it broke off."""
    name = conversation or _name_in(file)

    async def ask(gateway: _Gateway) -> Any:
        async with gateway.client.post(
            gateway.at(name, "import"), data=_pieces(lines, size)
        ) as answer:
            return await _checked(answer)

    size = file.stat().st_size
    with file.open("rb") as lines:
        told = _run(ask, url, key, config)
    if as_json:
        say_json(told)
    else:
        say(f"{told['id']}: {told['n_items']} items, {told['n_new']} of them new")


@app.command()
def delete(
    conversation: Name,
    url: Url = None,
    key: Key = None,
    config: ConfigPath = None,
    as_json: JsonFlag = False,
) -> None:
    """Delete a conversation with all that was derived from it."""

    async def ask(gateway: _Gateway) -> Any:
        async with gateway.client.delete(gateway.at(conversation)) as answer:
            return await _checked(answer)

    told = _run(ask, url, key, config)
    if as_json:
        say_json(told)
    else:
        say(f"{conversation} is deleted")


@dataclass(frozen=True, slots=True)
class _Gateway:
    """A running gateway and a client that carries the key."""

    url: str
    client: ClientSession

    def at(self, name: str, *rest: str) -> URL:
        """Return the address of a conversation; its name stays encoded, dots and slashes too."""
        from yarl import URL

        path = "/".join([quote(name, safe="").replace(".", "%2E"), *rest])
        return URL(f"{self.url}/v1/conversations/{path}", encoded=True)


def _run(
    ask: Callable[[_Gateway], Awaitable[Any]], url: str | None, key: str | None, config: Path | None
) -> Any:
    """Return what `ask` gets of the gateway."""
    if url is None or key is None:
        from gateway.cli.serving import base_url

        settings = load_settings_or_fail(config, is_dry=True)
        url, key = url or base_url(settings), key or settings.demo_key
    if key is None:
        raise CommandFailed("give a tenant's key with --key", code=2)
    return asyncio.run(_asked(ask, url.rstrip("/"), key))


async def _asked(ask: Callable[[_Gateway], Awaitable[Any]], url: str, key: str) -> Any:
    from aiohttp import ClientError, ClientSession, ClientTimeout

    timeout = ClientTimeout(total=None, sock_connect=5, sock_read=60)
    headers = {"authorization": f"Bearer {key}"}
    try:
        async with ClientSession(headers=headers, timeout=timeout) as client:
            return await ask(_Gateway(url, client))
    except (ClientError, TimeoutError) as error:
        raise CommandFailed(f"{url}: {type(error).__name__}: {error}") from error


async def _checked(answer: ClientResponse) -> Any:
    """Return the JSON of an answer; a refusal is the gateway's own sentence."""
    told = await answer.json(content_type=None)
    if answer.status >= 400:
        raise CommandFailed(str(((told or {}).get("error") or {}).get("message", answer.status)))
    return told


def _name_in(file: Path) -> str:
    """Return the id that the first line of an export tells."""
    with file.open(encoding="utf-8") as lines:
        try:
            head = json.loads(lines.readline())
        except ValueError:
            head = None
    if isinstance(head, dict) and head.get("object") == "conversation" and head.get("id"):
        return str(head["id"])
    raise CommandFailed(f"{file} does not begin with a conversation's line; name it with --id")


async def _pieces(file: BinaryIO, size: int) -> AsyncIterator[bytes]:
    """Yield a file in pieces, telling on a terminal how far it is."""
    sent, is_shown = 0, sys.stderr.isatty()
    while piece := await asyncio.to_thread(file.read, _PIECE_BYTES):
        yield piece
        sent += len(piece)
        if is_shown:
            typer.echo(f"\r{100 * sent // size} % of {size} bytes", err=True, nl=False)
    if is_shown:
        note("")


def _text_of(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    return json.dumps(content or message.get("tool_calls"), ensure_ascii=False)
