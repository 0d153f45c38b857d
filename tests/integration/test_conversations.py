"""Named conversations over HTTP."""

import re
from dataclasses import replace
from urllib.parse import quote

import pytest
from yarl import URL

from gateway.backends.base import ReplyDelta
from gateway.errors import BackendBroken
from gateway.models import template_rules
from tests.integration.conftest import ScriptedBackend, running

NAME = {"x-turnwise-conversation-id": "trip"}


async def items(gateway, name, **query):
    query = "&".join(f"{key}={value}" for key, value in query.items())
    return (await gateway.get(f"/v1/conversations/{name}/items?{query}"))[2]


async def test_turns_of_a_named_conversation_are_stored_and_shown_to_the_model(gateway):
    await gateway.chat("My name is Asha.", headers=NAME)
    await gateway.chat("What is my name?", headers=NAME)
    page = await items(gateway, "trip", order="asc")
    assert [item["seq"] for item in page["data"]] == [1, 2, 3, 4]
    assert [item["role"] for item in page["data"]] == ["user", "assistant"] * 2
    sent = [message["content"] for message in gateway.near.calls[1].messages]
    assert sent == ["My name is Asha.", "Hello there", "What is my name?"]


async def test_a_client_that_resends_its_history_is_recognised(gateway):
    await gateway.chat("My name is Asha.", headers=NAME)
    history = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "My name is Asha."},
        {"role": "assistant", "content": "Hello there"},
        {"role": "user", "content": "And now?"},
    ]
    await gateway.chat(messages=history, headers=NAME)
    page = await items(gateway, "trip", order="asc")
    assert [item["content"] for item in page["data"]] == [
        "My name is Asha.",
        "Hello there",
        "And now?",
        "Hello there",
    ]
    assert gateway.near.calls[1].messages[0]["content"].startswith("Be brief.")


async def test_an_answer_says_how_many_items_the_model_did_not_see(gateway):
    _, _, stateless = await gateway.chat("hello")
    assert "left_out" not in stateless["turnwise"]
    _, _, short = await gateway.chat("hello", headers=NAME)
    assert short["turnwise"]["left_out"] == 0
    told = [
        {"role": "user", "content": f"Fact {n}. " + "It is quiet here. " * 40} for n in range(60)
    ]
    await gateway.post("/v1/conversations/trip/items", {"items": told})
    _, _, long = await gateway.chat("Which facts?", headers=NAME, model="local-small")
    sent = "\n".join(message["content"] for message in gateway.near.calls[-1].messages)
    n_unseen = sum(f"Fact {n}. It is quiet here. It is quiet" not in sent for n in range(60))
    assert 30 < n_unseen <= long["turnwise"]["left_out"] <= n_unseen + 2
    _, _, text = await gateway.stream("Which facts?", headers=NAME, model="local-small")
    assert re.search(r'"left_out": ?[1-9]', text)


