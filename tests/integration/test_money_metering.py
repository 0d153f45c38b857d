"""Nothing reaches a model past the ledger: every route, every helper, every way of a turn."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from sqlalchemy import select

from gateway.app import build_app
from gateway.errors import BackendUnavailable
from policies.ledger import ledger_keys
from policies.tables import entries_table
from tests.fakes import until

from .conftest import ADMIN_KEY, ScriptedBackend, running

ROOT = Path(__file__).parent.parent.parent
POLICY = """
routing: {tiers: {small: [local-small], strong: [strong]}, thresholds: {strong: 0.5}}
budget: {limit: "100 USD"}
memory: {summary: abstractive}
"""
# Where the gateway asks a model. Each of these notes what it was given with the turn's meter; a new
# place belongs behind the meter too, and then on this list.
ASKERS = {
    "gateway/attempts.py:_asked": "self._metered.asked(",
    "gateway/summaries.py:_collected": "metered: MeteredTurn",
}
# What can talk HTTP to somebody: the backends, and clients of the gateway itself.
HTTP_CLIENTS = {"aiohttp", "httpx", "openai", "anthropic", "litellm", "requests", "urllib3"}
MAY_IMPORT_ONE = ("gateway/backends/", "gateway/cli/conversation.py", "gateway/demo_client.py")

CHAT = {"model": "auto", "messages": [{"role": "user", "content": "hello"}]}
ITEMS = {
    "items": [
        {"role": "user", "content": f"My locker {n} has the code {n}X{n}. {'It is quiet. ' * 9}"}
        for n in range(32)
    ]
}
# What each route that takes a body is sent. One that is missing here fails the test below.
BODIES: dict[str, Any] = {
    "POST /v1/chat/completions": CHAT,
    "POST /v1/route": CHAT,
    "POST /v1/turns/{request_id}/feedback": {"thumbs": "up"},
    "POST /v1/conversations": {"id": "talk"},
    "POST /v1/conversations/{conversation_id}": {"metadata": {"a": "b"}},
    "POST /v1/conversations/{conversation_id}/items": ITEMS,
    "POST /v1/conversations/{conversation_id}/context": {"input": "which lockers?"},
    "POST /v1/conversations/{conversation_id}/import": {"role": "user", "content": "hello"},
    "PUT /admin/tenants/{tenant_id}": {},
    "POST /admin/tenants/{tenant_id}/keys": {"name": "app"},
    "PUT /admin/tenants/{tenant_id}/policy": POLICY,
    "POST /admin/tenants/{tenant_id}/policy/replay": POLICY,
    "POST /admin/tenants/{tenant_id}/policy/rollback": {"version": 1},
}
# The dashboard's forms; each is sent with the token of its session.
FORMS: dict[str, dict[str, str]] = {
    "POST /dashboard/login": {"key": ADMIN_KEY},
    "POST /dashboard/logout": {},
    "POST /dashboard/keys": {"name": "app"},
    "POST /dashboard/keys/{key_id}/revoke": {},
    "POST /dashboard/policies": {"text": POLICY},
    "POST /dashboard/policies/{number}/rollback": {},
}
LAST = ("POST /dashboard/logout", "DELETE")  # what takes something away from the others


class Watching(ScriptedBackend):
    """Answers, and notes every call for which no entry of the ledger is open."""

    def __init__(self, *script: Any) -> None:
        super().__init__(*script)
        self.redis: Any = None
        self.unmetered: list[str] = []

    async def stream(self, call):
        opened = await self.redis.hkeys(ledger_keys("demo").open)
        if not any(name.decode().rpartition(":")[0] == call.request_id for name in opened):
            self.unmetered.append(call.request_id)
        async for event in super().stream(call):
            yield event


def routes_of(app: Any) -> Iterator[str]:
    """Yield every route as `METHOD /path`, those of included routers too."""
    waiting = list(app.routes)
    while waiting:
        route = waiting.pop()
        nested = getattr(route, "effective_candidates", None)
        if nested is not None:
            waiting += nested()
        elif hasattr(route, "methods"):
            yield from (f"{method} {route.path}" for method in route.methods or ())


def places_of(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Yield every call inside a function, with the name of the innermost one."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.Call):
                    yield function.name, node


def sources() -> Iterator[tuple[str, str]]:
    for package in ("gateway", "router", "memory", "policies"):
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


def test_models_are_asked_in_known_places_alone_and_each_is_metered() -> None:
    found = {}
    for name, text in sources():
        if name.startswith("gateway/backends/"):
            continue
        for function, call in places_of(ast.parse(text)):
            target = call.func
            is_stream = isinstance(target, ast.Attribute) and target.attr == "stream"
            if is_stream and ast.unparse(target.value).endswith("backend"):
                found[f"{name}:{function}"] = text
    assert found.keys() == ASKERS.keys()
    for place, text in found.items():
        assert ASKERS[place] in text
        assert "metered.delivered(" in text


def test_a_backend_is_handed_to_nobody_who_could_ask_it_unmetered() -> None:
    """`.backend` of a served model is read where it is asked, and nowhere else."""
    readers = set()
    for name, text in sources():
        for node in ast.walk(ast.parse(text)):
            is_read = isinstance(node, ast.Attribute) and node.attr == "backend"
            if is_read and ast.unparse(node.value) in ("model", "served"):
                readers.add(name)
    readers.remove("gateway/settings_reader.py")  # its models are the file's: a backend's name
    assert readers == {place.partition(":")[0] for place in ASKERS}


def test_only_backends_and_clients_of_the_gateway_can_speak_http() -> None:
    for name, text in sources():
        if name.startswith(MAY_IMPORT_ONE):
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                names = {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = {(node.module or "").partition(".")[0]}
            else:
                continue
            assert not names & HTTP_CLIENTS, f"{name} could reach a model past the meter"


@pytest.fixture
def with_policy(settings, tmp_path):
    folder = tmp_path / "policies"
    folder.mkdir(exist_ok=True)
    (folder / "own.yaml").write_text(POLICY, encoding="utf-8")
    tenants = {id: replace(each, policy="own") for id, each in settings.tenants.items()}
    return replace(settings, tenants=tenants, policy_dirs=(folder, *settings.policy_dirs))


def path_of(route: str, request_id: str) -> str:
    names = {"tenant_id": "demo", "conversation_id": "talk", "request_id": request_id}
    return re.sub(r"{(\w+)(:path)?}", lambda found: names.get(found[1], "1"), route.split(" ")[1])


def order_of(route: str) -> tuple[bool, bool, int]:
    """Sort what takes something away last, and of that the tenant after its conversations."""
    return route.startswith(LAST), "/admin/" in route, len(route)


class Visitor:
    """Asks for any route: with a key, and on the dashboard with a session."""

    def __init__(self, gateway: Any, session: aiohttp.ClientSession) -> None:
        self._gateway = gateway
        self._session = session

    async def sign_in(self) -> None:
        await self.status_of("POST /dashboard/login", "")

    async def _form(self, fields: dict[str, str]) -> dict[str, str]:
        url = f"{self._gateway.url}/dashboard/policies?tenant=demo"
        async with self._session.get(url) as response:
            found = re.search(r'name="csrf" value="(\w+)"', await response.text())
        return {**fields, "tenant": "demo", "csrf": found[1] if found else ""}

    async def status_of(self, route: str, request_id: str) -> int:
        method, path = route.split(" ")[0], path_of(route, request_id)
        if route in FORMS:
            options: dict[str, Any] = {"data": await self._form(FORMS[route])}
        else:
            body = BODIES.get(route)
            options = {"data": body if isinstance(body, str | None) else json.dumps(body)}
            options["headers"] = {"content-type": "application/json"}
            if not path.startswith("/dashboard"):
                key = ADMIN_KEY if path.startswith("/admin") else self._gateway.key
                options["headers"]["authorization"] = f"Bearer {key}"
        async with self._session.request(
            method, self._gateway.url + path, allow_redirects=False, **options
        ) as response:
            await response.read()
            return response.status


async def test_no_route_reaches_a_model_without_an_open_entry(with_policy, redis):
    near, far = Watching(), Watching()
    near.redis = far.redis = redis
    jar = aiohttp.CookieJar(unsafe=True)  # cookies of an address without a name are kept, too
    async with (
        running(with_policy, near, far) as gateway,
        aiohttp.ClientSession(cookie_jar=jar) as session,
    ):
        front = build_app(gateway.services)
        routes = {f"POST {path}" for path in front._direct} | set(routes_of(front._app))
        visitor = Visitor(gateway, session)
        await visitor.sign_in()
        _, headers, _ = await gateway.chat("first")
        statuses = {}
        for route in sorted(routes, key=order_of):
            if route.startswith(("POST", "PUT", "PATCH")):
                assert route in BODIES or route in FORMS, f"say what {route} is to be sent"
            statuses[route] = await visitor.status_of(route, headers["x-request-id"])
        await until(lambda: any(is_summary(call) for call in near.calls))
        await entries_of(gateway, near.calls + far.calls)
    assert near.unmetered == far.unmetered == []
    assert {route: status for route, status in statuses.items() if status >= 500} == {}
    # Each was really served, not turned away at the door.
    assert {r: s for r, s in statuses.items() if s in (401, 403, 405, 422)} == {}


@pytest.mark.parametrize(
    "more",
    [
        {"n": 3},
        {"stream": True},
        {"model": "strong"},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]},
        {"metadata": {"conversation_id": "talk"}},
        {"response_format": {"type": "json_object"}},
    ],
)
async def test_each_way_to_chat_opens_and_closes_an_entry(with_policy, redis, more):
    near, far = Watching(), Watching()
    near.redis = far.redis = redis
    async with running(with_policy, near, far) as gateway:
        url = f"{gateway.url}/v1/chat/completions"
        async with gateway.client.post(
            url, json={**CHAT, **more}, headers=gateway.auth()
        ) as response:
            assert response.status == 200
            await response.read()
        (entry,) = await entries_of(gateway, near.calls + far.calls)
    assert (entry["status"], entry["kind"]) == ("complete", "chat")
    assert entry["usd_micro"] > 0
    assert near.unmetered == far.unmetered == []


async def test_each_fallback_has_an_entry_of_its_own(with_policy, redis):
    near, far = Watching(BackendUnavailable("near", "It is down.")), Watching()
    near.redis = far.redis = redis
    async with running(with_policy, near, far) as gateway:
        await gateway.chat(model="auto:fast")
        entries = await entries_of(gateway, near.calls + far.calls)
    assert sorted((entry["n"], entry["status"]) for entry in entries) == [
        (1, "failed"),
        (2, "complete"),
    ]
    assert near.unmetered == far.unmetered == []


def is_summary(call: Any) -> bool:
    return call.params.get("temperature") == 0 and not call.is_stream


async def entries_of(gateway: Any, calls: list[Any]) -> list[dict[str, Any]]:
    """Return the booked entries, once there is one for each call that a backend saw."""
    engine = gateway.services.database
    found: list[dict[str, Any]] = []

    async def has_all() -> bool:
        await gateway.services.books.catch_up("demo")
        with engine.connect() as connection:
            rows = connection.execute(select(entries_table)).all()
        found[:] = [dict(row._mapping) for row in rows]
        return len(found) >= len(calls)

    await until(has_all)
    booked = sorted(entry["request_id"] for entry in found)
    assert booked == sorted(call.request_id for call in calls)
    return found
