"""Every table as the code declares it, for tests that need a database but not its history.

A gateway makes its tables by the steps of `gateway/migrations`, and by nothing else;
tests/gateway/test_database.py proves that both ways lead to the same.
"""

from __future__ import annotations

from sqlalchemy import Engine

from gateway import audit, tenants
from policies import alerts, tables, versions

DECLARED = tuple(each.metadata for each in (tables, versions, alerts, tenants, audit))


def make_tables(engine: Engine) -> None:
    """Make all tables in an empty database."""
    for metadata in DECLARED:
        metadata.create_all(engine)
