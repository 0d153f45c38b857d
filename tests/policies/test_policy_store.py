from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from policies.catalog import ModelCatalog, ModelSpec
from policies.errors import BrokenPolicy, DocumentErrors, PolicyConflict, UnknownPolicy
from policies.store import PolicyStore

SMALL = ModelSpec("local-small", "local", "bundled", 2048, region="on_premises")
STRONG = ModelSpec("strong", "practice", "practice-strong", 128_000)
CATALOG = ModelCatalog({"local-small": SMALL, "strong": STRONG})
ONE = "routing: {tiers: {small: [local-small]}}\n"
TWO = "routing: {tiers: {only: [strong]}}\n"
Store = Callable[[], PolicyStore]


@pytest.fixture
def new_store(engine: Engine, tmp_path: Path, clock: Any) -> Store:
    return lambda: PolicyStore(engine, CATALOG, folders=(tmp_path,), clock=clock)


@pytest.fixture
async def store(new_store: Store) -> PolicyStore:
    store = new_store()
    await store.prepare(["default"])
    return store


async def test_the_named_file_is_the_policy_until_one_is_put(store: PolicyStore) -> None:
    assert store.policy_of("acme", "default").label == "default@0"
    version = await store.put("acme", TWO, name="default")
    assert store.policy_of("acme", "default").label == "default@1"
    assert store.policy_of("other", "default").label == "default@0"
    assert version.etag == '"v1"'


