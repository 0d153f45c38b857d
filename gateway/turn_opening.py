"""From settings and stores to what answers a turn: models, router, memory, and the responder.

Owns which concrete classes those are in a gateway. Knows nothing of HTTP.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from pathlib import Path

from gateway.answer_cache import AnswerCache
from gateway.backends.base import Backend
from gateway.backends.engine import MissingBackend
from gateway.background import Background
from gateway.load import Loads
from gateway.memory_opening import open_encodings, open_memory
from gateway.meter import Meter
from gateway.models import ServedModel, ServedModels, template_rules
from gateway.rate_limit import RateLimiter
from gateway.responder import Responder
from gateway.routing import open_router
from gateway.settings import Settings
from gateway.store_opening import Stores
from gateway.summaries import SummaryWriter
from gateway.telemetry import Degradations, Metrics
from gateway.token_count import TokenCounter, estimate_tokens, local_counter
from memory.embedding_cache import EmbeddingCache
from memory.memory import Memory
from memory.response_cache import ResponseCache
from policies.usage import Rates
from router.route import Router


@dataclass(frozen=True, slots=True)
class Answering:
    """What a turn meets on its way, opened once for the process."""

    models: ServedModels
    meter: Meter
    encodings: EmbeddingCache | None
    router: Router
    memory: Memory
    cache: ResponseCache
    responder: Responder


async def open_answering(
    settings: Settings,
    stores: Stores,
    backends: Mapping[str, Backend],
    background: Background,
    metrics: Metrics,
    degradations: Degradations,
    stack: AsyncExitStack,
    *,
    clock: Callable[[], datetime],
    new_id: Callable[[str], str],
) -> Answering:
    """Return what answers turns; closed with the stack."""
    models, loads = serve_models(settings, backends), _loads(settings, backends)
    meter = Meter(
        stores.ledger,
        models=models,
        rates=_rates(settings),
        degradations=degradations,
        clock=clock,
    )
    encodings = open_encodings(settings, stores.redis, degradations, stack)
    router = open_router(encodings, degradations, random.Random().random)
    writer = SummaryWriter(
        tenants=stores.tenants,
        policies=stores.policies,
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
        settings, stores.redis, encodings, writer.complete, degradations, stack, clock=clock
    )
    cache = ResponseCache(stores.cache_redis)
    responder = Responder(
        policies=stores.policies,
        catalog=settings.catalog,
        memory=memory,
        router=router,
        models=models,
        loads=loads,
        meter=meter,
        limiter=RateLimiter(stores.redis, clock),
        cache=AnswerCache(cache),
        background=background,
        timeouts=settings.timeouts,
        scope_key=settings.pepper,
        metrics=metrics,
        degradations=degradations,
    )
    return Answering(models, meter, encodings, router, memory, cache, responder)


def serve_models(settings: Settings, backends: Mapping[str, Backend]) -> ServedModels:
    """Return every catalogue model with its backend and its token counter."""
    served = {}
    for name, spec in settings.catalog.items():
        backend = settings.backends[spec.backend]
        upstream = backends[spec.backend]
        # One that cannot run here is never sent a prompt: nobody asks for its exact length.
        is_local = backend.kind == "engine" and not isinstance(upstream, MissingBackend)
        count = _local_counter(backend.model) if is_local else None
        template = _local_template(backend.model) if is_local else None
        served[name] = ServedModel(
            spec=spec,
            backend=upstream,
            count=count or estimate_tokens,
            is_exact=count is not None,
            is_demonstration=backend.is_demonstration,
            template=template_rules(spec.upstream_name, template),
        )
    return served


def _rates(settings: Settings) -> Rates:
    return Rates(
        {
            pair.removeprefix("USD_"): [(rate.since, rate.rate) for rate in rates]
            for pair, rates in settings.fx.items()
            if pair.startswith("USD_")
        }
    )


def _local_folder(model: str) -> Path:
    return Path(str(files("local_models"))) / "bundled" if model == "bundled" else Path(model)


def _local_counter(model: str) -> TokenCounter | None:
    path = _local_folder(model) / "tokenizer.json"
    return local_counter(path) if path.is_file() else None


def _local_template(model: str) -> str | None:
    """Return the file that holds a local model's chat template, None where there is none."""
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        path = _local_folder(model) / name
        if path.is_file():
            return path.read_text("utf-8")
    return None


def _loads(settings: Settings, backends: Mapping[str, Backend]) -> Loads:
    sources = {}
    for name, spec in settings.catalog.items():
        load = getattr(backends[spec.backend], "load", None)
        if load is not None:
            sources[name] = load
    return Loads(sources)
