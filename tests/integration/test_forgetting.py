"""What is deleted is gone: from every key and value of Redis, and by name from the books."""

import asyncio
import base64
from dataclasses import replace
from datetime import timedelta

from memory.conversation import Message
from tests.integration.conftest import ScriptedBackend, running, text_reply

SECRET = "Zanzibar4711"
PERSON = "person-zq-77"
NAME = "chart of Quillfeather"


async def everything(redis):
    """Return every key and every value of the server, as one text, base64 read as well."""
    parts = []
    async for key in redis.scan_iter(count=1000):
        parts.append(key)
        kind = (await redis.type(key)).decode()
        if kind == "string":
            parts.append(await redis.get(key))
        elif kind == "hash":
            parts += [part for pair in (await redis.hgetall(key)).items() for part in pair]
        elif kind == "list":
            parts += await redis.lrange(key, 0, -1)
        elif kind == "set":
            parts += await redis.smembers(key)
        elif kind == "zset":
            parts += await redis.zrange(key, 0, -1)
        elif kind == "stream":
            for _, fields in await redis.xrange(key):
                parts += [part for pair in fields.items() for part in pair]
        else:
            raise AssertionError(f"a key of an unknown kind: {kind}")
    return b"\n".join(parts + [_decoded(part) for part in parts])


def _decoded(value):
    """Return what is hidden in a kept outcome, whose body is base64."""
    _, _, rest = value.partition(b'"answer":"')
    return base64.b64decode(rest.split(b'"')[0]) if rest else b""


async def settled(gateway):
    """Wait until nothing waits to be booked, encoded or summarised."""
    await gateway.services.books.catch_up("demo")
    await asyncio.sleep(0.5)


async def talk(gateway, n_turns=20):
    headers = {
        "x-turnwise-conversation-id": NAME,
        "x-turnwise-end-user": PERSON,
    }
    for n in range(n_turns):
        text = f"My locker {n} at {SECRET} opens with {n}X{n}. " + "It is a quiet place. " * 12
        key = {"idempotency-key": f"{PERSON}-{n}"}
        status, _, _ = await gateway.chat(text, headers={**headers, **key})
        assert status == 200


async def test_after_deletion_no_byte_of_a_conversation_is_left(settings, redis):
    near = ScriptedBackend(*text_reply(f"Noted: {SECRET}"))
    async with running(settings, near) as gateway:
        await talk(gateway)
        await settled(gateway)
        before = await everything(redis)
        assert SECRET.encode() in before
        assert any(key.endswith(b":segments") for key in await redis.keys())
        assert any(b":emb:" in key for key in await redis.keys())
        status, _, _ = await gateway.post(
            "/v1/conversations/chart%20of%20Quillfeather", None, method="DELETE"
        )
        assert status == 200
        await settled(gateway)
        after = await everything(redis)
    for trace in (SECRET, NAME, PERSON):
        assert trace.encode() not in after
    assert not [key for key in await redis.keys() if b":emb:" in key]


async def test_erasing_an_end_user_removes_what_they_said_and_keeps_what_they_cost(settings, redis):
    near = ScriptedBackend(*text_reply(f"Noted: {SECRET}"))
    async with running(settings, near) as gateway:
        await talk(gateway, 2)
        await gateway.chat(f"stateless {SECRET}", headers={"x-turnwise-end-user": PERSON})
        near.script = text_reply("Hello there")
        await gateway.chat("of somebody else", headers={"x-turnwise-end-user": "else"})
        _, headers, _ = await gateway.chat("once more", headers={"x-turnwise-end-user": PERSON})
        await gateway.services.books.catch_up("demo")
        before = (await gateway.get("/v1/costs?tz=UTC&group_by=model"))[2]["total"]
        status, _, told = await gateway.admin("DELETE", f"/admin/tenants/demo/end-users/{PERSON}")
        assert status == 200
        noted = await gateway.services.audit.rows("demo")
        assert PERSON not in repr(noted)
        assert told == {
            "object": "end_user.erased",
            "end_user": PERSON,
            "conversations": [NAME],
            "answers": 2,
            "turns": 4,
            "attempts": 4,
        }
        after = (await gateway.get("/v1/costs?tz=UTC&group_by=model"))[2]["total"]
        assert after == before
        users = (await gateway.get("/v1/costs?tz=UTC&group_by=end_user"))[2]["rows"]
        assert {row["end_user"] for row in users} == {"", "else"}
        turn = await gateway.turn(headers["x-request-id"])
        assert (turn["end_user"], turn["conversation_id"]) == (None, None)
        left = await everything(redis)
    for trace in (SECRET, NAME, PERSON):
        assert trace.encode() not in left


async def test_erasing_again_finds_nothing(gateway):
    _, _, told = await gateway.admin("DELETE", "/admin/tenants/demo/end-users/a/b")
    assert (told["end_user"], told["conversations"], told["turns"]) == ("a/b", [], 0)


