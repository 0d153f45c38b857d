from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from gateway.children import Child
from gateway.errors import ChildFailed
from tests.fakes import until

ROOT = Path(__file__).resolve().parents[2]
# Marks that it runs, then waits for the end of its standard input or for ever.
PROGRAM = "import pathlib,sys,time; pathlib.Path(sys.argv[1]).write_text('up'); time.sleep(600)"


def child_of(tmp_path: Path, program: str = PROGRAM, start_s: float = 30.0) -> Child:
    mark = tmp_path / "mark"

    async def is_ready() -> bool:
        return mark.exists()

    return Child(
        "the helper",
        [sys.executable, "-S", "-c", program, str(mark)],
        is_ready=is_ready,
        log_path=tmp_path / "child.log",
        start_s=start_s,
    )


async def test_a_child_is_ready_when_its_probe_says_so_and_gone_after_the_context(
    tmp_path: Path,
) -> None:
    async with child_of(tmp_path) as child:
        await child.wait_ready()
        assert child.state == "ready"
        pid = child.pid
        assert pid is not None and psutil.pid_exists(pid)
    assert not psutil.pid_exists(pid)


async def test_a_child_that_dies_is_started_again(tmp_path: Path) -> None:
    async with child_of(tmp_path) as child:
        await child.wait_ready()
        (tmp_path / "mark").unlink()
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        await until(lambda: child.state == "down")
        await until(lambda: child.state == "ready")
        assert child.n_starts == 2


async def test_a_child_that_cannot_start_shows_its_last_lines(tmp_path: Path) -> None:
    async with child_of(tmp_path, "raise SystemExit('the model file is missing')") as child:
        with pytest.raises(ChildFailed, match="the helper.*the model file is missing"):
            await child.wait_ready()


async def test_a_program_that_does_not_exist_is_a_failed_child(tmp_path: Path) -> None:
    async def never() -> bool:
        return False

    child = Child("it", ["/nonexistent"], is_ready=never, log_path=tmp_path / "log")
    async with child:
        with pytest.raises(ChildFailed):
            await child.wait_ready()


async def test_a_child_that_is_never_ready_counts_as_failed(tmp_path: Path) -> None:
    async with child_of(tmp_path, "import time; time.sleep(600)", start_s=0.3) as child:
        with pytest.raises(ChildFailed):
            await child.wait_ready()


async def test_a_child_that_ignores_being_asked_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.children._STOP_S", 0.2)
    stubborn = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {PROGRAM}"
    async with child_of(tmp_path, stubborn) as child:
        await child.wait_ready()
        pid = child.pid
    assert pid is not None and not psutil.pid_exists(pid)


async def test_interrupting_our_process_group_does_not_reach_the_child(tmp_path: Path) -> None:
    async with child_of(tmp_path) as child:
        await child.wait_ready()
        assert child.pid is not None
        assert os.getpgid(child.pid) != os.getpgid(0)


PARENT = f"""
import asyncio, pathlib, sys
sys.path.insert(0, {str(ROOT)!r})
from gateway.children import Child
async def main():
    mark = pathlib.Path(sys.argv[1])
    async def is_ready(): return mark.exists()
    command = [sys.executable, "-S", "-c", {PROGRAM!r}, str(mark)]
    async with Child("it", command, is_ready=is_ready, log_path=mark.with_name("log")) as child:
        await child.wait_ready()
        print(child.pid, flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the end of stdin tells the child")
async def test_a_child_dies_with_a_gateway_that_is_killed_outright(tmp_path: Path) -> None:
    with a_parent(tmp_path / "mark") as parent:
        assert parent.stdout is not None
        pid = int(await asyncio.to_thread(parent.stdout.readline))
        assert psutil.pid_exists(pid)
        parent.kill()
        parent.wait()
        await until(lambda: is_gone(pid))


def a_parent(mark: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", PARENT, str(mark)], stdout=subprocess.PIPE)


def is_gone(pid: int) -> bool:
    """Whether the process has ended; one that waits to be collected by nobody has."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
