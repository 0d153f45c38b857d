"""The dashboard over real HTTP: who may see what, what the first page says, what leaves a trace."""

from __future__ import annotations

import gzip
import os
import re
import signal
from dataclasses import replace
from datetime import timedelta
from importlib.resources import files
from zoneinfo import ZoneInfo

import aiohttp
import pytest

from gateway.app import utc_now
from gateway.dashboard import formats
from gateway.settings import RedisSettings
from gateway.state import embedded_redis
from tests.integration.conftest import running
from tests.synthetic_books import fill

INDIA = ZoneInfo("Asia/Kolkata")
ADMIN_KEY = "an-admin-key-for-tests"
PAGES = ("", "/spend", "/savings", "/routing", "/latency", "/budgets", "/turns", "/conversations")


class Reader:
    """Somebody with a browser: cookies, no header of a key."""

    def __init__(self, url, session):
        self.url = url
        self.session = session

    async def get(self, path, **options):
        async with self.session.get(self.url + path, allow_redirects=False, **options) as answer:
            return answer.status, answer.headers, await answer.text()

    async def send(self, path, fields, **options):
        async with self.session.post(
            self.url + path, data=fields, allow_redirects=False, **options
        ) as answer:
            return answer.status, answer.headers, await answer.text()

    async def token(self, path="/dashboard/policies"):
        """Return the form token that a page carries."""
        return re.search(r'name="csrf" value="(\w+)"', (await self.get(path))[2])[1]


@pytest.fixture
async def reader_of(gateway):
    sessions = []

    async def sign_in(key):
        # Unsafe means: cookies of an address without a name are kept, too.
        session = aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True))
        sessions.append(session)
        reader = Reader(gateway.url, session)
        status, _, _ = await reader.send("/dashboard/login", {"key": key})
        assert status == 303
        return reader

    yield sign_in
    for session in sessions:
        await session.close()


async def make_key(gateway, tenant="demo", scopes=("costs", "turns", "manage")):
    _, _, made = await gateway.admin(
        "POST", f"/admin/tenants/{tenant}/keys", {"name": "made here", "scopes": list(scopes)}
    )
    return made["id"], made["key"]


@pytest.mark.parametrize("path", PAGES)
async def test_stranger_is_sent_to_sign_in(gateway, path):
    async with aiohttp.ClientSession() as session:
        status, headers, _ = await Reader(gateway.url, session).get(f"/dashboard{path}")

    assert (status, headers["location"].split("?")[0]) == (303, "/dashboard/login")


async def test_wrong_key_does_not_sign_in(gateway):
    async with aiohttp.ClientSession() as session:
        reader = Reader(gateway.url, session)
        status, headers, text = await reader.send("/dashboard/login", {"key": "tw_wrong"})

    assert status == 401
    assert "Incorrect API key" in text
    assert "set-cookie" not in headers


async def test_cookie_is_kept_from_scripts_and_other_sites(gateway):
    async with aiohttp.ClientSession() as session:
        reader = Reader(gateway.url, session)
        _, headers, _ = await reader.send("/dashboard/login", {"key": gateway.key})

    cookie = headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert gateway.key not in cookie


@pytest.mark.parametrize("cookie", ["", "x", "ä.ö", "W10.00", "a.b.c"])
async def test_forged_cookie_is_nobody(gateway, cookie):
    async with aiohttp.ClientSession() as session:
        status, _, _ = await Reader(gateway.url, session).get(
            "/dashboard", headers={"cookie": f"turnwise_session={cookie}"}
        )

    assert status == 303


async def test_sign_in_leads_to_no_other_site(gateway):
    for there in ("https://elsewhere.example/", "//elsewhere.example", "/dashboard/\\elsewhere"):
        async with aiohttp.ClientSession() as session:
            reader = Reader(gateway.url, session)
            _, headers, _ = await reader.send(
                "/dashboard/login", {"key": gateway.key, "next": there}
            )
        assert headers["location"] == "/dashboard"