async def test_another_tenants_end_user_of_the_same_name_stays(gateway):
    headers = {"x-turnwise-end-user": PERSON, "x-turnwise-conversation-id": NAME}
    await gateway.chat("hello", headers=headers)
    await gateway.chat("hello", headers=headers, key="other-key-0123456789")
    await gateway.admin("DELETE", f"/admin/tenants/demo/end-users/{PERSON}")
    path = "/v1/conversations/chart%20of%20Quillfeather"
    assert (await gateway.get(path))[0] == 404
    assert (await gateway.get(path, key="other-key-0123456789"))[0] == 200


async def test_a_redacted_item_leaves_no_byte_and_no_summary_that_could_tell(settings, redis):
    async with running(settings) as gateway:
        await talk(gateway)
        await settled(gateway)
        page = (await gateway.get("/v1/conversations/chart%20of%20Quillfeather/items?limit=100"))[2]
        target = next(item for item in page["data"] if "7X7" in str(item["content"]))
        path = f"/v1/conversations/chart%20of%20Quillfeather/items/{target['id']}"
        assert (await gateway.post(path, None, method="DELETE"))[0] == 200
        await settled(gateway)
        left = await everything(redis)
    assert b"7X7" not in left
    assert b"6X6" in left


async def test_every_key_of_a_conversation_expires_with_the_policy(settings, redis):
    async with running(settings) as gateway:
        await gateway.post("/v1/conversations", {"id": "made"})
        items = [{"role": "user", "content": "It is a quiet place. " * 12} for _ in range(64)]
        await gateway.post("/v1/conversations/made/items", {"items": items})
        await gateway.chat("hello", headers={"x-turnwise-conversation-id": "talked"})
        await settled(gateway)
        keys = [key for key in await redis.keys() if b":c:" in key]
        assert any(key.endswith(b":segments") for key in keys)
        for key in keys:
            assert 89 * 86_400 < await redis.ttl(key) <= 90 * 86_400, key


async def test_cached_answers_on_their_own_server_are_forgotten_too(settings, redis):
    cache_url = settings.redis.url + "?db=0"
    settings = replace(settings, redis=replace(settings.redis, cache_url=cache_url))
    async with running(settings) as gateway:
        user = {"x-turnwise-end-user": PERSON}
        _, first, _ = await gateway.chat("the same", headers=user)
        _, second, _ = await gateway.chat("the same", headers=user)
        await gateway.admin("DELETE", f"/admin/tenants/demo/end-users/{PERSON}")
        _, third, _ = await gateway.chat("the same", headers=user)
    caches = [headers["x-turnwise-cache"] for headers in (first, second, third)]
    assert caches == ["none", "exact", "none"]


async def test_after_a_tenant_is_deleted_no_byte_of_what_it_said_is_left(settings, redis):
    near = ScriptedBackend(*text_reply(f"Noted: {SECRET}"))
    async with running(settings, near) as gateway:
        await talk(gateway)
        await gateway.chat(f"stateless {SECRET}", headers={"x-turnwise-end-user": PERSON})
        theirs = {"items": [{"role": "user", "content": "of somebody else"}]}
        await gateway.post("/v1/conversations", {"id": "kept"}, key="other-key-0123456789")
        await gateway.post("/v1/conversations/kept/items", theirs, key="other-key-0123456789")
        await settled(gateway)
        assert SECRET.encode() in await everything(redis)
        status, _, _ = await gateway.admin("DELETE", "/admin/tenants/demo")
        assert status == 200
        for _ in range(100):
            await asyncio.sleep(0.2)
            left = await everything(redis)
            if SECRET.encode() not in left:
                break
        assert (await gateway.get("/v1/conversations/kept", key="other-key-0123456789"))[0] == 200
    for trace in (SECRET, NAME, PERSON):
        assert trace.encode() not in left
    assert b"of somebody else" in left
    assert not [key for key in await redis.keys("tw:{t:demo}:*") if b":emb:" in key]


async def test_a_tenant_made_anew_keeps_what_it_says_and_late_writes_of_the_old_one_go(gateway):
    erasure, now = gateway.services.tenant_erasure, gateway.services.clock
    store, tenants = gateway.services.memory.store, gateway.services.tenants
    await erasure.want("gone", now())
    await asyncio.sleep(0.01)
    await store.append("gone", "late", [Message("user", "a turn that was running")], create=True)
    assert await erasure.run(now()) == 1
    await tenants.put_tenant("gone")
    await store.append("gone", "young", [Message("user", "hello")], create=True)
    minutes = timedelta(minutes=6)
    assert await erasure.run(now() + minutes) == 0
    assert await store.get("gone", "young") is not None
    await tenants.delete_tenant("gone")
    assert await erasure.run(now() + 2 * minutes) == 1
    assert await erasure.run(now() + 3 * minutes) == 0
    assert await erasure.run(now() + 4 * minutes) == 0
