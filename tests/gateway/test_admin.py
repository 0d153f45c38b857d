from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from redis.asyncio import Redis
from starlette.requests import Request
from starlette.responses import JSONResponse

from gateway.audit import AuditLog
from gateway.auth import Authenticator
from gateway.database import open_database
from gateway.http_errors import http_error_of
from gateway.replicas import Replicas
from gateway.routes import admin
from gateway.settings import Settings, load_settings
from gateway.tenants import TenantStore
from policies.store import PolicyStore
from tests.tables import make_tables

ADMIN = {"authorization": "Bearer the admin key"}


class FakeErasure:
    """Remembers which tenants are to be forgotten."""

    def __init__(self) -> None:
        self.wanted: list[str] = []

    async def want(self, tenant: str, _deleted_at: datetime) -> None:
        self.wanted.append(tenant)


@dataclass
class Wiring:
    """As much of the gateway's services as the admin surface uses."""

    settings: Settings
    tenants: TenantStore
    authenticator: Authenticator
    policies: PolicyStore
    replicas: Replicas
    audit: AuditLog
    tenant_erasure: FakeErasure

    @staticmethod
    def clock() -> datetime:
        return datetime.now(UTC)


Ask = Callable[..., Awaitable[httpx2.Response]]


@pytest.fixture
async def wiring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, redis: Redis
) -> AsyncIterator[Wiring]:
    monkeypatch.chdir(tmp_path)
    settings = load_settings(None, {})
    engine = open_database(settings.ledger.url)
    make_tables(engine)
    tenants = TenantStore(engine, pepper=settings.pepper, clock=lambda: datetime.now(UTC))
    await tenants.prepare(settings.tenants)
    authenticator = Authenticator(
        tenants, admin_key="the admin key", clock=lambda: datetime.now(UTC)
    )
    policies = PolicyStore(
        engine, settings.catalog, folders=settings.policy_dirs, clock=lambda: datetime.now(UTC)
    )
    await policies.prepare(["default"])
    audit = AuditLog(engine, lambda: datetime.now(UTC))
    replicas, erasure = Replicas(redis), FakeErasure()
    yield Wiring(settings, tenants, authenticator, policies, replicas, audit, erasure)
    engine.dispose()


@pytest.fixture
def ask(wiring: Wiring) -> Ask:
    """Ask the admin surface in process, over ASGI."""
    app = FastAPI()
    app.state.services = wiring
    app.include_router(admin.router)

    async def failed(_: Request, error: Exception) -> JSONResponse:
        failure = http_error_of(error)
        return JSONResponse(failure.body(), status_code=failure.status)

    @app.middleware("http")
    async def name(request: Request, call_next: Callable[..., Awaitable[Any]]) -> Any:
        request.state.request_id = "req_test"  # the front's work
        return await call_next(request)

    app.add_exception_handler(Exception, failed)
    app.add_exception_handler(RequestValidationError, failed)

    async def ask(
        method: str, path: str, body: Any = None, headers: dict[str, str] = ADMIN
    ) -> httpx2.Response:
        content = body if isinstance(body, bytes) or body is None else json.dumps(body)
        transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(
                method,
                path,
                content=content,
                headers={"content-type": "application/json", **headers},
            )

    return ask


async def test_a_tenant_is_made_and_read_back(ask: Ask) -> None:
    made = await ask("PUT", "/admin/tenants/acme", {"currency": "INR", "timezone": "Asia/Kolkata"})

    assert made.status_code == 200
    read = await ask("GET", "/admin/tenants/acme")
    assert read.json() == made.json()
    assert read.json()["currency"] == "INR"


async def test_a_tenant_may_be_made_with_no_body_at_all(ask: Ask) -> None:
    assert (await ask("PUT", "/admin/tenants/acme")).status_code == 200