async def test_revoked_key_ends_its_session(gateway, reader_of):
    key_id, key = await make_key(gateway)
    reader = await reader_of(key)
    assert (await reader.get("/dashboard"))[0] == 200

    await gateway.admin("DELETE", f"/admin/keys/{key_id}")

    assert (await reader.get("/dashboard"))[0] == 303


@pytest.mark.parametrize("path", PAGES)
async def test_empty_page_teaches(gateway, reader_of, path):
    status, _, text = await (await reader_of(gateway.key)).get(f"/dashboard{path}")

    assert status == 200
    assert 'class="lead"' in text


async def test_first_page_answers_in_words_with_the_ledgers_own_sum(gateway, reader_of):
    now = utc_now()
    fill(gateway.services.database, "demo", now=now, days=4, per_day=40)
    reader = await reader_of(gateway.key)

    _, _, text = await reader.get("/dashboard?tz=Asia/Kolkata")

    day = (now.astimezone(INDIA) - timedelta(days=1)).date().isoformat()
    _, _, costs = await gateway.get(f"/v1/costs?from={day}&to={day}&group_by=model")
    rupees, rest = divmod(costs["total"]["cost_micro"], 1_000_000)
    words = re.sub(r"<[^>]+>", "", text)
    assert f"on {costs['total']['requests']} turns" in words
    assert "It adds up." in words
    assert f"this page = ₹{rupees}.{rest:06d}" in words
    assert re.search(r"saved ₹[\d,.]+", words)


@pytest.mark.parametrize("table", ["rollups", "coarse_rollups"])
async def test_page_says_when_ledger_and_roll_ups_disagree(gateway, reader_of, table):
    database = gateway.services.database
    fill(database, "demo", now=utc_now(), days=3, per_day=30)
    with database.begin() as connection:
        connection.exec_driver_sql(f"UPDATE {table} SET micro = micro + 1")

    _, _, text = await (await reader_of(gateway.key)).get("/dashboard")

    assert "It does not add up" in text
    assert "turnwise costs rebuild" in text


@pytest.mark.parametrize("path", PAGES)
async def test_no_tenant_sees_another(gateway, reader_of, path):
    fill(gateway.services.database, "demo", now=utc_now(), days=2, per_day=20)
    stranger = await reader_of("other-key-0123456789")

    status, _, _ = await stranger.get(f"/dashboard{path}?tenant=demo")
    assert status == 404
    _, _, text = await stranger.get(f"/dashboard{path}")
    assert "local-small" not in text
    assert (await stranger.get("/dashboard/turns/req_demo_00000001"))[0] == 404
    assert (await stranger.get("/dashboard/conversations?name=chat-1"))[0] == 404


async def test_owner_sees_the_turn_that_a_stranger_does_not(gateway, reader_of):
    fill(gateway.services.database, "demo", now=utc_now(), days=2, per_day=20)

    status, _, text = await (await reader_of(gateway.key)).get("/dashboard/turns/req_demo_00000001")

    assert status == 200
    assert "strong from 0.55" in text


async def test_administrator_chooses_among_tenants(gateway, reader_of):
    fill(gateway.services.database, "demo", now=utc_now(), days=3, per_day=20)
    admin = await reader_of(ADMIN_KEY)

    assert "<b>demo</b>" in (await admin.get("/dashboard?tenant=demo"))[2]
    assert "No turn has been taken yet" in (await admin.get("/dashboard?tenant=other"))[2]
    assert (await admin.get("/dashboard?tenant=nobody"))[0] == 404


async def test_page_needs_its_scope(gateway, reader_of):
    _, key = await make_key(gateway, scopes=("turns",))
    reader = await reader_of(key)

    assert (await reader.get("/dashboard/turns"))[0] == 200
    for path in ("", "/spend", "/savings", "/keys", "/audit", "/conversations"):
        assert (await reader.get(f"/dashboard{path}"))[0] == 403


