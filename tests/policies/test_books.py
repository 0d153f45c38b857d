from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from sqlalchemy import Engine, event, func, select

from policies.booking import book, parse_record
from policies.books import Books, day_bounds
from policies.budget import Budget, period_of
from policies.counts import count_turns
from policies.entry import (
    EntryClosing,
    EntryOpening,
    entry_to_json,
    opening_to_json,
    orphan_records,
)
from policies.errors import BudgetExceeded
from policies.ledger import LEASE_S, Ledger, ledger_keys
from policies.rollups import set_zone
from policies.tables import (
    coarse_table,
    entries_table,
    metadata,
    rollups_table,
    unbooked_table,
)

Opening = Callable[..., EntryOpening]
Closing = Callable[..., EntryClosing]
START, END = datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)


@pytest.fixture
def ledger(redis: Redis, clock: Any, books: Books) -> Ledger:
    return Ledger(redis, clock, books.settled_in)


async def total(books: Books, **wanted: Any) -> Any:
    span = {"start": START, "end": END, "timezone": "UTC", "group_by": ()}
    (row,) = await books.costs("acme", **{**span, **wanted})
    return row


def turn_of(entry: EntryOpening, status: str = "complete", **fields: Any) -> dict[str, Any]:
    started_us = round(entry.opened_at.timestamp() * 1_000_000)
    names = ("request_id", "tenant", "conversation", "end_user", "tags", "tier", "model")
    return {
        **{name: getattr(entry, name) for name in (*names, "policy", "currency")},
        "status": status,
        "cache": "none",
        "started_us": started_us,
        "ended_us": started_us + 1_000,
        **fields,
    }


async def answer(
    ledger: Ledger, entry: EntryOpening, closing: EntryClosing, budget: Budget | None = None
) -> None:
    held = await ledger.reserve(entry, budget, closing.charge_micro)
    await ledger.settle(held, closing, turn_of(entry, closing.status))


async def test_a_settled_turn_is_in_the_books_with_its_attempts(
    ledger: Ledger, books: Books, opening: Opening, closing: Closing
) -> None:
    await answer(ledger, opening(), closing(850))
    assert await books.catch_up("acme") == 1
    turn = await books.turn("acme", "req_1")
    assert turn is not None
    assert (turn["status"], turn["model"]) == ("complete", "gpt")
    (attempt,) = turn["attempts"]
    assert (attempt["micro"], attempt["usd_micro"], attempt["rate"]) == (850, 10, "85.0")
    assert (attempt["input_tokens"], attempt["cached_input_tokens"]) == (10, 4)


async def test_another_tenants_turn_is_not_found(
    ledger: Ledger, books: Books, opening: Opening, closing: Closing
) -> None:
    await answer(ledger, opening(), closing(850))
    await books.catch_up("acme")
    assert await books.turn("other", "req_1") is None
    assert (
        await books.costs("other", start=START, end=END, timezone="UTC", group_by=("model",)) == []
    )


async def test_a_record_that_comes_twice_is_booked_once(
    ledger: Ledger, books: Books, redis: Redis, opening: Opening, closing: Closing
) -> None:
    await answer(ledger, opening(), closing(850))
    stream = ledger_keys("acme").stream
    found: Any = await redis.xrange(stream)
    await redis.xadd(stream, found[0][1])
    await books.catch_up("acme")
    await redis.xadd(stream, found[0][1])
    await books.catch_up("acme")
    row = await total(books)
    assert (row.requests, row.attempts, row.micro) == (1, 1, 850)


async def test_processes_that_book_at_once_book_each_record_once(
    ledger: Ledger,
    books: Books,
    engine: Engine,
    redis: Redis,
    opening: Opening,
    closing: Closing,
) -> None:
    for number in range(40):
        await answer(ledger, opening(number), closing(number))
    others = [books, *(Books(engine, redis) for _ in range(3))]
    await asyncio.gather(*(other.catch_up("acme") for other in others))
    row = await total(books)
    assert (row.requests, row.attempts, row.micro) == (40, 40, sum(range(40)))
    assert await books.backlog("acme") == (0, None)