async def test_a_made_key_opens_the_tenants_surface_and_is_listed_without_its_secret(
    ask: Ask, wiring: Wiring
) -> None:
    await ask("PUT", "/admin/tenants/acme")

    made = await ask("POST", "/admin/tenants/acme/keys", {"name": "backend"})

    principal = await wiring.authenticator.authenticate(
        {"authorization": f"Bearer {made.json()['key']}"}
    )
    assert principal.tenant.id == "acme"
    listed = await ask("GET", "/admin/tenants/acme/keys")
    assert [key["id"] for key in listed.json()["data"]] == [made.json()["id"]]
    assert made.json()["key"] not in json.dumps(listed.json())


async def test_a_revoked_key_is_refused_at_once(ask: Ask, wiring: Wiring) -> None:
    made = await ask("POST", "/admin/tenants/demo/keys", {"name": "backend"})
    headers = {"authorization": f"Bearer {made.json()['key']}"}
    await wiring.authenticator.authenticate(headers)

    revoked = await ask("DELETE", f"/admin/keys/{made.json()['id']}")

    assert revoked.status_code == 200
    refused = await ask("GET", "/admin/tenants", headers=headers)
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code", "param"),
    [
        ("GET", "/admin/tenants/nobody", None, 404, "not_found", None),
        ("DELETE", "/admin/tenants/nobody", None, 404, "not_found", None),
        ("GET", "/admin/tenants/nobody/keys", None, 404, "not_found", None),
        ("POST", "/admin/tenants/nobody/keys", {"name": "x"}, 404, "not_found", None),
        ("DELETE", "/admin/keys/nobody", None, 404, "not_found", None),
        ("PUT", "/admin/tenants/Acme!", {}, 400, "invalid_value", "tenant_id"),
        ("PUT", "/admin/tenants/acme", {"currency": "EUR"}, 400, "invalid_value", "currency"),
        ("PUT", "/admin/tenants/acme", {"currency": "rupee"}, 400, "invalid_value", "currency"),
        ("PUT", "/admin/tenants/acme", {"timezone": "Mars/X"}, 400, "invalid_value", "timezone"),
        ("PUT", "/admin/tenants/acme", {"limit": 1}, 400, "invalid_value", "limit"),
        ("PUT", "/admin/tenants/acme", b"{", 400, "invalid_json", None),
        ("PUT", "/admin/tenants/acme", [1], 400, "invalid_value", None),
        ("POST", "/admin/tenants/demo/keys", {}, 400, "missing_required_parameter", "name"),
        ("PUT", "/admin/tenants/acme", {"policy": "defualt"}, 400, "invalid_value", "policy"),
        ("PUT", "/admin/tenants/demo/policy", b"", 400, "invalid_policy", None),
        ("PUT", "/admin/tenants/demo/policy", b"\xff\xfe", 400, "invalid_policy", None),
        ("PUT", "/admin/tenants/demo/policy", {"routing": {}}, 400, "invalid_policy", None),
        ("PUT", "/admin/tenants/nobody/policy", {}, 404, "not_found", None),
        ("GET", "/admin/tenants/nobody/policy", None, 404, "not_found", None),
        ("GET", "/admin/tenants/demo/policy/versions/7", None, 404, "not_found", None),
        ("GET", "/admin/tenants/demo/policy/versions/x", None, 400, "invalid_value", "number"),
        ("POST", "/admin/tenants/demo/policy/rollback", {"version": 7}, 404, "not_found", None),
        (
            "POST",
            "/admin/tenants/demo/keys",
            {"name": "x", "scopes": ["root"]},
            400,
            "invalid_value",
            "scopes",
        ),
        (
            "POST",
            "/admin/tenants/demo/keys",
            {"name": "x", "expires_at": "2001-01-01T00:00:00Z"},
            400,
            "invalid_value",
            "expires_at",
        ),
    ],
)
async def test_a_bad_request_gets_the_contracts_error(
    ask: Ask, method: str, path: str, body: Any, status: int, code: str, param: str | None
) -> None:
    reply = await ask(method, path, body)

    error = reply.json()["error"]
    assert (reply.status_code, error["code"]) == (status, code)
    assert error["type"] == "invalid_request_error"
    if param is not None:
        assert error["param"] == param