async def test_a_model_with_a_strict_template_gets_roles_that_alternate(gateway):
    model = gateway.services.models["local-small"]
    strict = replace(model, template=template_rules("mistral-7b", None))
    gateway.services.models["local-small"] = strict
    told = [
        {"role": "user", "content": f"Fact {n}. " + "It is quiet here. " * 40} for n in range(60)
    ]
    await gateway.post("/v1/conversations", {"id": "trip"})
    await gateway.post("/v1/conversations/trip/items", {"items": told})
    system = {"role": "system", "content": "Be brief."}
    asked = [system, {"role": "user", "content": "Which facts?"}]
    status, _, _ = await gateway.chat(messages=asked, headers=NAME, model="local-small")
    assert status == 200
    sent = gateway.near.calls[-1].messages
    assert [message["role"] for message in sent] == ["system", "user"]
    assert sent[1]["content"].endswith("Which facts?")
    body = {"input": "Which facts?", "model": "local-small"}
    _, _, shown = await gateway.post("/v1/conversations/trip/context", body)
    roles = [message["role"] for message in shown["messages"]]
    assert roles == ["system", *["user", "assistant"] * (len(roles) // 2)][: len(roles)]


async def test_a_lone_user_message_is_always_new(gateway):
    await gateway.chat("again", headers=NAME)
    await gateway.chat("again", headers=NAME)
    assert len((await items(gateway, "trip"))["data"]) == 4


async def test_a_conversation_survives_a_restart(settings, redis):
    async with running(settings) as first:
        await first.chat("remember me", headers=NAME)
    async with running(settings) as second:
        page = await items(second, "trip", order="asc")
    assert page["data"][0]["content"] == "remember me"


async def test_what_was_seen_of_a_broken_answer_is_remembered(settings, redis):
    near = ScriptedBackend(ReplyDelta(content="Half an"), BackendBroken("near", "cut"))
    async with running(settings, near) as gateway:
        await gateway.stream("hello", headers=NAME)
        page = await items(gateway, "trip", order="asc")
    assert [item["content"] for item in page["data"]] == ["hello", "Half an"]
    assert page["data"][1]["metadata"] == {"status": "incomplete"}


async def test_unknown_names_create_and_unknown_conv_ids_are_404(gateway):
    assert (await gateway.chat("x", headers={"x-turnwise-conversation-id": "new"}))[0] == 200
    status, _, body = await gateway.chat("x", headers={"x-turnwise-conversation-id": "conv_nope"})
    assert (status, body["error"]["code"]) == (404, "not_found")


async def test_another_tenants_conversation_does_not_exist(gateway):
    await gateway.chat("secret", headers=NAME)
    status, _, body = await gateway.get("/v1/conversations/trip/items", key="other-key-0123456789")
    assert (status, body["error"]["code"]) == (404, "not_found")


async def test_another_tenants_turn_does_not_exist(gateway):
    _, headers, _ = await gateway.chat("secret")
    status, _, _ = await gateway.get(
        f"/v1/turns/{headers['x-request-id']}", key="other-key-0123456789"
    )
    assert status == 404


async def test_create_append_page_and_delete(gateway):
    _, _, made = await gateway.post("/v1/conversations", {"metadata": {"topic": "tea"}})
    path = f"/v1/conversations/{made['id']}"
    new = [{"role": "user", "content": f"message {n}", "metadata": {"name": "A"}} for n in range(3)]
    _, _, stored = await gateway.post(f"{path}/items", {"items": new})
    assert [item["seq"] for item in stored["data"]] == [1, 2, 3]
    page = await items(gateway, made["id"], limit=2, order="asc")
    assert page["has_more"] is True
    rest = await items(gateway, made["id"], limit=2, order="asc", after=page["last_id"])
    assert [item["content"] for item in rest["data"]] == ["message 2"]
    assert rest["data"][0]["metadata"] == {"name": "A"}
    _, _, one = await gateway.get(f"{path}/items/{stored['first_id']}")
    assert one["content"] == "message 0"
    _, _, gone = await gateway.post(path, None, method="DELETE")
    assert gone == {"id": made["id"], "object": "conversation.deleted", "deleted": True}
    assert (await gateway.get(path))[0] == 404
    assert (await gateway.chat("x", headers={"x-turnwise-conversation-id": made["id"]}))[0] == 404


async def test_item_posts_are_done_once_per_idempotency_key(gateway):
    _, _, made = await gateway.post("/v1/conversations", {})
    path = f"/v1/conversations/{made['id']}/items"
    body = {"items": [{"role": "user", "content": "once"}]}
    key = {"Idempotency-Key": "k"}
    _, _, first = await gateway.post(path, body, headers=key)
    _, _, second = await gateway.post(path, body, headers=key)
    assert first == second
    other = {"items": [{"role": "user", "content": "twice"}]}
    status, _, error = await gateway.post(path, other, headers=key)
    assert (status, error["error"]["code"]) == (422, "idempotency_key_mismatch")


async def test_the_context_dry_run_shows_what_the_model_would_see(gateway):
    await gateway.chat("My order number is 48213.", headers=NAME)
    _, _, context = await gateway.post(
        "/v1/conversations/trip/context", {"input": "What is my order number?", "max_tokens": 200}
    )
    assert context["messages"][-1] == {"role": "user", "content": "What is my order number?"}
    assert any("48213" in message["content"] for message in context["messages"])
    assert context["tokens"] <= 200
    assert set(context["parts"]) == {"summary", "recalled", "recent"}
    assert len((await items(gateway, "trip"))["data"]) == 2


@pytest.mark.parametrize("name", ["a/b", "{t:other}", "नमस्ते", "a b", "../../etc", "x:y"])
async def test_any_printable_name_is_a_name(gateway, name):
    status, _, _ = await gateway.chat("x", conversation=name)
    assert status == 200


async def test_two_names_that_disagree_are_refused(gateway):
    status, _, body = await gateway.chat("x", headers=NAME, conversation="other")
    assert (status, body["error"]["code"]) == (400, "conversation_mismatch")


@pytest.mark.parametrize("name", ["a/b", "x/items", "a/b/c", "50%/2F"])
async def test_a_name_with_slashes_is_reached_by_its_encoded_form(gateway, name):
    await gateway.chat("hello", conversation=name)
    url = URL(
        f"{gateway.url}/v1/conversations/{quote(name, safe='')}/items?order=asc", encoded=True
    )
    async with gateway.client.get(url, headers=gateway.auth()) as response:
        page = await response.json()
    assert [item["content"] for item in page["data"]] == ["hello", "Hello there"]