async def test_tenant_may_read_its_policy_but_not_put_one(gateway, reader_of):
    _, key = await make_key(gateway)
    reader = await reader_of(key)
    token = await reader.token()

    status, _, _ = await reader.send(
        "/dashboard/policies", {"csrf": token, "act": "put", "document": "routing: {}"}
    )

    assert status == 403
    assert await gateway.services.policies.versions("demo") == []


async def test_form_without_its_token_changes_nothing(gateway, reader_of):
    reader = await reader_of(ADMIN_KEY)
    other = await (await reader_of(ADMIN_KEY)).token()
    n_keys = len(await gateway.services.tenants.keys("demo"))

    for fields in ({}, {"csrf": "wrong"}, {"csrf": other}):
        form = {"name": "x", "scope_chat": "on", **fields}
        assert (await reader.send("/dashboard/keys", form))[0] == 403

    assert len(await gateway.services.tenants.keys("demo")) == n_keys


async def test_form_of_another_site_changes_nothing(gateway, reader_of):
    reader = await reader_of(ADMIN_KEY)
    form = {"csrf": await reader.token(), "name": "x", "scope_chat": "on"}

    status, _, _ = await reader.send(
        "/dashboard/keys", form, headers={"sec-fetch-site": "cross-site"}
    )

    assert status == 403


async def test_key_made_here_is_shown_once_works_and_leaves_a_trace(gateway, reader_of):
    admin = await reader_of(ADMIN_KEY)
    form = {"csrf": await admin.token(), "name": "for finance", "scope_costs": "on"}

    _, _, text = await admin.send("/dashboard/keys?tenant=demo", form)

    key = re.search(r"<code>(tw_\S+)</code>", text)[1]
    assert (await gateway.get("/v1/costs", key=key))[0] == 200
    assert key not in (await admin.get("/dashboard/keys?tenant=demo"))[2]
    trace = (await admin.get("/dashboard/audit?tenant=demo"))[2]
    assert "create key" in trace
    assert "for finance" in trace
    assert key not in trace


async def test_tenant_admin_gives_no_scope_beyond_their_own(gateway, reader_of):
    _, key = await make_key(gateway, scopes=("costs", "manage"))
    reader = await reader_of(key)
    form = {"csrf": await reader.token(), "name": "higher", "scope_min_tier": "on"}

    assert (await reader.send("/dashboard/keys", form))[0] == 400


async def test_tenant_admin_revokes_no_foreign_key(gateway, reader_of):
    _, key = await make_key(gateway)
    foreign, foreign_key = await make_key(gateway, tenant="other", scopes=("costs",))
    reader = await reader_of(key)

    status, _, _ = await reader.send(
        f"/dashboard/keys/{foreign}/revoke", {"csrf": await reader.token()}
    )

    assert status == 404
    assert (await gateway.get("/v1/costs", key=foreign_key))[0] == 200


async def test_policy_is_compared_put_and_rolled_back(gateway, reader_of):
    admin = await reader_of(ADMIN_KEY)
    first = gateway.services.policies.text_of("default")
    second = first.replace("0.55", "0.75")
    form = {"csrf": await admin.token(), "etag": '"v0"', "document": second}
    where = "/dashboard/policies"

    compared = (await admin.send(f"{where}?tenant=demo", {**form, "act": "check"}))[2]
    assert 'class="add"' in compared
    assert await gateway.services.policies.versions("demo") == []
    assert (await admin.send(f"{where}?tenant=demo", {**form, "act": "put"}))[0] == 303
    again = {**form, "act": "put", "etag": '"v1"', "document": first}
    assert (await admin.send(f"{where}?tenant=demo", again))[0] == 303
    back = {"csrf": form["csrf"], "etag": '"v2"'}
    assert (await admin.send(f"{where}/1/rollback?tenant=demo", back))[0] == 303

    newest, *_ = await gateway.services.policies.versions("demo")
    assert (newest.version, newest.text) == (3, second)
    trace = (await admin.get("/dashboard/audit?tenant=demo"))[2]
    assert "roll policy back to 1" in trace