async def test_without_an_admin_key_nothing_is_told(ask: Ask, wiring: Wiring) -> None:
    tenant_key = {"authorization": f"Bearer {wiring.settings.demo_key}"}

    none = await ask("GET", "/admin/tenants", headers={})
    wrong = await ask("GET", "/admin/tenants", headers={"x-api-key": "guess"})
    tenants = await ask("GET", "/admin/tenants", headers=tenant_key)

    assert (none.status_code, wrong.status_code, tenants.status_code) == (401, 401, 403)
    assert tenants.json()["error"]["code"] == "insufficient_scope"


async def test_a_deleted_tenants_keys_stop(ask: Ask, wiring: Wiring) -> None:
    await ask("PUT", "/admin/tenants/acme")
    made = await ask("POST", "/admin/tenants/acme/keys", {"name": "backend"})

    await ask("DELETE", "/admin/tenants/acme")

    headers = {"authorization": f"Bearer {made.json()['key']}"}
    assert (await ask("GET", "/admin/tenants", headers=headers)).status_code == 401
    assert wiring.tenant_erasure.wanted == ["acme"]


FRUGAL = "routing: {tiers: {small: [local-small]}}"
LAVISH = {"routing": {"tiers": {"strong": ["strong"]}}}


async def test_until_one_is_put_the_policy_is_the_files(ask: Ask) -> None:
    reply = await ask("GET", "/admin/tenants/demo/policy")

    assert (reply.json()["name"], reply.json()["version"]) == ("default", 0)
    assert reply.headers["etag"] == reply.json()["etag"]


async def test_a_put_policy_is_live_when_the_answer_comes(ask: Ask, wiring: Wiring) -> None:
    reply = await ask("PUT", "/admin/tenants/demo/policy", FRUGAL.encode())

    assert reply.json()["version"] == 1
    assert len(reply.json()["live_on"]) == 1
    live = wiring.policies.policy_of("demo", "default")
    assert [tier.name for tier in live.tiers] == ["small"]
    assert (await ask("GET", "/admin/tenants/demo/policy")).json()["text"] == FRUGAL


async def test_a_policy_may_be_put_as_json(ask: Ask) -> None:
    await ask("PUT", "/admin/tenants/demo/policy", LAVISH)

    assert (await ask("GET", "/admin/tenants/demo/policy")).json()["policy"] == LAVISH


async def test_a_wrong_policy_is_refused_and_the_last_good_one_stays(
    ask: Ask, wiring: Wiring
) -> None:
    reply = await ask("PUT", "/admin/tenants/demo/policy", {"routing": {"teirs": {}}})

    assert "did you mean 'tiers'?" in reply.json()["error"]["message"]
    assert wiring.policies.policy_of("demo", "default").version == 0


async def test_of_two_who_edit_the_same_version_the_second_is_refused(ask: Ask) -> None:
    etag = (await ask("GET", "/admin/tenants/demo/policy")).headers["etag"]
    headers = {**ADMIN, "if-match": etag}

    first = await ask("PUT", "/admin/tenants/demo/policy", LAVISH, headers)
    second = await ask("PUT", "/admin/tenants/demo/policy", LAVISH, headers)

    assert (first.status_code, second.status_code) == (200, 412)
    assert second.json()["error"]["code"] == "policy_conflict"


async def test_rolling_back_puts_an_old_version_as_a_new_one(ask: Ask) -> None:
    await ask("PUT", "/admin/tenants/demo/policy", FRUGAL.encode())
    await ask("PUT", "/admin/tenants/demo/policy", LAVISH)

    reply = await ask("POST", "/admin/tenants/demo/policy/rollback", {"version": 1})

    assert reply.json()["version"] == 3
    assert (await ask("GET", "/admin/tenants/demo/policy")).json()["text"] == FRUGAL
    listed = (await ask("GET", "/admin/tenants/demo/policy/versions")).json()["data"]
    assert [version["version"] for version in listed] == [3, 2, 1]
