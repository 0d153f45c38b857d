"""A full disk: under the books, and under the Redis that holds the money on its way there."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import create_engine, func, select, text

from gateway.settings import LedgerSettings, RedisSettings
from policies.tables import entries_table
from tests.conftest import redis_executable
from tests.fakes import until

from .conftest import running

POLICY = """
routing: {{tiers: {{small: [local-small], strong: [strong]}}, thresholds: {{strong: 0.5}}}}
budget: {{limit: "5000 INR"}}
on_ledger_down: {}
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of four megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "turnwise-tests", str(folder)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("no small file system can be mounted here: that takes Linux and its root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


class Filler:
    """Takes all the room there is, and gives it back."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "filler"

    def fill(self) -> None:
        with self._path.open("ab", buffering=0) as file:
            for n_bytes in (65_536, 512, 1):
                try:
                    while file.write(bytes(n_bytes)):
                        os.fsync(file.fileno())
                except OSError:
                    continue

    def free(self) -> None:
        self._path.unlink()


@pytest.fixture
def with_policy(settings, tmp_path):
    def change(on_ledger_down, **fields):
        folder = tmp_path / "policies"
        folder.mkdir(exist_ok=True)
        (folder / "own.yaml").write_text(POLICY.format(on_ledger_down), encoding="utf-8")
        tenants = {"demo": replace(settings.tenants["demo"], policy="own")}
        folders = (folder, *settings.policy_dirs)
        return replace(settings, tenants=tenants, policy_dirs=folders, **fields)

    return change


@contextmanager
def redis_on(folder: Path) -> Iterator[str]:
    """Run a Redis that writes its append-only file into the folder at once."""
    socket = folder.parent / "r.sock"
    command = [redis_executable(), "--port", "0", "--unixsocket", str(socket)]
    command += ["--dir", str(folder), "--save", "", "--appendonly", "yes"]
    command += ["--appendfsync", "everysec"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        while not socket.exists():
            time.sleep(0.01)
        yield f"unix://{socket}"
    finally:
        process.kill()
        process.wait()


@pytest.mark.usefixtures("redis")
async def test_full_books_lose_nothing_and_say_so_while_turns_go_on(
    with_policy, small_disk, caplog
):
    database = f"sqlite:///{small_disk}/ledger.db"
    disk = Filler(small_disk)
    async with running(with_policy("block", ledger=LedgerSettings(database))) as gateway:
        statuses = [(await gateway.chat("one"))[0]]
        disk.fill()

        async def is_told():
            statuses.append((await gateway.chat(f"turn {len(statuses)}"))[0])
            return "books is failing" in caplog.text

        await until(is_told, 60)
        assert "disk is full" in caplog.text
        status, _, ready = await gateway.get("/readyz")
        assert (status, ready["checks"]["books"]) == (200, "degraded")
        async with gateway.client.get(f"{gateway.url}/metrics") as response:
            assert 'turnwise_degraded_total{part="books"}' in await response.text()
        state = await gateway.services.ledger.state(
            "demo", gateway.services.policies.policy_of("demo", "own").budget, "INR"
        )
        assert state.reserved_micro == 0
        disk.free()
        await until(lambda: "books works again" in caplog.text, 60)
        assert (await gateway.get("/readyz"))[2]["checks"]["books"] == "ready"
        n_waiting, _ = await gateway.services.books.backlog("demo")
    assert set(statuses) == {200}  # money can still be held, and is on its way in Redis
    assert n_waiting == 0
    engine = create_engine(database)
    with engine.connect() as connection:
        assert connection.execute(text("PRAGMA integrity_check")).scalar() == "ok"
        n_rows, charged = connection.execute(
            select(func.count(), func.sum(entries_table.c.charge_micro)).select_from(entries_table)
        ).one()
    engine.dispose()
    assert (n_rows, charged) == (len(statuses), state.settled_micro)


@pytest.mark.parametrize("on_ledger_down", ["block", "allow"])
async def test_turns_follow_the_policy_while_redis_cannot_write_and_go_on_afterwards(
    with_policy, small_disk, on_ledger_down
):
    disk = Filler(small_disk)
    with redis_on(small_disk) as url:
        async with running(with_policy(on_ledger_down, redis=RedisSettings(url=url))) as gateway:
            assert (await gateway.chat("one"))[0] == 200
            disk.fill()
            last = []

            async def is_felt():
                last[:] = await gateway.chat(f"turn {os.urandom(4).hex()}")
                return last[0] != 200 or "ledger" in last[1].get("x-turnwise-degraded", "")

            await until(is_felt, 60)
            status, headers, body = last
            if on_ledger_down == "block":
                assert (status, body["error"]["code"]) == (503, "ledger_unavailable")
            else:
                assert (status, "ledger" in headers["x-turnwise-degraded"]) == (200, True)
            disk.free()

            async def is_well():
                status, headers, _ = await gateway.chat(f"turn {os.urandom(4).hex()}")
                return status == 200 and "ledger" not in headers.get("x-turnwise-degraded", "")

            await until(is_well, 60)

            async def is_settled():
                _, _, budget = await gateway.get("/v1/budget")
                return budget["reserved_micro"] == 0

            await until(is_settled, 60)
