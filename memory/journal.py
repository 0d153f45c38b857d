"""A local write-ahead journal for appends while Redis is away.

Owns one append-only file per process in a folder, each line a checksum and a JSON entry, synced to
disk before the append counts as kept. A file is held by an exclusive lock, so a later process can
tell whose owner died and replays that one too. Knows nothing of Redis: replaying is a callable.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import orjson

from memory.conversation import message_from_wire
from memory.errors import JournalFull
from memory.records import Draft


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One append that Redis did not confirm; `idempotency_key` makes replaying it harmless.

    `drafts` are `{"m": message, "d": metadata}` as on the wire, `at_ms` when it was said.
    """

    tenant: str
    conversation_id: str
    drafts: list[dict[str, Any]]
    idempotency_key: str
    at_ms: int
    may_create: bool
    generation: str | None = None
    instructions: str | None = None
    metadata: dict[str, Any] | None = None
    retention_s: float | None = None

    def messages(self) -> list[Draft]:
        """Return the drafts to append."""
        return [Draft(message_from_wire(draft["m"]), draft["d"]) for draft in self.drafts]


class Journal:
    """Entries on local disk, in the order they came.

    Args:
        folder: where the files lie; made when missing.
        name: of this process's own file; unique.
        max_bytes: the most this process keeps; more is refused.
    """

    def __init__(self, folder: Path, name: str, *, max_bytes: int = 64 * 1024 * 1024) -> None:
        self._folder = folder
        self._path = folder / f"{name}.journal"
        self._max_bytes = max_bytes
        self._file: int | None = None
        self._size = 0
        self._waiting: Counter[tuple[str, str]] = Counter()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._turn = asyncio.Lock()
        self.n_corrupt = 0

    def holds(self, tenant: str, conversation_id: str) -> bool:
        """Return whether entries of a conversation wait here: later ones must queue behind."""
        return self._waiting[tenant, conversation_id] > 0

    @property
    def is_empty(self) -> bool:
        """Whether this process has nothing to replay."""
        return not self._waiting

    async def write(self, entry: JournalEntry) -> None:
        """Keep an entry; it is on disk when this returns.

        Raises:
            JournalFull: if there is no room left.
            OSError: if the disk refuses.
        """
        line = _line(entry)
        if self._size + len(line) > self._max_bytes:
            raise JournalFull(self._max_bytes)
        self._size += len(line)
        self._waiting[entry.tenant, entry.conversation_id] += 1
        await self._in_thread(self._append, line)

    async def replay(self, append: Callable[[JournalEntry], Awaitable[None]]) -> int:
        """Replay own entries and those of processes that died; return how many.

        An entry leaves the disk only when `append` returned for all of its file; when it raises,
        the file stays and is replayed from its start the next time. Corrupt lines are counted in
        `n_corrupt` and skipped.
        """
        async with self._turn:
            n_replayed = 0
            for path, file in await self._in_thread(self._orphans):
                try:
                    n_replayed += await self._replay_file(file, append)
                    await self._in_thread(path.unlink)
                finally:
                    os.close(file)
            if self._file is not None and not self.is_empty:
                n_replayed += await self._replay_own(append)
            return n_replayed

    async def close(self) -> None:
        """Let go of the file, and remove it when nothing waits; safe to call twice."""
        if self._file is not None:
            if self.is_empty:
                self._path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = None
        self._worker.shutdown(wait=False)

    async def _replay_own(self, append: Callable[[JournalEntry], Awaitable[None]]) -> int:
        assert self._file is not None
        done = 0
        n_replayed = 0
        while done < self._size:  # entries may come while the earlier ones are replayed
            for entry in await self._in_thread(self._read, self._file, done):
                await append(entry)
                n_replayed += 1
            done = self._size
        await self._in_thread(os.ftruncate, self._file, 0)
        self._size = 0
        self._waiting.clear()
        return n_replayed

    async def _replay_file(
        self, file: int, append: Callable[[JournalEntry], Awaitable[None]]
    ) -> int:
        entries = await self._in_thread(self._read, file, 0)
        for entry in entries:
            await append(entry)
        return len(entries)

    def _append(self, line: bytes) -> None:
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(self._file, line)
        os.fsync(self._file)

    def _orphans(self) -> list[tuple[Path, int]]:
        """Return the files of dead processes, locked and open."""
        found = []
        for path in sorted(self._folder.glob("*.journal")):
            if path == self._path:
                continue
            file = os.open(path, os.O_RDWR)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # its owner lives
                os.close(file)
                continue
            found.append((path, file))
        return found

    def _read(self, file: int, start: int) -> list[JournalEntry]:
        size = os.fstat(file).st_size
        entries = []
        for line in os.pread(file, size - start, start).splitlines():
            entry = _parsed(line)
            if entry is None:
                self.n_corrupt += 1
            else:
                entries.append(entry)
        return entries

    async def _in_thread(self, action: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._worker, action, *args)


def _line(entry: JournalEntry) -> bytes:
    body = orjson.dumps(asdict(entry))
    return b"%08x %b\n" % (crc32(body), body)


def _parsed(line: bytes) -> JournalEntry | None:
    """Return None for a line cut by a crash or changed on disk."""
    checksum, _, body = line.partition(b" ")
    if checksum != b"%08x" % crc32(body):
        return None
    try:
        return JournalEntry(**orjson.loads(body))
    except (orjson.JSONDecodeError, TypeError):
        return None
