"""The SQL database of record: opening it, and bringing its tables up to date.

SQLite gets what it needs to be shared by several processes.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    create_engine,
    event,
    inspect,
    make_url,
    select,
    text,
)

from policies.booking import rebuild_derived, rebuild_rollups
from policies.tables import coarse_table, counts_table, entries_table, rollups_table, turns_table

_LOCK = 0x7475726E  # the upgrade's name among this database's advisory locks
_MIGRATIONS = Path(__file__).parent / "migrations"
_BUSY_S = 5.0
_LONGEST_UPGRADE_S = 600.0


def open_database(url: str) -> Engine:
    """Return an engine for the URL; for SQLite the folder is made and WAL mode is on.

    The engine is synchronous: coroutines use it through a worker thread.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return create_engine(parsed, pool_pre_ping=True, pool_timeout=5)
    if parsed.database and parsed.database != ":memory:":
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(parsed, connect_args={"timeout": _BUSY_S})
    event.listen(engine, "connect", _prepare_sqlite)
    return engine


def upgrade(engine: Engine) -> str:
    """Bring the tables to what this version needs, and return the step they stand on.

    All or nothing. Several processes may do so at once: one works, the others wait for it.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: the database cannot be reached or changed.
        alembic.util.CommandError: a later version of Turnwise has already changed the tables.
    """
    newest = _newest_step()
    if _noted_step(engine) == newest:
        return newest
    # Only here: a gateway with nothing to bring up to date starts smaller and faster without it.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    with engine.connect() as connection:
        _lock(connection)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        _rebuild_derived(connection)
        step = step_of(connection)
        connection.commit()
    return step or ""


def upgrade_apart(url: str) -> None:
    """Do what `upgrade` does in a process of its own, where there is something to do.

    What the steps need would stay in a gateway's memory as long as it runs, 11 MB of it. Failures
    are left to `upgrade`, which then finds the tables as they were.
    """
    engine = open_database(url)
    try:
        is_current = _noted_step(engine) == _newest_step()
    finally:
        engine.dispose()
    if not is_current:
        # On its standard input: a command line is read by every user of the machine.
        command = (sys.executable, "-m", "gateway.database")
        subprocess.run(command, input=url, text=True, capture_output=True, check=False)


def step_of(connection: Connection) -> str | None:
    """Return the step that the tables stand on, None where no step was ever taken."""
    from alembic.migration import MigrationContext

    return MigrationContext.configure(connection).get_current_revision()


def _newest_step() -> str:
    return max(path.name[:4] for path in (_MIGRATIONS / "versions").glob("[0-9]*.py"))


def _noted_step(engine: Engine) -> str | None:
    if not inspect(engine).has_table("alembic_version"):
        return None
    with engine.connect() as connection:
        step: str | None = connection.execute(
            text("SELECT version_num FROM alembic_version")
        ).scalar()
    return step


def _lock(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        return
    # Others wait as long as an upgrade may take, not as long as a booking may.
    connection.exec_driver_sql(f"PRAGMA busy_timeout = {round(_LONGEST_UPGRADE_S * 1000)}")
    connection.exec_driver_sql("BEGIN IMMEDIATE")
    connection.exec_driver_sql(f"PRAGMA busy_timeout = {round(_BUSY_S * 1000)}")


def _rebuild_derived(connection: Connection) -> None:
    """Make roll-ups anew where a step dropped them, or has just brought their tables."""

    def has(*columns: Column[Any]) -> bool:
        return any(connection.execute(select(each).limit(1)).first() for each in columns)

    if not has(rollups_table.c.id) and has(entries_table.c.id, turns_table.c.request_id):
        rebuild_rollups(connection, None)
    elif not has(coarse_table.c.id) and has(rollups_table.c.id, counts_table.c.id):
        rebuild_derived(connection, None)


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    # WAL lets readers go on while one process writes; FULL keeps a commit through a power cut.
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


if __name__ == "__main__":
    upgrade(open_database(sys.stdin.read()))
