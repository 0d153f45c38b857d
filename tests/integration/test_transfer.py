"""Export and import of conversations over HTTP, and what is no good to either."""

import io
import json
from urllib.parse import quote

import pytest
from yarl import URL

OTHER = "other-key-0123456789"


async def exported(gateway, name, key=None):
    url = URL(f"{gateway.url}/v1/conversations/{quote(name, safe='')}/export", encoded=True)
    async with gateway.client.get(url, headers=gateway.auth(key)) as response:
        return response.status, await response.read()


async def imported(gateway, name, body, key=None, path="import"):
    body = io.BytesIO(body) if isinstance(body, bytes) else body  # large ones are read in pieces
    url = URL(f"{gateway.url}/v1/conversations/{quote(name, safe='')}/{path}", encoded=True)
    headers = gateway.auth(key, content_type="application/json")
    async with gateway.client.post(url, data=body, headers=headers) as response:
        return response.status, await response.json()


async def talk(gateway, name="trip"):
    await gateway.chat("My name is Asha.", conversation=name)
    await gateway.chat("What is my name?", conversation=name)


def lines(*objects):
    return "\n".join(json.dumps(each) for each in objects).encode()


async def test_what_is_exported_is_imported_as_it_was(gateway):
    await talk(gateway)
    status, body = await exported(gateway, "trip")
    assert status == 200
    head, *items = map(json.loads, body.splitlines())
    assert (head["object"], head["id"], head["n_items"]) == ("conversation", "trip", 4)
    assert [item["seq"] for item in items] == [1, 2, 3, 4]
    told = {"id": "copy", "object": "conversation.imported", "n_items": 4, "n_new": 4}
    assert await imported(gateway, "copy", body) == (200, told)
    _, copy = await exported(gateway, "copy")
    assert copy.splitlines()[1:] == body.splitlines()[1:]
    assert await imported(gateway, "copy", body) == (200, {**told, "n_new": 0})


async def test_an_import_comes_into_another_tenant_as_its_own(gateway):
    await talk(gateway)
    _, body = await exported(gateway, "trip")
    assert (await imported(gateway, "trip", body, OTHER))[1]["n_new"] == 4
    await gateway.post("/v1/conversations/trip", None, method="DELETE")
    assert (await exported(gateway, "trip", OTHER))[0] == 200


async def test_bare_messages_are_taken_and_a_model_sees_them(gateway):
    body = lines(
        {"role": "user", "content": "The code is 4711."}, {"role": "assistant", "content": "Noted."}
    )
    assert (await imported(gateway, "plain", body))[0] == 200
    await gateway.chat("What is the code?", conversation="plain")
    assert [message["content"] for message in gateway.near.calls[0].messages] == [
        "The code is 4711.",
        "Noted.",
        "What is the code?",
    ]


async def test_an_import_past_the_bound_of_other_bodies_is_streamed(gateway):
    async def body():
        for n in range(300):
            text = f"{n} " + "x" * 100_000
            yield json.dumps({"role": "user", "content": text}).encode() + b"\n"

    status, told = await imported(gateway, "long", body())
    assert (status, told["n_new"]) == (200, 300)


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (b"", 1),
        (b"not json", 1),
        (b"[1]", 1),
        (b'{"role": "user"}', 1),
        (b'{"role": "nobody", "content": "x"}', 1),
        (b'{"object": "conversation", "created_at": 1e30}', 1),
        (b'{"object": "conversation"}\n{"role": "user", "content": 5}', 2),
        (b'{"role": "user", "content": "x"}\n{"role": "user", "content": NaN}', 2),
    ],
)
async def test_a_line_that_is_no_item_is_named(gateway, body, line):
    status, answer = await imported(gateway, "bad", body)
    assert (status, answer["error"]["param"]) == (400, f"line {line}")


async def test_another_item_in_the_same_place_is_a_conflict(gateway):
    await imported(gateway, "plain", lines({"role": "user", "content": "a"}))
    status, answer = await imported(gateway, "plain", lines({"role": "user", "content": "b"}))
    assert (status, answer["error"]["code"]) == (409, "conversation_conflict")


async def test_items_of_five_megabytes_are_refused_clearly(gateway):
    big = {"role": "user", "content": "x" * 5_000_000}
    await gateway.post("/v1/conversations", {"id": "big"})
    status, answer = await imported(gateway, "big", lines({"items": [big]}), path="items")
    assert (status, answer["error"]["code"]) == (413, "request_too_large")
    status, answer = await imported(gateway, "big", lines(big))
    assert (status, answer["error"]["code"]) == (413, "request_too_large")
    status, answer = await imported(gateway, "big", b'{"content": "' + b"x" * 9_000_000)
    assert (status, answer["error"]["code"]) == (413, "request_too_large")
    assert (await gateway.get("/v1/conversations/big"))[2]["n_items"] == 0


@pytest.mark.parametrize("path", ["export", "items", ""])
async def test_a_foreign_conversation_does_not_exist(gateway, path):
    await talk(gateway)
    tail = f"/{path}" if path else ""
    status, _, answer = await gateway.get(f"/v1/conversations/trip{tail}", key=OTHER)
    assert (status, answer["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    "name", ["{t:other}", "a:b:c", "a\0b", "../../etc", "a/b", "..", "%2e", "é"]
)
async def test_any_name_is_made_exported_and_deleted(gateway, name):
    status, _, made = await gateway.post("/v1/conversations", {"id": name})
    assert (status, made["id"]) == (200, name)
    status, body = await exported(gateway, name)
    assert (status, json.loads(body.splitlines()[0])["id"]) == (200, name)
    url = URL(f"{gateway.url}/v1/conversations/{quote(name, safe='')}", encoded=True)
    async with gateway.client.delete(url, headers=gateway.auth()) as response:
        assert response.status == 200


async def test_an_edit_branches_from_its_parent_and_an_old_tip_is_a_conflict(gateway):
    await talk(gateway)
    first = (await gateway.get("/v1/conversations/trip/items?order=asc&limit=1"))[2]["data"][0]
    path, edit = "/v1/conversations/trip/items", [{"role": "user", "content": "I am Ravi."}]
    status, _, answer = await gateway.post(path, {"items": edit, "expected_tip": first["id"]})
    assert (status, answer["error"]["code"]) == (409, "conversation_conflict")
    status, _, _ = await gateway.post(path, {"items": edit, "parent": first["id"]})
    assert status == 200
    await gateway.chat("Who am I?", conversation="trip")
    shown = [message["content"] for message in gateway.near.calls[-1].messages]
    assert shown == ["My name is Asha.", "I am Ravi.", "Who am I?"]
