"""The composition root: settings in, a running gateway out; it and the openings name every part."""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime

import orjson
from fastapi import FastAPI
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import Response

from gateway.auth import Authenticator
from gateway.backends import open_backends
from gateway.backends.base import Backend
from gateway.backends.retry import Retry
from gateway.background import Background
from gateway.bookkeeping import BOOK_S, SWEEP_S, Bookkeeper
from gateway.budget_watch import WATCH_S, BudgetWatch
from gateway.dashboard.session import Sessions
from gateway.erasure import Eraser
from gateway.front import Front
from gateway.health import Health, State
from gateway.http_errors import EXPECTED_ERRORS, http_error_of
from gateway.idempotency import RENEW_EVERY_S, IdempotencyStore
from gateway.replicas import POLL_S
from gateway.routes import admin, conversations, costs, dashboard, pages, system, transfer, turns
from gateway.routes.chat import ChatEndpoint
from gateway.services import Services
from gateway.settings import Settings, shared_metrics_folder
from gateway.state import GuardedRedis
from gateway.store_opening import Stores, open_stores
from gateway.telemetry import Degradations, Metrics
from gateway.tenant_erasure import TenantErasure
from gateway.tenants import TenantStore
from gateway.turn_opening import Answering, open_answering
from policies.reports import Reports
from router.route import Router

log = logging.getLogger("turnwise")
MAX_BODY_BYTES = 20 * 1024 * 1024


def utc_now() -> datetime:
    """Return the time now, aware UTC."""
    return datetime.now(UTC)


class _Ids:
    """Makes ids: a prefix and 96 random bits in hex.

    The bits are read in blocks, because the system call costs more than everything else in an id.
    """

    _N_BYTES = 12

    def __init__(self) -> None:
        self._block = b""
        self._at = 0

    def __call__(self, prefix: str) -> str:
        """Return a fresh id."""
        at = self._at
        if at >= len(self._block):
            self._block, at = secrets.token_bytes(self._N_BYTES * 256), 0
        self._at = at + self._N_BYTES
        return f"{prefix}_{self._block[at : self._at].hex()}"


new_id = _Ids()


def build_app(services: Services) -> Front:
    """Return the ASGI application over finished services."""
    app = FastAPI(title="Turnwise", docs_url=None, redoc_url=None)
    app.state.services = services
    for router in (
        system.router,
        turns.router,
        costs.router,
        transfer.router,
        conversations.router,
        admin.router,
        pages.router,
        dashboard.router,
    ):
        app.include_router(router)
    for kind in (*EXPECTED_ERRORS, Exception):  # the last is raised on, and logged by the front
        app.add_exception_handler(kind, _answer_error)
    return Front(
        app,
        direct={ChatEndpoint.path: _chat_endpoint(services)},
        metrics=services.metrics,
        new_id=new_id,
        max_body_bytes=MAX_BODY_BYTES,
    )


@asynccontextmanager
async def open_services(
    settings: Settings, *, backends: Mapping[str, Backend] | None = None
) -> AsyncIterator[Services]:
    """Yield the services of one process, closed in reverse order at the end.

    Args:
        settings: what to open.
        backends: finished backends to use; None opens the configured ones.
    """
    metrics = Metrics(shared_metrics_folder())
    degradations = Degradations(metrics)
    async with AsyncExitStack() as stack:
        stores = await open_stores(settings, stack, utc_now)
        if backends is None:
            opening = open_backends(settings, Retry(metrics.retried))
            backends = await stack.enter_async_context(opening)
        background = await stack.enter_async_context(Background())
        answering = await open_answering(
            settings,
            stores,
            backends,
            background,
            metrics,
            degradations,
            stack,
            clock=utc_now,
            new_id=new_id,
        )
        health = _health(stores.redis, stores.tenants, answering.router, backends)
        services = _services(settings, stores, answering, metrics, degradations, health)
        keeper = Bookkeeper(stores.ledger, stores.books, stores.tenants, degradations)
        health.checks["books"] = keeper.state
        _begin_rounds(background, services, keeper)
        stack.push_async_callback(stores.replicas.leave)
        await stores.replicas.join()
        yield services
        await keeper.book()  # what it cannot book, the next start does


