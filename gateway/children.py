"""Child: one process that the gateway starts, watches, starts again, and takes with it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from gateway.errors import ChildFailed

ChildState = Literal["starting", "ready", "down"]
log = logging.getLogger("turnwise.children")

_POLL_S = 0.05
_STOP_S = 5.0
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.25, 15.0
_LAST_LINES = 12
# On Linux the kernel ends the child with its parent, even where the parent is killed outright. The
# flag is set by the child itself between fork and exec of the real program: safe with threads.
_DIE_WITH_PARENT = (
    "import ctypes,os,sys;"
    "ctypes.CDLL(None).prctl(1,9,0,0,0);"
    "os.getppid()==int(sys.argv[1]) or os._exit(1);"
    "os.execvp(sys.argv[2],sys.argv[2:])"
)


class Child:
    """A supervised child process; an async context manager.

    Entering starts it and returns at once; `wait_ready` waits. A child that dies is started again
    after 0.25 s, then twice as long each time, up to 15 s.

    Args:
        name: for log lines.
        command: the program and its arguments.
        is_ready: asked repeatedly until it answers True.
        log_path: receives the child's output, anew at each start of the gateway.
        environ: the child's environment; None inherits.
        first_line: written to the child's standard input at every start; for secrets, which the
            command line would show to every user of the machine.
        start_s: how long a start may take before it counts as failed.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        is_ready: Callable[[], Awaitable[bool]],
        log_path: Path,
        environ: Mapping[str, str] | None = None,
        first_line: str | None = None,
        start_s: float = 60.0,
    ) -> None:
        self.name = name
        self._command = tuple(command)
        self._is_ready = is_ready
        self._log_path = log_path
        self._environ = environ
        self._first_line = first_line
        self._start_s = start_s
        self._process: asyncio.subprocess.Process | None = None
        self._watching: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._is_stopping = False
        self.state: ChildState = "starting"
        self.n_starts = 0

    @property
    def pid(self) -> int | None:
        """The process id of the running child."""
        return self._process.pid if self._process else None

    async def __aenter__(self) -> Self:
        """Start the child and the watch over it."""
        self._log_path.parent.mkdir(parents=True, exist_ok=True)
        self._log_path.write_bytes(b"")
        # Held here and awaited in __aexit__: the watch lives exactly as long as the context.
        self._watching = asyncio.get_running_loop().create_task(self._watch())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the child: asked first, killed after 5 s."""
        self._is_stopping = True
        await self._stop()
        if self._watching is not None:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching

    async def wait_ready(self) -> None:
        """Return when the child is ready.

        Raises:
            ChildFailed: its first start failed; the last lines of its log are in the message.
        """
        while self.state == "starting":
            self._changed.clear()
            await self._changed.wait()
        if self.state == "down":
            raise ChildFailed(f"{self.name} did not start: {self.last_lines()}")

    def last_lines(self) -> str:
        """Return the end of the child's log on one line."""
        text = self._log_path.read_text(encoding="utf-8", errors="replace")
        return " | ".join(text.strip().splitlines()[-_LAST_LINES:]) or "it printed nothing"

    async def _watch(self) -> None:
        wait_s = _FIRST_WAIT_S
        while not self._is_stopping:
            was_ready = await self._run_once()
            if self._is_stopping:
                return
            wait_s = _FIRST_WAIT_S if was_ready else min(wait_s * 2, _LONGEST_WAIT_S)
            log.warning(
                "%s ended, starting again in %.2f s: %s", self.name, wait_s, self.last_lines()
            )
            await asyncio.sleep(wait_s)

    async def _run_once(self) -> bool:
        """Run the child until it ends; return whether it had been ready."""
        self.n_starts += 1
        with self._log_path.open("ab") as output:
            try:
                process = await asyncio.create_subprocess_exec(
                    *_with_parent(self._command),
                    stdin=asyncio.subprocess.PIPE,  # its end of file tells the child that we ended
                    stdout=output,
                    stderr=output,
                    env=self._environ,
                    # Ctrl-C goes to a whole process group: it must not reach the child before we
                    # are done with it.
                    start_new_session=True,
                )
            except OSError as error:
                output.write(f"{error}\n".encode())
                self._set("down")
                return False
        self._process = process
        if self._first_line is not None and process.stdin is not None:
            process.stdin.write(f"{self._first_line}\n".encode())
        exit_code = asyncio.ensure_future(process.wait())
        was_ready = False
        try:
            was_ready = await self._until_ready(exit_code)
            if was_ready:
                self._set("ready")
                log.info("%s is ready (pid %d)", self.name, process.pid)
            elif process.returncode is None:
                process.kill()
            await exit_code
        finally:
            exit_code.cancel()
        self._set("down")
        return was_ready

    async def _until_ready(self, exit_code: asyncio.Future[int]) -> bool:
        deadline = asyncio.get_running_loop().time() + self._start_s
        while not exit_code.done() and asyncio.get_running_loop().time() < deadline:
            if await self._is_ready():
                return True
            await asyncio.wait({exit_code}, timeout=_POLL_S)
        return False

    async def _stop(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(_STOP_S):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    def _set(self, state: ChildState) -> None:
        self.state = state
        self._changed.set()


def _with_parent(command: Sequence[str]) -> Sequence[str]:
    if not sys.platform.startswith("linux"):
        return command
    import os

    return (sys.executable, "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *command)
