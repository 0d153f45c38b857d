"""Serving: one process with everything in it, or several that share Redis and the engines.

With several workers the parent starts the embedded Redis and the local engines, gives each worker
their addresses and the listening socket, and starts a worker again when it dies.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from multiprocessing.process import BaseProcess
from typing import Any

import uvicorn

from gateway.app import build_app, open_services
from gateway.backends.engine import EngineBackend
from gateway.backends.openai import http_session
from gateway.database import upgrade_apart
from gateway.http_protocol import HttpProtocol
from gateway.process import settle_memory
from gateway.settings import Settings, share_metrics
from gateway.state import embedded_redis
from gateway.telemetry import set_up_logging

log = logging.getLogger("turnwise.serving")
_BACKLOG = 2048
_DRAIN_S = 10
_RESTART_S = 1.0


def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM; blocks.

    Raises:
        gateway.errors.ChildFailed, policies.errors.PolicyError, OSError: it could not start.
    """
    upgrade_apart(settings.ledger.url)
    listening = _listen(settings)
    if settings.server.workers == 1:
        _run(serve_on(settings, listening))
    else:
        _run(_serve_many(settings, listening))


async def serve_on(settings: Settings, listening: socket.socket) -> None:
    """Serve on a socket in this process until a signal ends it."""
    async with open_services(settings) as services:
        config = uvicorn.Config(
            build_app(services),
            http=HttpProtocol,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,  # nothing here asks for the client's address or scheme
            timeout_graceful_shutdown=_DRAIN_S,
            timeout_keep_alive=75,
        )
        settle_memory()
        await uvicorn.Server(config).serve([listening])


def _run(main: Any) -> None:
    try:
        import uvloop
    except ImportError:  # Windows
        asyncio.run(main)
    else:
        uvloop.run(main)


def _listen(settings: Settings) -> socket.socket:
    host, port = settings.server.host, settings.server.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((host, port))
    listening.listen(_BACKLOG)
    listening.set_inheritable(True)
    return listening


async def _serve_many(settings: Settings, listening: socket.socket) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    share_metrics(settings.state_dir / "metrics")
    async with _shared_parts(settings) as shared, asyncio.TaskGroup() as group:
        for _ in range(settings.server.workers):
            group.create_task(_keep_worker(shared, listening, stopping))


@asynccontextmanager
async def _shared_parts(settings: Settings) -> AsyncIterator[Settings]:
    """Start what workers share; yield the settings that point at it."""
    async with _redis(settings) as with_redis, http_session() as session:
        backends = dict(settings.backends)
        engines = []
        for name, backend in settings.backends.items():
            if backend.kind == "engine" and backend.base_url is None:
                engine = EngineBackend(
                    name,
                    model=backend.model,
                    quantize=backend.quantize,
                    session=session,
                    state_dir=settings.state_dir,
                )
                await engine.__aenter__()
                engines.append(engine)
                backends[name] = replace(backend, base_url=engine.base_url, api_key=engine.token)
        try:
            yield replace(with_redis, backends=backends)
        finally:
            for engine in engines:
                await engine.close()


@asynccontextmanager
async def _redis(settings: Settings) -> AsyncIterator[Settings]:
    if not settings.redis.is_embedded:
        yield settings
        return
    child, url = embedded_redis(settings.state_dir)
    async with child:
        await child.wait_ready()
        yield replace(settings, redis=replace(settings.redis, url=url))


async def _keep_worker(
    settings: Settings, listening: socket.socket, stopping: asyncio.Event
) -> None:
    spawn = multiprocessing.get_context("spawn")
    while not stopping.is_set():
        worker = spawn.Process(target=_work, args=(settings, listening))
        worker.start()
        await _until_ended(worker, stopping)
        if stopping.is_set():
            worker.terminate()
            await asyncio.to_thread(worker.join, _DRAIN_S + 2)
            if worker.is_alive():
                worker.kill()
            return
        log.error("worker %s ended with %s; starting another", worker.pid, worker.exitcode)
        await asyncio.sleep(_RESTART_S)


async def _until_ended(worker: BaseProcess, stopping: asyncio.Event) -> None:
    """Return when the worker has ended or everything is to stop."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(worker.sentinel, ended.set)
    try:
        waits = [asyncio.ensure_future(event.wait()) for event in (ended, stopping)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
    finally:
        loop.remove_reader(worker.sentinel)


def _work(settings: Settings, listening: socket.socket) -> None:
    set_up_logging()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _run(serve_on(settings, listening))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()  # returns when the parent is gone, however it went
        os.kill(os.getpid(), signal.SIGTERM)
