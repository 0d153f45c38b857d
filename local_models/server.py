"""The engine as a process of its own: `python -m local_models.server --model bundled --port 8090`.

Owns the command line, loading, signals and shutdown; the routes are in `app`. The port answers
only once the model is loaded. It ends on SIGTERM, SIGINT, and with `--parent-stdin` when standard
input closes, which it does when the parent dies however it dies.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import uvicorn

from local_models.app import App, Service
from local_models.config import Device, EngineConfig, KvCache, Quantize
from local_models.defaults import load_sampling
from local_models.engine_thread import EngineThread
from local_models.errors import LocalModelError, ModelRefused
from local_models.grammar import Grammars
from local_models.store import find_model
from local_models.text import TextCodec

if TYPE_CHECKING:
    from local_models.engine import Engine

log = logging.getLogger(__name__)

_SHUTDOWN_S = 2
_HARD_EXIT_S = 5.0
# Longer than clients keep an idle connection: a request must never meet one that closes just then.
_KEEP_ALIVE_S = 75
_DEFAULTS = EngineConfig()


class _Server(uvicorn.Server):
    """uvicorn, except that the engine ends its sequences before connections are waited for."""

    def __init__(self, config: uvicorn.Config, thread: EngineThread) -> None:
        super().__init__(config)
        self._engine_thread = thread

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Fail what is running, then close."""
        await self._engine_thread.stop()
        await super().shutdown(sockets)


async def serve(
    config: EngineConfig,
    *,
    host: str = "127.0.0.1",
    port: int = 8090,
    name: str | None = None,
    follows_stdin: bool = False,
    token: str | None = None,
) -> None:
    """Load the model and serve it until a signal or the parent ends this.

    Raises:
        ModelRefused: the model cannot be served, or the port is taken.
    """
    listener = _bind(host, port)
    codec, engine = await asyncio.gather(
        asyncio.to_thread(lambda: TextCodec.from_folder(find_model(config.model))),
        asyncio.to_thread(_load, config),
    )
    model_name = name or (config.model if config.model == "bundled" else Path(config.model).name)
    thread = EngineThread(engine, asyncio.get_running_loop())
    grammars = Grammars(codec.tokenizer, engine.vocabulary, sorted(engine.eos))
    sampling = load_sampling(find_model(config.model))
    app = App(Service(config, model_name, codec, engine, thread, grammars, sampling, token))
    server = _Server(
        uvicorn.Config(
            app,
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=_SHUTDOWN_S,
            timeout_keep_alive=_KEEP_ALIVE_S,
            server_header=False,
        ),
        thread,
    )
    if follows_stdin:
        threading.Thread(target=_follow_stdin, args=(server,), daemon=True).start()
    address = listener.getsockname()
    log.info("%s (%s) on http://%s:%d/v1", model_name, config.quantize, address[0], address[1])
    await server.serve(sockets=[listener])


def _load(config: EngineConfig) -> Engine:
    from local_models.engine import load_engine

    return load_engine(config)


def _bind(host: str, port: int) -> socket.socket:
    """Return a bound socket that does not listen yet, so that a taken port is known at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio switches Nagle's delay off only where the protocol is named; without it the second
    # write of every answer waits 40 ms for the peer's acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        raise ModelRefused(f"Cannot listen on {host}:{port}: {error.strerror}.") from error
    return listener


def _follow_stdin(server: uvicorn.Server) -> None:
    while os.read(0, 4096):
        pass
    server.should_exit = True
    # An answer that hangs must not outlive the parent.
    timer = threading.Timer(_HARD_EXIT_S, os._exit, (1,))
    timer.daemon = True
    timer.start()


def _read_token() -> str:
    """Return the first line of standard input, and take no byte more of it.

    Raises:
        ModelRefused: nothing is there.
    """
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            break
        line += byte
    if not line.strip():
        raise ModelRefused("--token-stdin was given and standard input holds no token.")
    return line.strip().decode()


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(prog="local_models.server", description=__doc__)
    parser.add_argument("--model", default="bundled", help="bundled, a folder, or a hub id")
    parser.add_argument("--quantize", choices=get_args(Quantize), default="int8")
    parser.add_argument("--device", choices=get_args(Device), default=_DEFAULTS.device)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8090)
    parser.add_argument("--name", help="the model's name in answers")
    parser.add_argument("--parent-stdin", action="store_true", help="exit when stdin closes")
    parser.add_argument(
        "--token-stdin",
        action="store_true",
        help="every request must carry the bearer token that is the first line of stdin",
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--context-tokens", type=int)
    parser.add_argument("--max-running", type=int, default=_DEFAULTS.max_running)
    parser.add_argument("--max-queued", type=int, default=_DEFAULTS.max_queued)
    parser.add_argument("--step-tokens", type=int, default=_DEFAULTS.step_tokens)
    parser.add_argument("--kv-cache", choices=get_args(KvCache), default=_DEFAULTS.kv_cache)
    parser.add_argument("--kv-memory-mb", type=int, default=_DEFAULTS.kv_memory_bytes >> 20)
    parser.add_argument("--draft-tokens", type=int, default=_DEFAULTS.draft_tokens)
    parser.add_argument("--draft-model", help="a smaller model of the same vocabulary")
    parser.add_argument("--target-ttft-ms", type=float)
    return parser.parse_args(arguments)


def config_of(options: argparse.Namespace) -> EngineConfig:
    """Return the engine's configuration that the command line states.

    Raises:
        ModelRefused: a value outside its range.
    """
    return EngineConfig(
        model=options.model,
        quantize=options.quantize,
        device=options.device,
        context_tokens=options.context_tokens,
        kv_cache=options.kv_cache,
        kv_memory_bytes=options.kv_memory_mb << 20,
        max_running=options.max_running,
        max_queued=options.max_queued,
        step_tokens=options.step_tokens,
        draft_tokens=options.draft_tokens,
        draft_model=options.draft_model,
        target_ttft_ms=options.target_ttft_ms,
        n_threads=options.threads,
    )


def main(arguments: list[str] | None = None) -> int:
    """Serve until told to stop; return 1 after one line on stderr when it cannot start."""
    options = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    try:
        asyncio.run(
            serve(
                config_of(options),
                host=options.host,
                port=options.port,
                name=options.name,
                follows_stdin=options.parent_stdin,
                token=_read_token() if options.token_stdin else None,
            )
        )
    except LocalModelError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