async def test_a_record_that_makes_no_sense_is_set_aside_and_the_rest_is_booked(
    ledger: Ledger,
    books: Books,
    engine: Engine,
    redis: Redis,
    opening: Opening,
    closing: Closing,
) -> None:
    stream = ledger_keys("acme").stream
    await redis.xadd(stream, {"e": b"{"})
    await redis.xadd(stream, {"e": b'{"entry": {"id": 7}, "turn": null}'})
    huge = closing(usage={"input_tokens": 2**60})
    await answer(ledger, opening(2), huge)
    await answer(ledger, opening(1, end_user="nul\0user"), closing(850))
    await books.catch_up("acme")
    assert (await total(books)).micro == 850
    assert books.n_unbooked == 3
    with engine.connect() as connection:
        assert connection.execute(select(func.count()).select_from(unbooked_table)).scalar() == 3


async def test_booking_looks_up_its_own_rows_and_scans_no_table(
    ledger: Ledger, books: Books, engine: Engine, opening: Opening, closing: Closing
) -> None:
    if engine.dialect.name != "sqlite":
        pytest.skip("the plans of SQLite")
    asked: list[tuple[str, Any]] = []

    def note(_c: Any, _k: Any, statement: str, values: Any, _x: Any, _m: Any) -> None:
        asked.append((statement, values))

    event.listen(engine, "before_cursor_execute", note)
    await answer(ledger, opening(1), closing(850))
    await answer(ledger, opening(2), closing(850))
    await books.catch_up("acme")
    event.remove(engine, "before_cursor_execute", note)
    with engine.connect() as connection:
        plans = [
            str(row.detail)
            for statement, values in asked
            if statement.startswith("SELECT")
            for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)
        ]
    assert [plan for plan in plans if "PRIMARY KEY" not in plan and "autoindex" not in plan] == []
    assert len(plans) > 2


async def test_an_unknown_price_is_counted_and_is_not_zero(
    ledger: Ledger, books: Books, opening: Opening, closing: Closing
) -> None:
    await answer(ledger, opening(), closing(cost=None))
    await books.catch_up("acme")
    assert (await total(books)).unpriced == 1
    turn = await books.turn("acme", "req_1")
    assert turn is not None
    assert turn["attempts"][0]["micro"] is None


async def test_the_true_end_of_an_orphan_replaces_its_estimate_in_rows_and_rollups(
    ledger: Ledger, books: Books, clock: Any, opening: Opening, closing: Closing
) -> None:
    entry = opening(estimate={"usd_micro": 1, "micro": 85}, estimate_charge_micro=85)
    held = await ledger.reserve(entry, None, 0)
    clock.advance(LEASE_S + 1)
    await ledger.sweep()
    await books.catch_up("acme")
    assert (await total(books)).micro == 85
    await ledger.settle(held, closing(850), turn_of(entry))
    await books.catch_up("acme")
    row = await total(books)
    assert (row.requests, row.attempts, row.micro) == (1, 1, 850)
    turn = await books.turn("acme", "req_1")
    assert turn is not None
    assert (turn["status"], turn["attempts"][0]["status"]) == ("complete", "complete")


async def test_days_are_the_days_of_the_asked_time_zone(
    ledger: Ledger, books: Books, clock: Any, opening: Opening, closing: Closing
) -> None:
    clock.now = datetime(2026, 11, 24, 18, 29, tzinfo=UTC)  # 23:59 in Kolkata
    await answer(ledger, opening(1), closing(1))
    clock.now = datetime(2026, 11, 24, 18, 30, tzinfo=UTC)  # midnight in Kolkata
    await answer(ledger, opening(2), closing(2))
    await books.catch_up("acme")
    span = {"start": START, "end": END, "group_by": ("day",)}
    kolkata = await books.costs("acme", timezone="Asia/Kolkata", **span)  # type: ignore[arg-type]
    assert [(row.group["day"], row.micro) for row in kolkata] == [
        ("2026-11-24", 1),
        ("2026-11-25", 2),
    ]
    utc = await books.costs("acme", timezone="UTC", **span)  # type: ignore[arg-type]
    assert [(row.group["day"], row.micro) for row in utc] == [("2026-11-24", 3)]