async def test_proposed_policy_shows_which_turns_it_would_have_moved(gateway, reader_of):
    fill(gateway.services.database, "demo", now=utc_now(), days=1, per_day=80)
    admin = await reader_of(ADMIN_KEY)
    text = gateway.services.policies.text_of("default").replace("0.55", "0.2")
    form = {"csrf": await admin.token(), "etag": '"v0"', "document": text, "act": "check"}

    page = (await admin.send("/dashboard/policies?tenant=demo", form))[2]
    what_if = (await admin.get("/dashboard/routing/what-if?tenant=demo&threshold=0.2"))[2]

    told = re.search(r"<b>(\d+)</b> of the newest (\d+) turns would have gone", page)
    assert told[0] in what_if
    assert page.count("/dashboard/turns/req_demo_") == min(20, int(told[1])) > 5


async def test_second_administrator_overwrites_nothing(gateway, reader_of):
    admin = await reader_of(ADMIN_KEY)
    text = gateway.services.policies.text_of("default")
    form = {"csrf": await admin.token(), "etag": '"v0"', "act": "put", "document": text}
    assert (await admin.send("/dashboard/policies?tenant=demo", form))[0] == 303

    late = await admin.send("/dashboard/policies?tenant=demo", form)

    assert "Somebody else changed the policy meanwhile" in late[2]
    assert len(await gateway.services.policies.versions("demo")) == 1


async def test_wrong_policy_is_named_and_not_put(gateway, reader_of):
    admin = await reader_of(ADMIN_KEY)
    form = {"csrf": await admin.token(), "act": "put", "document": "routng: {}"}

    _, _, text = await admin.send("/dashboard/policies?tenant=demo", form)

    assert "routng" in text
    assert 'role="alert"' in text
    assert await gateway.services.policies.versions("demo") == []


async def test_change_over_the_admin_api_leaves_a_trace(gateway, reader_of):
    await gateway.admin("PUT", "/admin/tenants/demo", {"timezone": "UTC"})
    await gateway.admin("PUT", "/admin/tenants/demo", {"timezone": "Mars/Base"})
    await gateway.admin("GET", "/admin/tenants/demo")

    rows = await gateway.services.audit.rows("demo")

    assert [(row.act, row.actor) for row in rows] == [("PUT /admin/tenants/demo", "environment")]


async def test_policy_put_over_the_admin_api_leaves_a_trace(gateway):
    text = gateway.services.policies.text_of("default")
    auth = {"authorization": f"Bearer {ADMIN_KEY}"}
    async with gateway.client.put(
        f"{gateway.url}/admin/tenants/demo/policy", data=text, headers=auth
    ) as answer:
        assert answer.status == 200

    assert [row.act for row in await gateway.services.audit.rows("demo")] == [
        "PUT /admin/tenants/demo/policy"
    ]


async def test_export_adds_up_to_the_cost_api(gateway, reader_of):
    fill(gateway.services.database, "demo", now=utc_now(), days=6, per_day=30)
    reader = await reader_of(gateway.key)

    _, headers, text = await reader.get("/dashboard/spend.csv?days=7&group=model")

    today = utc_now().astimezone(INDIA)
    first = (today - timedelta(days=6)).date().isoformat()
    _, _, costs = await gateway.get(f"/v1/costs?from={first}&group_by=model")
    rows = [line.split(",") for line in text.strip().splitlines()[1:]]
    assert headers["x-days"] == "7"
    assert sum(int(row[-2]) for row in rows) == costs["total"]["cost_micro"]


async def test_what_if_at_todays_threshold_moves_nothing(gateway, reader_of):
    fill(gateway.services.database, "demo", now=utc_now(), days=3, per_day=40)
    reader = await reader_of(gateway.key)

    same = (await reader.get("/dashboard/routing/what-if?threshold=0.55"))[2]

    assert "(as it is now): <b>0</b> of the newest" in same
    assert (await reader.get("/dashboard/routing/what-if?threshold=2"))[0] == 400


