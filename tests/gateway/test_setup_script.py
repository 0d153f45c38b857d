"""deploy/setup.sh: what goes wrong before anything is installed is told in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "deploy" / "setup.sh"


def complaint(folder: Path, **environ: str) -> str:
    told = subprocess.run(
        ["sh", str(SCRIPT), "local"],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 1
    [line] = (told.stdout + told.stderr).splitlines()
    return line


def test_a_named_python_that_is_too_old_is_named(tmp_path: Path) -> None:
    old = tmp_path / "python3.9"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    assert complaint(tmp_path, PYTHON=str(old)) == (
        f"setup: {old} is not there, or is older than Python 3.11"
    )


def test_a_disk_without_room_is_told_before_anything_is_made(tmp_path: Path) -> None:
    line = complaint(tmp_path, PYTHON=sys.executable, TURNWISE_NEED_MB="999999999")
    assert line.startswith("setup: the disk is full: ")
    assert list(tmp_path.iterdir()) == []
