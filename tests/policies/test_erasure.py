from __future__ import annotations

from typing import Any

from redis.asyncio import Redis
from sqlalchemy import Engine, Table, select

from policies.books import Books
from policies.erasure import anonymise, conversations_of
from policies.ledger import Ledger
from policies.tables import coarse_table, entries_table, rollups_table, turns_table
from tests.policies.test_books import answer


def rollups(engine: Engine, table: Table = rollups_table) -> list[dict[str, Any]]:
    with engine.connect() as connection:
        rows = connection.execute(select(table).order_by(table.c.id))
        return [dict(row._mapping) for row in rows]


async def test_a_name_leaves_the_books_and_the_rollups_are_what_a_rebuild_makes(
    redis: Redis, clock: Any, books: Books, engine: Engine, opening: Any, closing: Any
) -> None:
    ledger = Ledger(redis, clock, books.settled_in)
    people = ["zoe", "zoe", "adam", None]
    for number, person in enumerate(people, 1):
        entry = opening(number, end_user=person, conversation=f"talk of {person}")
        await answer(ledger, entry, closing(100 * number))
    await books.catch_up("acme")
    before = rollups(engine)
    assert await conversations_of(books.database, "acme", "zoe") == ["talk of zoe"]

    gone = await anonymise(books.database, "acme", "zoe", ["talk of zoe"])

    assert (gone.n_turns, gone.n_attempts) == (2, 2)
    after = rollups(engine)
    assert {row["end_user"] for row in after} == {"", "adam"}
    assert sum(row["micro"] for row in after) == sum(row["micro"] for row in before) == 1000
    coarse = rollups(engine, coarse_table)
    assert {row["end_user"] for row in coarse} == {"", "adam"}
    await books.rebuild("acme")
    assert rollups(engine) == after
    assert rollups(engine, coarse_table) == coarse
    with engine.connect() as connection:
        kept = [
            *connection.execute(select(turns_table)),
            *connection.execute(select(entries_table)),
        ]
    assert "zoe" not in repr(kept)
    assert "adam" in repr(kept)


async def test_erasing_twice_changes_nothing(
    redis: Redis, clock: Any, books: Books, engine: Engine, opening: Any, closing: Any
) -> None:
    ledger = Ledger(redis, clock, books.settled_in)
    await answer(ledger, opening(1, end_user="zoe"), closing(100))
    await books.catch_up("acme")
    await anonymise(books.database, "acme", "zoe", [])
    once = rollups(engine)
    assert (await anonymise(books.database, "acme", "zoe", [])).n_turns == 0
    assert rollups(engine) == once
