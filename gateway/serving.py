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
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
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
_ORPHAN_DRAIN_S = 1
_ORPHAN_S = 4.0
_END_SIGNALS = (signal.SIGINT, signal.SIGTERM)


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
        server = _Server(config)
        _watch_parent(server)
        settle_memory()
        await server.serve([listening])


class _Server(uvicorn.Server):
    """uvicorn's server; a signal that ends it leaves time to close what it served from."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take the signals for as long as this process lives.

        uvicorn would raise them again when it is done: the process would die of them before Redis
        and the engines are stopped and the last turns are booked.
        """
        if sys.platform == "win32":
            with super().capture_signals():
                yield
            return
        loop = asyncio.get_running_loop()
        for number in _END_SIGNALS:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield

    def end_soon(self) -> None:
        """End with the least patience for streams that are still going out."""
        self.config.timeout_graceful_shutdown = _ORPHAN_DRAIN_S
        self.should_exit = True


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
    # Named, or asyncio takes it for something else than TCP and lets small writes wait.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((host, port))
    listening.listen(_BACKLOG)
    listening.set_inheritable(True)
    return listening


async def _serve_many(settings: Settings, listening: socket.socket) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in _END_SIGNALS:
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
                    device=backend.device,
                    kv_cache=backend.kv_cache,
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
    _run(serve_on(settings, listening))


def _watch_parent(server: _Server) -> None:
    """End a worker whose parent is gone, however it went; nobody is left who would kill it."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    loop = asyncio.get_running_loop()

    def watch() -> None:
        parent.join()
        loop.call_soon_threadsafe(server.end_soon)
        time.sleep(_ORPHAN_S)
        os._exit(1)  # what it waits for went with the parent: Redis, an engine

    threading.Thread(target=watch, name="parent", daemon=True).start()