async def test_what_if_says_what_the_replay_of_such_a_policy_says(gateway, reader_of):
    fill(gateway.services.database, "demo", now=utc_now(), days=1, per_day=80)
    document = files("policies").joinpath("default.yaml").read_text()
    proposed = document.replace("{strong: 0.55}", "{strong: 0.2}")

    today = utc_now().astimezone(INDIA).date()
    async with gateway.client.post(
        f"{gateway.url}/admin/tenants/demo/policy/replay",
        params={"from": (today - timedelta(days=29)).isoformat()},
        data=proposed,
        headers={"authorization": f"Bearer {ADMIN_KEY}"},
    ) as answer:
        replayed = await answer.json()
    shown = (await (await reader_of(gateway.key)).get("/dashboard/routing/what-if?threshold=0.2"))[
        2
    ]

    assert replayed["n_changed"] > 5
    changed = f"<b>{replayed['n_changed']}</b> of the newest {replayed['n_turns']} turns"
    assert changed in shown
    for name in ("cost_before_micro", "cost_after_micro"):
        assert formats.money(replayed[name], "INR", short=True) in shown


@pytest.mark.parametrize(
    "query", ["tz=Mars/Base", "currency=EUR", "days=31", "day=2026-13-01", "day=9999-12-31"]
)
async def test_wrong_value_in_the_address_is_named(gateway, reader_of, query):
    status, _, text = await (await reader_of(gateway.key)).get(f"/dashboard/spend?{query}")

    assert status == 400
    assert query.partition("=")[0] in text


async def test_text_of_a_turn_never_becomes_markup(gateway, reader_of):
    name = "<script>alert(1)</script>"
    await gateway.chat(name, headers={"x-turnwise-conversation-id": name})
    reader = await reader_of(gateway.key)

    for path in ("/conversations", f"/conversations?name={name}", "/turns"):
        status, headers, text = await reader.get(f"/dashboard{path}")
        assert status == 200
        assert "<script>alert" not in text
        assert headers["content-security-policy"].startswith("default-src 'self';")


async def test_first_visit_is_under_60_kb(gateway, reader_of):
    fill(gateway.services.database, "demo", now=utc_now(), days=30, per_day=20)
    reader = await reader_of(gateway.key)
    packed = {"accept-encoding": "gzip"}

    async with reader.session.get(f"{gateway.url}/dashboard", headers=packed) as answer:
        text = await answer.text()
        assert answer.headers["content-encoding"] == "gzip"
    size = len(gzip.compress(text.encode(), 6))
    for link in set(re.findall(r'(?:src|href)="(/assets/[^"]+)"', text)):
        async with reader.session.get(gateway.url + link, headers=packed) as answer:
            assert "immutable" in answer.headers["cache-control"]
            size += int(answer.headers["content-length"])

    assert size < 60_000


async def test_pages_show_the_books_while_redis_is_silent(settings, tmp_path):
    child, url = embedded_redis(tmp_path / "state")
    async with child, running(replace(settings, redis=RedisSettings(url=url))) as gateway:
        fill(gateway.services.database, "demo", now=utc_now(), days=3, per_day=30)
        cookies = aiohttp.CookieJar(unsafe=True)
        async with aiohttp.ClientSession(cookie_jar=cookies) as session:
            reader = Reader(gateway.url, session)
            await reader.send("/dashboard/login", {"key": gateway.key})
            os.kill(child.pid, signal.SIGSTOP)
            try:
                answers = {page: await reader.get(f"/dashboard{page}") for page in PAGES}
                talk = await reader.get("/dashboard/conversations?name=chat-3")
            finally:
                os.kill(child.pid, signal.SIGCONT)
    assert {page: status for page, (status, _, _) in answers.items() if status != 200} == {}
    assert "It adds up" in answers[""][2]
    for _, _, text in (*answers.values(), talk):
        assert "without what Redis still holds" in text
    assert "cannot be read now" in talk[2]