def _services(
    settings: Settings,
    stores: Stores,
    answering: Answering,
    metrics: Metrics,
    degradations: Degradations,
    health: Health,
) -> Services:
    """Return everything under the names that the routes know it by."""
    tenants, books = stores.tenants, stores.books
    authenticator = Authenticator(tenants, admin_key=settings.admin_key, clock=utc_now)
    sessions = Sessions(
        tenants,
        authenticator,
        secret=settings.pepper,
        admin_key=settings.admin_key,
        clock=utc_now,
    )
    idempotency = IdempotencyStore(stores.redis)
    traces = [idempotency.traces, answering.cache.traces]
    eraser = Eraser(answering.memory, answering.encodings, traces, books, utc_now)
    servers = [stores.redis, stores.cache_redis]
    return Services(
        settings=settings,
        clock=utc_now,
        database=stores.database,
        tenants=tenants,
        authenticator=authenticator,
        sessions=sessions,
        audit=stores.audit,
        replicas=stores.replicas,
        policies=stores.policies,
        ledger=stores.ledger,
        alerts=stores.alerts,
        books=books,
        reports=Reports(books, answering.meter.rates),
        memory=answering.memory,
        models=answering.models,
        responder=answering.responder,
        idempotency=idempotency,
        eraser=eraser,
        tenant_erasure=TenantErasure(stores.redis, servers, eraser, tenants),
        metrics=metrics,
        degradations=degradations,
        health=health,
    )


def _begin_rounds(background: Background, services: Services, keeper: Bookkeeper) -> None:
    """Begin what is done again and again for as long as the process serves."""
    ledger, replicas = services.ledger, services.replicas
    alerts = BudgetWatch(ledger, services.alerts, services.metrics)
    background.every(1.0, "settling", ledger.send_unsent)
    background.every(BOOK_S, "booking", keeper.book)
    background.every(WATCH_S, "budget alerts", alerts.look)
    background.every(30.0, "leases", ledger.renew)
    background.every(RENEW_EVERY_S, "idempotency", services.idempotency.renew)
    background.every(SWEEP_S, "sweep", keeper.sweep)
    background.every(2.0, "policies", services.policies.refresh)
    background.every(2.0, "erasure", lambda: services.tenant_erasure.run(utc_now()))
    replicas.follow += [services.policies.refresh, services.authenticator.forget]
    background.every(POLL_S, "replicas", replicas.poll)


def _health(
    redis: GuardedRedis, tenants: TenantStore, router: Router, backends: Mapping[str, Backend]
) -> Health:
    async def redis_state() -> State:
        await redis.ping()
        return "ready"

    async def database_state() -> State:
        await tenants.version()
        return "ready"

    async def classifier_state() -> State:
        return "ready" if router.is_ready else "degraded"

    health = Health(
        {"redis": redis_state, "database": database_state, "classifier": classifier_state}
    )
    for name, backend in backends.items():
        state = getattr(backend, "health", None)
        if state is not None:
            health.checks[f"backend:{name}"] = state
    return health


def _chat_endpoint(services: Services) -> ChatEndpoint:
    return ChatEndpoint(
        authenticator=services.authenticator,
        responder=services.responder,
        idempotency=services.idempotency,
        degradations=services.degradations,
        clock=utc_now,
    )


async def _answer_error(request: Request, error: Exception) -> Response:
    failure = http_error_of(error)
    if isinstance(error, SQLAlchemyError):  # a silent Redis is logged by its handle, once
        log.error("%s failed: %s: %s", request.url.path, type(error).__name__, error)
    return Response(
        orjson.dumps(failure.body()),
        status_code=failure.status,
        media_type="application/json",
        headers=dict(failure.headers),
    )
