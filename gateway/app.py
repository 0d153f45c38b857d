"""The composition root: settings in, a running gateway out; it and the openings name every part."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

import orjson
from fastapi import FastAPI
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import Response

from gateway.answer_cache import AnswerCache
from gateway.audit import AuditLog
from gateway.auth import Authenticator
from gateway.backends import open_backends
from gateway.backends.base import Backend
from gateway.backends.engine import MissingBackend
from gateway.backends.retry import Retry
from gateway.background import Background
from gateway.budget_watch import WATCH_S, BudgetWatch
from gateway.dashboard.session import Sessions
from gateway.database import open_database, upgrade
from gateway.erasure import Eraser
from gateway.front import Front
from gateway.health import Health, State
from gateway.http_errors import EXPECTED_ERRORS, http_error_of
from gateway.idempotency import RENEW_EVERY_S, IdempotencyStore
from gateway.load import Loads
from gateway.memory_opening import open_encodings, open_memory
from gateway.meter import Meter
from gateway.models import ServedModel, ServedModels
from gateway.rate_limit import RateLimiter
from gateway.replicas import POLL_S, Replicas
from gateway.responder import Responder
from gateway.routes import admin, conversations, costs, dashboard, pages, system, transfer, turns
from gateway.routes.chat import ChatEndpoint
from gateway.routing import open_router
from gateway.services import Services
from gateway.settings import Settings, shared_metrics_folder
from gateway.state import (
    GuardedRedis,
    check_mode,
    embedded_redis,
    open_redis,
    warn_of_volatility,
)
from gateway.summaries import SummaryWriter
from gateway.telemetry import Degradations, Metrics
from gateway.tenant_erasure import TenantErasure
from gateway.tenants import TenantStore
from gateway.token_count import TokenCounter, estimate_tokens, local_counter
from memory.response_cache import ResponseCache
from policies.alerts import BudgetAlerts
from policies.books import Books
from policies.ledger import Ledger
from policies.reports import Reports
from policies.store import PolicyStore
from policies.usage import Rates
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
        redis = await _open_redis(settings, stack)
        database = open_database(settings.ledger.url)
        stack.callback(database.dispose)
        await asyncio.to_thread(upgrade, database)
        replicas = Replicas(redis)
        tenants = TenantStore(
            database, pepper=settings.pepper, clock=utc_now, announce=replicas.announce
        )
        await tenants.prepare(settings.tenants)
        policies = PolicyStore(
            database,
            settings.catalog,
            folders=settings.policy_dirs,
            clock=utc_now,
            announce=replicas.announce,
            timezones=tenants.timezones,
        )
        await policies.prepare(sorted({t.policy for t in settings.tenants.values()}))
        for tenant in await tenants.tenants():
            policies.check_file(tenant.policy, tenant.currency)
        books = Books(database, redis)
        ledger = Ledger(redis, utc_now, books.settled_in)
        await books.keep_days_in(await tenants.timezones())
        alerts = BudgetAlerts(database, utc_now)
        audit = AuditLog(database, utc_now)
        if backends is None:
            backends = await stack.enter_async_context(
                open_backends(settings, Retry(metrics.retried))
            )
        models = serve_models(settings, backends)
        background = await stack.enter_async_context(Background())
        meter = Meter(
            ledger,
            models=models,
            rates=_rates(settings),
            degradations=degradations,
            clock=utc_now,
        )
        encodings = open_encodings(settings, redis, degradations, stack)
        router = open_router(encodings, degradations, random.Random().random)
        loads = _loads(settings, backends)
        writer = SummaryWriter(
            tenants=tenants,
            policies=policies,
            catalog=settings.catalog,
            router=router,
            models=models,
            loads=loads,
            meter=meter,
            timeouts=settings.timeouts,
            scope_key=settings.pepper,
            new_id=new_id,
            degradations=degradations,
        )
        memory = await open_memory(
            settings, redis, encodings, writer.complete, degradations, stack, clock=utc_now
        )
        cache_redis = _open_cache(settings, redis, stack)
        cache = ResponseCache(cache_redis)
        idempotency = IdempotencyStore(redis)
        responder = Responder(
            policies=policies,
            catalog=settings.catalog,
            memory=memory,
            router=router,
            models=models,
            loads=loads,
            meter=meter,
            limiter=RateLimiter(redis, utc_now),
            cache=AnswerCache(cache),
            background=background,
            timeouts=settings.timeouts,
            scope_key=settings.pepper,
            metrics=metrics,
            degradations=degradations,
        )
        authenticator = Authenticator(tenants, admin_key=settings.admin_key, clock=utc_now)
        eraser = Eraser(memory, encodings, [idempotency.traces, cache.traces], books, utc_now)
        erasure = TenantErasure(redis, [redis, cache_redis], eraser, tenants)
        services = Services(
            settings=settings,
            clock=utc_now,
            database=database,
            tenants=tenants,
            authenticator=authenticator,
            sessions=Sessions(
                tenants,
                authenticator,
                secret=settings.pepper,
                admin_key=settings.admin_key,
                clock=utc_now,
            ),
            audit=audit,
            replicas=replicas,
            policies=policies,
            ledger=ledger,
            alerts=alerts,
            books=books,
            reports=Reports(books, meter.rates),
            memory=memory,
            models=models,
            responder=responder,
            idempotency=idempotency,
            eraser=eraser,
            tenant_erasure=erasure,
            metrics=metrics,
            degradations=degradations,
            health=_health(redis, tenants, router, backends),
        )
        background.every(1.0, "settling", ledger.send_unsent)
        background.every(1.0, "booking", lambda: _book_touched(services))
        background.every(WATCH_S, "budget alerts", BudgetWatch(ledger, alerts, metrics).look)
        background.every(30.0, "leases", ledger.renew)
        background.every(RENEW_EVERY_S, "idempotency", idempotency.renew)
        background.every(30.0, "sweep", lambda: _sweep(services))
        background.every(2.0, "policies", policies.refresh)
        background.every(2.0, "erasure", lambda: erasure.run(utc_now()))
        replicas.follow += [policies.refresh, authenticator.forget]
        background.every(POLL_S, "replicas", replicas.poll)
        stack.push_async_callback(replicas.leave)
        yield services
        try:
            await _book_touched(services)
        except (RedisError, SQLAlchemyError) as error:
            log.warning("not everything is booked yet, the next start does it: %s", error)


def serve_models(settings: Settings, backends: Mapping[str, Backend]) -> ServedModels:
    """Return every catalogue model with its backend and its token counter."""
    served = {}
    for name, spec in settings.catalog.items():
        backend = settings.backends[spec.backend]
        upstream = backends[spec.backend]
        # One that cannot run here is never sent a prompt: nobody asks for its exact length.
        is_local = backend.kind == "engine" and not isinstance(upstream, MissingBackend)
        count = _local_counter(backend.model) if is_local else None
        served[name] = ServedModel(
            spec=spec,
            backend=upstream,
            count=count or estimate_tokens,
            is_exact=count is not None,
            is_demonstration=backend.is_demonstration,
        )
    return served


async def _open_redis(settings: Settings, stack: AsyncExitStack) -> GuardedRedis:
    url = settings.redis.url
    if settings.redis.is_embedded:
        child, url = embedded_redis(settings.state_dir)
        await stack.enter_async_context(child)
        await child.wait_ready()
    redis = open_redis(url, is_cluster=settings.redis.is_cluster)
    stack.push_async_callback(redis.aclose)
    if not settings.redis.is_embedded:
        await check_mode(redis, is_cluster=settings.redis.is_cluster)
        await warn_of_volatility(redis)
    return redis


def _open_cache(settings: Settings, redis: GuardedRedis, stack: AsyncExitStack) -> GuardedRedis:
    """Return the evicting server that answers are cached on, where one is named."""
    if settings.redis.cache_url is None:
        return redis
    cache = open_redis(settings.redis.cache_url, name="the cache's Redis")
    stack.push_async_callback(cache.aclose)
    return cache


def _rates(settings: Settings) -> Rates:
    return Rates(
        {
            pair.removeprefix("USD_"): [(rate.since, rate.rate) for rate in rates]
            for pair, rates in settings.fx.items()
            if pair.startswith("USD_")
        }
    )


def _local_counter(model: str) -> TokenCounter | None:
    folder = Path(str(files("local_models"))) / "bundled" if model == "bundled" else Path(model)
    path = folder / "tokenizer.json"
    return local_counter(path) if path.is_file() else None


def _loads(settings: Settings, backends: Mapping[str, Backend]) -> Loads:
    sources = {}
    for name, spec in settings.catalog.items():
        load = getattr(backends[spec.backend], "load", None)
        if load is not None:
            sources[name] = load
    return Loads(sources)


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


async def _book_touched(services: Services) -> None:
    touched, services.ledger.touched = services.ledger.touched, set()
    try:
        for tenant in list(touched):
            await services.books.catch_up(tenant)
            touched.discard(tenant)
    finally:
        services.ledger.touched |= touched  # what could not be booked is tried again


async def _sweep(services: Services) -> None:
    await services.books.keep_days_in(await services.tenants.timezones())
    await services.ledger.sweep()
    for tenant in await services.ledger.tenants():
        await services.books.catch_up(tenant)


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
