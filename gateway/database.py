"""Opening the SQL database of record, with what SQLite needs to be shared by several processes."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, create_engine, event, make_url


def open_database(url: str) -> Engine:
    """Return an engine for the URL; for SQLite the folder is made and WAL mode is on.

    The engine is synchronous: coroutines use it through a worker thread.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return create_engine(parsed, pool_pre_ping=True, pool_timeout=5)
    if parsed.database and parsed.database != ":memory:":
        from pathlib import Path

        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(parsed, connect_args={"timeout": 5.0})
    event.listen(engine, "connect", _prepare_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    # WAL lets readers go on while one process writes; FULL keeps a commit through a power cut.
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()