async def test_neighbouring_days_share_no_quarter_of_an_hour(
    ledger: Ledger, books: Books, clock: Any, opening: Opening, closing: Closing
) -> None:
    for number, minute in enumerate((0, 15, 29, 30, 45)):
        clock.now = datetime(2026, 11, 24, 18, minute, tzinfo=UTC)
        await answer(ledger, opening(number), closing(10**number))
    await books.catch_up("acme")
    day = date(2026, 11, 24)
    sums = []
    for today in (day, day + timedelta(days=1)):
        start, end = day_bounds(today, today, "Asia/Kolkata")
        sums.append((await total(books, start=start, end=end)).micro)
    assert sums == [111, 11_000]


async def test_a_turn_with_two_tags_stands_under_both_and_once_in_the_total(
    ledger: Ledger, books: Books, opening: Opening, closing: Closing
) -> None:
    await answer(ledger, opening(tags=("a", "b")), closing(850))
    await books.catch_up("acme")
    rows = await books.costs("acme", start=START, end=END, timezone="UTC", group_by=("tag",))
    assert [(row.group["tag"], row.micro) for row in rows] == [("a", 850), ("b", 850)]
    assert (await total(books)).micro == 850


async def test_amounts_of_two_currencies_are_never_added(
    ledger: Ledger, books: Books, opening: Opening, closing: Closing
) -> None:
    await answer(ledger, opening(1), closing(850))
    euro = closing(9, cost={"usd_micro": 10, "micro": 9})
    await answer(ledger, opening(2, currency="EUR"), euro)
    await books.catch_up("acme")
    inr = await total(books, currency="INR")
    assert (inr.micro, inr.usd_micro, inr.foreign_usd_micro) == (850, 20, 10)
    assert (await total(books, currency="USD")).usd_micro == 20


async def test_a_refused_turn_is_recorded_and_is_no_request(
    ledger: Ledger, books: Books, opening: Opening
) -> None:
    await ledger.record("acme", turn_of(opening(), "refused", model=None, tier=None))
    await books.catch_up("acme")
    turn = await books.turn("acme", "req_1")
    assert turn is not None
    assert (turn["status"], turn["attempts"]) == ("refused", [])
    assert (await total(books)).requests == 0


async def test_a_lost_counter_is_filled_from_the_books(
    ledger: Ledger, books: Books, redis: Redis, opening: Opening, closing: Closing
) -> None:
    budget = Budget(1_000, "INR")
    await answer(ledger, opening(1), closing(900), budget)
    await books.catch_up("acme")
    await redis.flushall()
    with pytest.raises(BudgetExceeded):
        await ledger.reserve(opening(2), budget, 200)
    held = await ledger.reserve(opening(3), budget, 100)
    assert (held.state.settled_micro, held.state.reserved_micro) == (900, 100)


async def test_a_counter_of_another_period_starts_with_what_is_not_booked_yet(
    ledger: Ledger, opening: Opening, closing: Closing
) -> None:
    await answer(ledger, opening(1), closing(900), Budget(1_000, "INR"))
    daily = Budget(1_000, "INR", period="day")
    held = await ledger.reserve(opening(2), daily, 100)
    assert (held.state.settled_micro, held.state.reserved_micro) == (900, 100)


async def test_a_rebuilt_counter_equals_the_sum_of_the_entries(
    ledger: Ledger, books: Books, redis: Redis, clock: Any, opening: Opening, closing: Closing
) -> None:
    budget = Budget(1_000, "INR")
    await answer(ledger, opening(1), closing(300), budget)
    spend = ledger_keys("acme", period_of("month", "UTC", clock()).key, "INR").spend
    await redis.hset(spend, "settled", "999999")
    await ledger.rebuild("acme")
    held = await ledger.reserve(opening(2), budget, 1)
    assert held.state.settled_micro == 300 == await books.settled("acme", spend)


