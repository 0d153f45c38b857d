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
from starlette.requests import Request
from starlette.responses import JSONResponse

from gateway.auth import Authenticator
from gateway.database import open_database
from gateway.http_errors import http_error_of
from gateway.routes import admin
from gateway.settings import Settings, load_settings
from gateway.tenants import TenantStore

ADMIN = {"authorization": "Bearer the admin key"}


@dataclass
class Wiring:
    """As much of the gateway's services as the admin surface uses."""

    settings: Settings
    tenants: TenantStore
    authenticator: Authenticator


Ask = Callable[..., Awaitable[httpx2.Response]]


@pytest.fixture
async def wiring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Wiring]:
    monkeypatch.chdir(tmp_path)
    settings = load_settings(None, {})
    engine = open_database(settings.ledger.url)
    tenants = TenantStore(engine, pepper=settings.pepper, clock=lambda: datetime.now(UTC))
    await tenants.prepare(settings.tenants)
    authenticator = Authenticator(
        tenants, admin_key="the admin key", clock=lambda: datetime.now(UTC)
    )
    yield Wiring(settings, tenants, authenticator)
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
