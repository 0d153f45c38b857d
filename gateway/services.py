"""Services: what the routes work with, put together by app.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Engine

from gateway.audit import AuditLog
from gateway.auth import Authenticator
from gateway.dashboard.session import Sessions
from gateway.erasure import Eraser
from gateway.health import Health
from gateway.idempotency import IdempotencyStore
from gateway.models import ServedModels
from gateway.replicas import Replicas
from gateway.responder import Responder
from gateway.settings import Settings
from gateway.telemetry import Degradations, Metrics
from gateway.tenant_erasure import TenantErasure
from gateway.tenants import TenantStore
from memory.memory import Memory
from policies.alerts import BudgetAlerts
from policies.books import Books
from policies.ledger import Ledger
from policies.reports import Reports
from policies.store import PolicyStore


@dataclass(frozen=True, slots=True)
class Services:
    """One process's services; all of them live as long as the application."""

    settings: Settings
    clock: Callable[[], datetime]
    database: Engine
    tenants: TenantStore
    authenticator: Authenticator
    sessions: Sessions
    audit: AuditLog
    replicas: Replicas
    policies: PolicyStore
    ledger: Ledger
    alerts: BudgetAlerts
    books: Books
    reports: Reports
    memory: Memory
    models: ServedModels
    responder: Responder
    idempotency: IdempotencyStore
    metrics: Metrics
    degradations: Degradations
    eraser: Eraser
    tenant_erasure: TenantErasure
    health: Health