async def test_a_file_beside_the_configuration_goes_before_the_packaged_one(
    store: PolicyStore, tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text(ONE)
    assert [tier.name for tier in store.policy_of("acme", "mine").tiers] == ["small"]


async def test_a_policy_that_is_nowhere_names_the_nearest(
    store: PolicyStore, tmp_path: Path
) -> None:
    with pytest.raises(UnknownPolicy, match="did you mean 'default'"):
        store.policy_of("acme", "defualt")


async def test_a_wrong_document_is_refused_and_the_live_policy_stays(store: PolicyStore) -> None:
    await store.put("acme", ONE, name="default")
    with pytest.raises(DocumentErrors):
        await store.put("acme", TWO.replace("strong", "strnog"), name="default")
    assert store.policy_of("acme", "default").version == 1
    assert len(await store.versions("acme")) == 1


async def test_two_admins_cannot_overwrite_each_other(store: PolicyStore) -> None:
    await store.put("acme", ONE, name="default", if_match='"v0"')
    with pytest.raises(PolicyConflict) as conflict:
        await store.put("acme", TWO, name="default", if_match='"v0"')
    assert conflict.value.etag == '"v1"'
    await store.put("acme", TWO, name="default", if_match='"v7", "v1"')
    await store.put("acme", TWO, name="default", if_match="*")
    assert store.policy_of("acme", "default").version == 3


async def test_puts_at_once_all_get_their_own_number(new_store: Store) -> None:
    stores = [new_store() for _ in range(3)]
    for store in stores:
        await store.prepare(["default"])
    await asyncio.gather(*(store.put("acme", ONE, name="default") for store in stores))
    assert [version.version for version in await stores[0].versions("acme")] == [3, 2, 1]


async def test_rolling_back_puts_the_old_document_as_a_new_version(store: PolicyStore) -> None:
    await store.put("acme", ONE, name="default")
    await store.put("acme", TWO, name="default")
    version = await store.rollback("acme", 1)
    assert (version.version, version.text) == (3, ONE)
    with pytest.raises(UnknownPolicy):
        await store.rollback("acme", 9)


async def test_a_refresh_brings_what_another_process_put(new_store: Store) -> None:
    mine, other = new_store(), new_store()
    await mine.prepare(["default"])
    await other.prepare(["default"])
    await other.put("acme", TWO, name="default")
    assert mine.policy_of("acme", "default").version == 0
    await mine.refresh()
    assert mine.policy_of("acme", "default").version == 1


async def test_a_version_the_catalogue_no_longer_holds_leaves_the_last_good_one(
    new_store: Store, engine: Engine, tmp_path: Path, clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    mine = PolicyStore(
        engine, ModelCatalog({"local-small": SMALL}), folders=(tmp_path,), clock=clock
    )
    (tmp_path / "plain.yaml").write_text(ONE)
    await mine.prepare(["plain"])
    other = new_store()
    await other.prepare([])
    await other.put("acme", ONE, name="plain")
    await mine.refresh()
    await other.put("acme", TWO, name="plain")
    with caplog.at_level(logging.ERROR):
        await mine.refresh()
        await mine.refresh()
    assert mine.policy_of("acme", "plain").version == 1
    assert len(caplog.records) == 1


async def test_a_budget_in_a_third_currency_is_refused_for_the_tenant(
    store: PolicyStore, tmp_path: Path
) -> None:
    text = ONE + 'budget: {limit: "5 INR"}\n'
    with pytest.raises(DocumentErrors, match="tenant's own currency, EUR"):
        await store.put("acme", text, name="default", currency="EUR")
    (tmp_path / "rupees.yaml").write_text(text)
    with pytest.raises(DocumentErrors, match=r"rupees\.yaml:2: budget\.limit"):
        store.check_file("rupees", "EUR")
    assert store.check_file("rupees", "INR").budget is not None


async def test_an_override_ends_by_itself_and_the_version_before_holds_again(
    store: PolicyStore, clock: Any
) -> None:
    await store.put("acme", ONE, name="default")
    await store.put("acme", ONE, name="default", until=clock() + timedelta(hours=1))
    assert store.policy_of("acme", "default").version == 2
    clock.advance(3601)
    await store.refresh()
    assert store.policy_of("acme", "default").version == 1
    assert (await store.put("acme", ONE, name="default")).version == 3


async def test_a_file_that_changes_is_read_anew_and_a_broken_one_leaves_the_last_good(
    new_store: Store, tmp_path: Path
) -> None:
    store = new_store()
    file = tmp_path / "mine.yaml"
    file.write_text(ONE)
    await store.prepare(["mine"])
    file.write_text(ONE + "limits: {concurrent: 7}\n")
    await store.refresh()
    assert store.policy_of("acme", "mine").limits.concurrent == 7
    file.write_text("routing: {tiers: nonsense}")
    await store.refresh()
    assert store.policy_of("acme", "mine").limits.concurrent == 7


async def test_a_budget_without_a_time_zone_counts_in_the_tenants(
    engine: Engine, tmp_path: Path, clock: Any
) -> None:
    async def timezones() -> dict[str, str]:
        return {"acme": "Asia/Kolkata"}

    store = PolicyStore(engine, CATALOG, folders=(tmp_path,), clock=clock, timezones=timezones)
    (tmp_path / "mine.yaml").write_text(ONE + "budget: {limit: 5 USD}\n")
    (tmp_path / "own.yaml").write_text(ONE + "budget: {limit: 5 USD, timezone: America/New_York}\n")
    await store.prepare(["mine", "own"])
    zones = {
        (tenant, name): store.policy_of(tenant, name).budget.timezone  # type: ignore[union-attr]
        for tenant in ("acme", "other")
        for name in ("mine", "own")
    }
    assert zones == {
        ("acme", "mine"): "Asia/Kolkata",
        ("acme", "own"): "America/New_York",
        ("other", "mine"): "UTC",
        ("other", "own"): "America/New_York",
    }


async def test_each_text_of_a_file_has_its_own_number(store: PolicyStore, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    labels = []
    for text in (ONE, TWO, ONE, ONE + "# the same, told differently\n"):
        file.write_text(text)
        store.policy_of("acme", "mine")
        await store.refresh()
        labels.append(store.policy_of("acme", "mine").label)
    assert labels == ["mine@0", "mine@0.1", "mine@0", "mine@0.2"]


async def test_every_process_gives_a_text_of_a_file_the_same_number(
    new_store: Store, tmp_path: Path
) -> None:
    stores = [new_store() for _ in range(4)]
    for text in (ONE, TWO):
        (tmp_path / "mine.yaml").write_text(text)
        await asyncio.gather(*(store.prepare(["mine"]) for store in stores))
    later = new_store()
    await later.prepare(["mine"])
    labels = {each.policy_of("acme", "mine").label for each in (*stores, later)}
    assert labels == {"mine@0.1"}


async def test_a_stored_policy_that_no_longer_holds_never_gives_way_to_the_file(
    engine: Engine, tmp_path: Path, clock: Any, store: PolicyStore
) -> None:
    await store.put("acme", ONE.replace("{tiers", "{boundary: on_premises, tiers"), name="default")
    elsewhere = replace(SMALL, region="eu")  # the operator moved the model
    moved = ModelCatalog({"local-small": elsewhere, "strong": STRONG})
    fresh = PolicyStore(engine, moved, folders=(tmp_path,), clock=clock)
    await fresh.prepare(["default"])
    with pytest.raises(BrokenPolicy, match="version 1 of the policy of acme is broken: .*boundary"):
        fresh.policy_of("acme", "default")
    assert fresh.policy_of("other", "default").label == "default@0"
    await fresh.put("acme", TWO, name="default")
    assert fresh.policy_of("acme", "default").label == "default@2"
