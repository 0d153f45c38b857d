"""A PostgreSQL server of the tests' own: started once a run, emptied before each test."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MISSING = "PostgreSQL is not installed: apt-get install postgresql"


def executable(name: str) -> str | None:
    """Return the path of one of PostgreSQL's programs, the newest that is installed."""
    # Debian keeps those that a user does not call himself off the PATH.
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else shutil.which(name)


@contextmanager
def running() -> Iterator[str]:
    """Start a server that listens on a unix socket alone, and yield the URL of its database."""
    initdb, server = executable("initdb"), executable("postgres")
    assert initdb and server, MISSING
    # It refuses to be run by root.
    owner = "postgres" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="tw-pg-"))
    try:
        if owner:
            shutil.chown(folder, "postgres")
        data = folder / "data"
        command = [initdb, "-D", str(data), "-U", "turnwise", "-A", "trust", "-E", "UTF8"]
        command += ["--no-sync", "--locale=C"]
        subprocess.run(command, check=True, capture_output=True, cwd=folder, user=owner)
        command = [server, "-D", str(data), "-k", str(folder), "-c", "listen_addresses="]
        command += ["-c", "fsync=off", "-c", "max_connections=50"]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=folder, user=owner)
        try:
            yield f"postgresql:///postgres?host={folder}&user=turnwise"
        finally:
            process.terminate()
            process.wait(30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