DERIVED = (rollups_table, coarse_table)
MODELS = st.sampled_from(["gpt", "claude", "local-small"])
RECORDS = st.lists(
    st.tuples(
        st.integers(0, 12),  # the turn: ids collide on purpose
        st.integers(1, 2),
        MODELS,
        st.sampled_from(["", "ana", "ben"]),
        st.sampled_from([(), ("a",), ("a", "b")]),
        st.one_of(st.none(), st.integers(0, 10**9)),
        st.integers(0, 3 * 86_400),
        st.booleans(),
    ),
    max_size=40,
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(records=RECORDS, n_batches=st.integers(1, 4))
def test_ledger_rollups_and_costs_agree_to_the_last_micro_unit(
    engine: Engine, opening: Opening, clock: Any, records: list[Any], n_batches: int
) -> None:
    begin = clock()
    blobs = []
    for number, n, model, user, tags, micro, at_s, is_orphan in records:
        moment = begin + timedelta(seconds=at_s)
        entry = opening(number, n, model=model, end_user=user, tags=tags, opened_at=moment)
        cost = None if micro is None else {"usd_micro": micro // 85, "micro": micro}
        closed = EntryClosing("complete", moment, micro or 0, {"input_tokens": 3}, cost)
        record: Any = {"entry": entry_to_json(entry, closed, "spend"), "turn": turn_of(entry)}
        if is_orphan:
            record = orphan_records(orjson.loads(orjson.dumps(opening_to_json(entry, "s"))), moment)
        blobs.append(orjson.dumps(record))
    with engine.begin() as connection:
        for table in metadata.tables.values():
            connection.execute(table.delete())
    for index in range(n_batches):
        with engine.begin() as connection:
            book(connection, [parse_record(blob, "acme") for blob in blobs[index::n_batches]])

    async def check() -> None:
        books = Books(engine, Redis())
        with engine.connect() as connection:
            table = entries_table.c
            ledger_sum = connection.execute(select(func.sum(table.micro))).scalar() or 0
            n_entries = connection.execute(select(func.count()).select_from(entries_table)).scalar()
            before = [sorted(connection.execute(each.select()).all()) for each in DERIVED]
        whole = await total(books)
        assert (whole.micro, whole.attempts) == (ledger_sum, n_entries)
        assert whole.requests == len({number for number, *_ in records})
        for groups in (("day",), ("model",), ("tier", "end_user"), ("day", "model", "end_user")):
            rows = await books.costs(
                "acme", start=START, end=END, timezone="Asia/Kolkata", group_by=groups
            )
            assert sum(row.micro for row in rows) == ledger_sum
            assert sum(row.requests for row in rows) == whole.requests
        await books.rebuild()
        with engine.connect() as connection:
            after = [sorted(connection.execute(each.select()).all()) for each in DERIVED]
        # Replaced orphans may leave rows of zeros, which a rebuild does not make.
        for kept, made in zip(before, after, strict=True):
            assert [row for row in kept if any(n for n in row[-12:] if isinstance(n, int))] == made

    asyncio.run(check())


ZONES = st.sampled_from(["UTC", "Asia/Kolkata", "America/New_York", "Asia/Kathmandu"])
LABELS: dict[str, Callable[[datetime], str]] = {
    "day": lambda at: at.date().isoformat(),
    "hour": lambda at: at.strftime("%Y-%m-%dT%H:00%z"),
    "week": lambda at: (at.date() - timedelta(days=at.weekday())).isoformat(),
}


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    begin=st.sampled_from([datetime(2026, 11, 24, tzinfo=UTC), datetime(2026, 10, 30, tzinfo=UTC)]),
    quarters=st.lists(st.tuples(st.integers(0, 5 * 96), st.sampled_from(["", "ana"])), max_size=40),
    bounds=st.tuples(st.integers(0, 5 * 96), st.integers(0, 5 * 96)),
    kept_in=ZONES,
    asked_in=ZONES,
    moved_to=ZONES,
    groups=st.sampled_from(
        [(), ("day",), ("hour",), ("week",), ("end_user",), ("day", "end_user"), ("hour", "tag")]
    ),
)
def test_any_span_of_any_zone_costs_what_its_entries_cost(
    engine: Engine,
    opening: Opening,
    begin: datetime,
    quarters: list[tuple[int, str]],
    bounds: tuple[int, int],
    kept_in: str,
    asked_in: str,
    moved_to: str,
    groups: tuple[str, ...],
) -> None:
    books = Books(engine, Redis())
    first, last = (begin + timedelta(minutes=15 * n) for n in sorted(bounds))
    expected: dict[tuple[str, ...], int] = {} if groups else {(): 0}
    bookings = []
    for number, (quarter, user) in enumerate(quarters):
        at = begin + timedelta(minutes=15 * quarter, seconds=number)
        entry = opening(number, end_user=user, tags=("a",), opened_at=at)
        cost = {"usd_micro": 1, "micro": 3**number}
        record = {
            "entry": entry_to_json(entry, EntryClosing("complete", at, cost=cost), "spend"),
            "turn": turn_of(entry),
        }
        bookings.append(parse_record(orjson.dumps(record), "acme"))
        if first <= at < last:
            own = {"end_user": user, "tag": "a"}
            local = at.astimezone(ZoneInfo(asked_in))
            place = tuple(own[name] if name in own else LABELS[name](local) for name in groups)
            expected[place] = expected.get(place, 0) + 3**number

    async def check() -> None:
        with engine.begin() as connection:
            for table in metadata.tables.values():
                connection.execute(table.delete())
        half = len(bookings) // 2
        for zone, part in ((kept_in, bookings[:half]), (moved_to, bookings[half:])):
            await books.keep_days_in({"acme": zone})
            with engine.begin() as connection:
                book(connection, part)
        rows = await books.costs(
            "acme", start=first, end=last, timezone=asked_in, group_by=groups, currency="INR"
        )
        assert {tuple(row.group.values()): row.micro for row in rows} == expected

    asyncio.run(check())


def test_counts_of_turns_are_the_same_from_days_and_from_quarters(
    engine: Engine, opening: Opening
) -> None:
    begin = datetime(2026, 10, 30, tzinfo=UTC)
    bookings = []
    for number in range(300):
        entry = opening(number, opened_at=begin + timedelta(minutes=31 * number))
        record = {"entry": None, "turn": turn_of(entry, "failed" if number % 7 else "complete")}
        bookings.append(parse_record(orjson.dumps(record), "acme"))
    first_us, last_us = (round((begin + timedelta(hours=h)).timestamp() * 1e6) for h in (5, 140))
    asked = {"first_us": first_us, "last_us": last_us, "names": ["status"]}
    with engine.begin() as connection:
        set_zone(connection, "acme", "America/New_York")
        book(connection, bookings)
        by_day = {
            zone: count_turns(connection, "acme", timezone=zone, by_day=True, **asked)  # type: ignore[arg-type]
            for zone in ("America/New_York", "Asia/Kolkata")
        }
        whole = count_turns(connection, "acme", timezone="UTC", **asked)  # type: ignore[arg-type]
    started_us = [booking.turn["started_us"] for booking in bookings if booking.turn]
    n_within = sum(first_us <= at_us < last_us for at_us in started_us)
    for found in (whole, *by_day.values()):
        assert sum(found.values()) == n_within
    for zone, found in by_day.items():
        days = Counter(
            datetime.fromtimestamp(at_us / 1e6, ZoneInfo(zone)).date()
            for at_us in started_us
            if first_us <= at_us < last_us
        )
        told: Counter[date] = Counter()
        for (_, _, _, day), n in found.items():
            told[date(1970, 1, 1) + timedelta(days=day)] += n
        assert told == days
