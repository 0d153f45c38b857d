from __future__ import annotations

import sqlite3
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from zoneinfo import ZoneInfo

import orjson
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.util import CommandError
from sqlalchemy import select

from gateway import database
from gateway.database import open_database, step_of, upgrade, upgrade_apart
from policies import tables
from tests.tables import DECLARED


def upgraded(path: str) -> str:
    engine = open_database(f"sqlite:///{path}")
    try:
        return upgrade(engine)
    finally:
        engine.dispose()


def test_the_steps_lead_to_the_tables_that_the_code_declares(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path}/ledger.db")
    upgrade(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        differences = compare_metadata(context, list(DECLARED))
    engine.dispose()
    assert [change for change in differences if "alembic_version" not in str(change)] == []


def test_two_processes_that_start_on_a_fresh_database_both_come_up(tmp_path: Path) -> None:
    path = f"{tmp_path}/ledger.db"
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        steps = list(pool.map(upgraded, [path] * 4))
    assert steps == ["0007"] * 4


def test_a_process_apart_brings_the_tables_up_to_date(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    upgrade_apart(url)
    engine = open_database(url)
    with engine.connect() as connection:
        step = step_of(connection)
    assert step == upgrade(engine)
    engine.dispose()


def test_what_a_process_apart_cannot_do_is_told_by_the_upgrade_that_follows(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    upgraded(f"{tmp_path}/ledger.db")
    with sqlite3.connect(tmp_path / "ledger.db") as later:
        later.execute("UPDATE alembic_version SET version_num = '9999'")
    later.close()
    upgrade_apart(url)
    with pytest.raises(CommandError, match="9999"):
        upgraded(f"{tmp_path}/ledger.db")


def test_a_database_from_before_the_steps_is_adopted_with_its_turns(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    record = {
        "decision": {"reason": "hard", "score": 0.71},
        "cache": "exact",
        "usage": {"input_tokens": 12, "output_tokens": 3},
        "timings_ms": {"first_event": 81.5},
    }
    with sqlite3.connect(path) as old:
        old.execute(
            "CREATE TABLE turns (tenant VARCHAR(64) NOT NULL, request_id VARCHAR(64) NOT NULL,"
            " status VARCHAR(16) NOT NULL, started_us BIGINT NOT NULL, ended_us BIGINT NOT NULL,"
            " conversation VARCHAR(256), model VARCHAR(128) NOT NULL, tier VARCHAR(64) NOT NULL,"
            " end_user VARCHAR(256) NOT NULL, tags TEXT NOT NULL, currency VARCHAR(3) NOT NULL,"
            " is_orphan BOOLEAN NOT NULL, record TEXT NOT NULL, PRIMARY KEY (tenant, request_id))"
        )
        old.execute(
            "INSERT INTO turns VALUES ('acme','req_1','complete',900000000,900100000,NULL,'gpt',"
            "'strong','','','INR',0,?)",
            (orjson.dumps(record).decode(),),
        )
    old.close()
    upgraded(str(path))
    engine = open_database(f"sqlite:///{path}")
    with engine.connect() as connection:
        turn = connection.execute(select(tables.turns_table)).one()
        rollup = connection.execute(select(tables.rollups_table)).one()
    engine.dispose()
    assert (turn.reason, turn.cache, turn.score, turn.first_ms) == ("hard", "exact", 0.71, 81.5)
    assert (rollup.requests, rollup.kind, rollup.reused_input_tokens) == (1, "cache", 12)


def test_rollups_from_before_there_were_days_are_summed_up_in_the_tenants_time_zone(
    tmp_path: Path,
) -> None:
    engine = open_database(f"sqlite:///{tmp_path}/ledger.db")
    config = Config()
    config.set_main_option("script_location", str(Path(database.__file__).parent / "migrations"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0004")
        connection.exec_driver_sql(
            "INSERT INTO tenants VALUES ('acme','INR','Asia/Kolkata','default','admin',0)"
        )
        for number, hour in enumerate((18, 19)):  # 23:30 and 00:30 in Kolkata
            at_us = round(datetime(2026, 11, 24, hour, tzinfo=UTC).timestamp() * 1e6)
            place = {"id": str(number), "tenant": "acme", "bucket_us": at_us}
            names = ("model", "tier", "kind", "end_user", "tags")
            row = {**place, **dict.fromkeys(names, "x"), **dict.fromkeys(tables.SUMS, 1)}
            connection.execute(tables.rollups_table.insert(), {**row, "currency": "INR"})
            count = {**place, "tier": "x", "name": "status", "value": "complete", "n": 1}
            connection.execute(tables.counts_table.insert(), count)
    upgrade(engine)
    with engine.connect() as connection:
        coarse, counts = tables.coarse_table.c, tables.day_counts_table.c
        days = select(coarse.bucket_us, coarse.micro).where(coarse.level == "days")
        found = sorted(connection.execute(days).all())
        counted = sorted(connection.execute(select(counts.bucket_us, counts.n)).all())
    engine.dispose()
    starts_us = [
        round(datetime(2026, 11, day, tzinfo=ZoneInfo("Asia/Kolkata")).timestamp() * 1e6)
        for day in (24, 25)
    ]
    assert found == counted == [(start_us, 1) for start_us in starts_us]
