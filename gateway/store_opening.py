"""From settings to open stores: Redis, the database, and what is kept in either.

Owns the order in which they are made ready. Knows nothing of models and turns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Engine

from gateway.audit import AuditLog
from gateway.database import open_database, upgrade
from gateway.replicas import Replicas
from gateway.settings import Settings
from gateway.state import (
    GuardedRedis,
    check_mode,
    embedded_redis,
    open_redis,
    warn_of_volatility,
)
from gateway.tenants import TenantStore
from policies.alerts import BudgetAlerts
from policies.books import Books
from policies.ledger import Ledger
from policies.store import PolicyStore


@dataclass(frozen=True, slots=True)
class Stores:
    """What outlives the process; `cache_redis` is the evicting server where one is named."""

    redis: GuardedRedis
    cache_redis: GuardedRedis
    database: Engine
    replicas: Replicas
    tenants: TenantStore
    policies: PolicyStore
    books: Books
    ledger: Ledger
    alerts: BudgetAlerts
    audit: AuditLog


async def open_stores(
    settings: Settings, stack: AsyncExitStack, clock: Callable[[], datetime]
) -> Stores:
    """Return the stores, their tables up to date and their files read; closed with the stack."""
    redis = await _open_redis(settings, stack)
    database = open_database(settings.ledger.url)
    stack.callback(database.dispose)
    await asyncio.to_thread(upgrade, database)
    replicas = Replicas(redis)
    tenants = TenantStore(database, pepper=settings.pepper, clock=clock, announce=replicas.announce)
    await tenants.prepare(settings.tenants)
    policies = PolicyStore(
        database,
        settings.catalog,
        folders=settings.policy_dirs,
        clock=clock,
        announce=replicas.announce,
        timezones=tenants.timezones,
    )
    await policies.prepare(sorted({t.policy for t in settings.tenants.values()}))
    for tenant in await tenants.tenants():
        policies.check_file(tenant.policy, tenant.currency)
    books = Books(database, redis)
    return Stores(
        redis=redis,
        cache_redis=_open_cache(settings, redis, stack),
        database=database,
        replicas=replicas,
        tenants=tenants,
        policies=policies,
        books=books,
        ledger=Ledger(redis, clock, books.settled_in),
        alerts=BudgetAlerts(database, clock),
        audit=AuditLog(database, clock),
    )


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
