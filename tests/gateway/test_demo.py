from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from gateway.demo import DemoOptions, DemoRun, FactCheck, run_demo, where_found
from gateway.demo_client import GatewayUnusable, StreamedReply, sse_data
from gateway.demo_report import compared, percentiles, report_of
from gateway.demo_text import table, text_of
from gateway.demo_trace import TOOLS, TraceConversation, load_trace, queues_of
from policies.catalog import ModelCatalog, ModelSpec, Price
from policies.usage import Usage

SMALL = ModelSpec("small", "local", "bundled", 2048, price=Price(busy_second_usd=Decimal("0.001")))
STRONG = ModelSpec(
    "strong",
    "practice",
    "practice",
    128_000,
    price=Price(input_usd_per_mtok=Decimal("1"), output_usd_per_mtok=Decimal("10")),
)
CATALOG = ModelCatalog({"small": SMALL, "strong": STRONG})
HELLO = TraceConversation("hello", "en", "small_talk", ("Hi", "Bye"))


@dataclass
class FakeGateway:
    """The contract's surface as far as the demo uses it; remembers what it was asked.

    Long messages go to the strong model, offered tools are called once, `failing` is the text of a
    message whose stream breaks, `refusals` is how many 429 come first.
    """

    failing: str | None = None
    refusals: int = 0
    refusal_headers: dict[str, str] = field(default_factory=lambda: {"retry-after": "0"})
    key: str = "good"
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    items: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    cost_micro: int = 0
    n_requests: int = 0

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/v1/route", self.route)
        app.router.add_get("/v1/costs", self.costs)
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_post("/v1/conversations/{id}/context", self.context)
        app.router.add_get("/v1/conversations/{id}/items", self.list_items)
        return app

    async def route(self, request: web.Request) -> web.Response:
        if request.headers["authorization"] != f"Bearer {self.key}":
            return web.json_response({"error": {"code": "invalid_api_key"}}, status=401)
        body = await request.json()
        model = "strong" if body["model"] == "auto:best" else "small"
        return web.json_response({"decision": {"model": model, "tier": model}})

    async def costs(self, request: web.Request) -> web.Response:
        total = {"requests": self.n_requests, "cost_micro": self.cost_micro}
        return web.json_response({"rows": [], "total": total})

    async def context(self, request: web.Request) -> web.Response:
        items = self.items[request.match_info["id"]]
        first, rest = items[0], items[1:]
        shown = [{"role": "user", "content": "Earlier: " + first["content"]}]
        messages = [*shown, {"role": "user", "content": (await request.json())["input"]}]
        parts = {"summary": None, "recalled": [first["id"]], "recent": [rest[-1]["id"]]}
        return web.json_response({"messages": messages, "tokens": 99, "parts": parts})

    async def list_items(self, request: web.Request) -> web.Response:
        return web.json_response({"data": self.items[request.match_info["id"]][:4]})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        if self.refusals:
            self.refusals -= 1
            error = {"error": {"code": "rate_limit_exceeded"}}
            return web.json_response(error, status=429, headers=self.refusal_headers)
        body = await request.json()
        self.bodies.append(body)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        text = str(body["messages"][-1]["content"])
        name = request.headers["x-turnwise-conversation-id"]
        stored = self.items.setdefault(name, [])
        for role, content in (("user", text), ("assistant", "Yes.")):
            stored.append({"id": f"item_{len(stored)}", "role": role, "content": content})
        answer = web.StreamResponse(
            headers={
                "content-type": "text/event-stream",
                "x-request-id": f"req_{len(self.bodies)}",
                "x-turnwise-overhead-ms": "1.5",
            }
        )
        await answer.prepare(request)
        for chunk in self._chunks(body, text):
            await answer.write(b"data: " + orjson.dumps(chunk) + b"\n\n")
        if text != self.failing:
            await answer.write(b"data: [DONE]\n\n")
        return answer

    def _chunks(self, body: dict[str, Any], text: str) -> list[dict[str, Any]]:
        model = "strong" if len(text) > 40 else "small"
        if text == self.failing:
            return [_chunk(model, {"content": "Y"}), {"error": {"code": "upstream_unavailable"}}]
        is_tool_call = "tools" in body and body["messages"][-1]["role"] == "user"
        call = {"id": "call_1", "function": {"name": "order_status", "arguments": "{}"}}
        delta = {"tool_calls": [{"index": 0, **call}]} if is_tool_call else {"content": "Yes."}
        self.n_requests += 1
        micro = 850 if model == "strong" else 85
        self.cost_micro += micro
        usage = {
            "prompt_tokens": 10,
            "completion_tokens": 2,
            "cost_details": {
                "cost_micro": micro,
                "usd_micro": micro // 85,
                "currency": "INR",
            },
        }
        last = {**_chunk(model, {}), "turnwise": {"tier": model, "reason": "score_low"}}
        return [_chunk(model, delta), last, {"model": model, "choices": [], "usage": usage}]


def _chunk(model: str, delta: dict[str, Any]) -> dict[str, Any]:
    return {"model": model, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}


@asynccontextmanager
async def serving(fake: FakeGateway) -> AsyncIterator[str]:
    async with TestServer(fake.app()) as server:
        yield str(server.make_url("")).rstrip("/")


async def replayed(
    fake: FakeGateway, *trace: TraceConversation, options: DemoOptions | None = None
) -> DemoRun:
    async with serving(fake) as url:
        return await run_demo(url, "good", trace=trace, options=options)


def test_trace_covers_the_languages_and_kinds_the_demo_is_about() -> None:
    trace = load_trace()

    languages = Counter(conversation.language for conversation in trace)
    kinds = Counter(conversation.kind for conversation in trace)
    assert len(trace) >= 64
    assert {"en", "hi", "hi-Latn", "ta", "te", "bn", "mr"} == set(languages)
    assert min(languages[name] for name in ("en", "hi", "hi-Latn", "ta")) >= 10
    assert {"small_talk", "support", "code", "maths", "long"} <= set(kinds)
    assert 250 <= sum(len(conversation.turns) for conversation in trace) <= 330


def test_trace_has_no_conversation_or_opening_twice_but_the_common_question() -> None:
    trace = load_trace()

    assert len({conversation.id for conversation in trace}) == len(trace)
    texts = Counter(text for conversation in trace for text in conversation.turns)
    assert [text for text, count in texts.items() if count > 1] == ["How do I track my order?"]


def test_planted_fact_is_said_first_and_never_again() -> None:
    planted = [each for each in load_trace() if each.fact is not None]

    assert len(planted) >= 6
    for conversation in planted:
        assert conversation.fact is not None
        assert conversation.fact in conversation.turns[0]
        assert not any(conversation.fact in text for text in conversation.turns[1:])
        assert len(conversation.turns) >= 12


def test_trace_in_an_indic_language_is_written_in_its_script() -> None:
    blocks = {"hi": "\u0900-\u097f", "mr": "\u0900-\u097f", "ta": "\u0b80-\u0bff"}
    blocks |= {"te": "\u0c00-\u0c7f", "bn": "\u0980-\u09ff"}
    for conversation in load_trace():
        if conversation.language in blocks:
            script = re.compile(f"[{blocks[conversation.language]}]")
            assert all(script.search(text) for text in conversation.turns), conversation.id


def test_every_tool_of_the_trace_is_declared() -> None:
    assert {tool for each in load_trace() for tool in each.tools} == set(TOOLS)


async def test_turns_of_a_conversation_are_sent_in_order_under_one_name() -> None:
    fake = FakeGateway()

    run = await replayed(fake, HELLO)

    assert [body["messages"][-1]["content"] for body in fake.bodies] == ["Hi", "Bye"]
    assert {header["x-turnwise-conversation-id"] for header in fake.headers} == {
        f"demo-{run.id}-hello"
    }


async def test_instructions_go_out_with_the_first_turn_alone() -> None:
    fake = FakeGateway()

    await replayed(fake, TraceConversation("a", "en", "support", ("Hi", "Bye"), system="Be brief."))

    roles = [[message["role"] for message in body["messages"]] for body in fake.bodies]
    assert roles == [["system", "user"], ["user"]]


async def test_a_tool_call_is_answered_with_the_tools_result() -> None:
    fake = FakeGateway()

    await replayed(
        fake, TraceConversation("a", "en", "tools", ("Where?",), tools=("order_status",))
    )

    (result,) = fake.bodies[1]["messages"]
    assert (result["role"], result["tool_call_id"]) == ("tool", "call_1")
    assert orjson.loads(result["content"]) == TOOLS["order_status"][1]


async def test_cache_is_off_unless_asked_for() -> None:
    without, with_cache = FakeGateway(), FakeGateway()

    await replayed(without, HELLO)
    await replayed(with_cache, HELLO, options=DemoOptions(use_cache=True))

    assert without.headers[0]["x-turnwise-cache"] == "off"
    assert "x-turnwise-cache" not in with_cache.headers[0]


async def test_a_broken_stream_counts_as_not_answered_and_the_rest_goes_on() -> None:
    run = await replayed(FakeGateway(failing="Hi"), HELLO)

    report = report_of(run, CATALOG)

    assert (report.n_turns, report.n_answered) == (2, 1)
    assert report.errors == {"upstream_unavailable": 1}


async def test_a_rate_limit_is_waited_out() -> None:
    run = await replayed(FakeGateway(refusals=1), HELLO)

    assert [answer.reply.error for answer in run.answers] == [None, None]
    assert run.retried == {"rate_limit_exceeded": 1}


async def test_a_spent_budget_is_not_tried_again() -> None:
    fake = FakeGateway(refusals=1, refusal_headers={"x-should-retry": "false"})

    run = await replayed(fake, HELLO)

    assert [answer.reply.error for answer in run.answers] == ["rate_limit_exceeded", None]
    assert not run.retried


async def test_a_refused_key_is_said_before_anything_is_replayed() -> None:
    fake = FakeGateway(key="another")

    with pytest.raises(GatewayUnusable, match="refuses the key"):
        await replayed(fake, HELLO)
    assert fake.bodies == []


async def test_a_gateway_that_is_not_there_is_said_in_one_line() -> None:
    with pytest.raises(GatewayUnusable, match=r"127\.0\.0\.1:9"):
        await run_demo("http://127.0.0.1:9", "good", trace=[HELLO])


async def test_fact_is_looked_for_before_its_question_is_asked() -> None:
    chat = TraceConversation(
        "a", "en", "long", ("The caterer is Saffron Table.", "Ok", "Which caterer?"), fact="Saffron"
    )

    run = await replayed(FakeGateway(), chat)

    assert run.facts == [FactCheck("a", "en", 4, 99, "recalled")]


def test_fact_in_the_question_itself_is_not_found() -> None:
    context = {
        "messages": [{"role": "user", "content": "Was it Saffron?"}],
        "parts": {"summary": None, "recalled": [], "recent": []},
    }

    assert where_found("Saffron", context, [{"id": "i1", "content": "Saffron"}]) is None


def test_fact_of_an_item_left_out_counts_as_summary() -> None:
    context = {
        "messages": [{"content": "Summary: Saffron"}, {"content": "Which?"}],
        "parts": {"summary": "Saffron", "recalled": [], "recent": ["i9"]},
    }

    assert where_found("Saffron", context, [{"id": "i1", "content": "Saffron"}]) == "summary"


async def test_report_adds_up_to_what_the_ledger_gained() -> None:
    fake = FakeGateway()
    long_text = "Please explain at length how this could ever work"

    run = await replayed(fake, HELLO, TraceConversation("b", "hi", "code", (long_text,)))
    report = report_of(run, CATALOG)

    assert report.cost == {"usd_micro": 12, "cost_micro": 1020, "currency": "INR", "n_unpriced": 0}
    assert report.ledger == {"requests": 3, "cost_micro": 1020}
    assert [(row.model, row.n_turns) for row in report.mix] == [("small", 2), ("strong", 1)]
    assert report.by_language == {"en": {"small": 2}, "hi": {"strong": 1}}
    text = text_of(report)
    assert "equal" in text and "NOT equal" not in text
    assert "0.001020" not in text  # rupees are not printed as dollars


async def test_all_strong_prices_recorded_tokens_and_keeps_recorded_costs() -> None:
    long_text = "Please explain at length how this could ever work"
    run = await replayed(FakeGateway(), HELLO, TraceConversation("b", "hi", "code", (long_text,)))

    strong, cheap = report_of(run, CATALOG).comparisons

    # Two small turns of 10 tokens in and 2 out: 10 x 1 + 2 x 10 = 30 millionths each; one kept: 10.
    assert (strong.name, strong.usd_micro) == ("all strong", 70)
    assert strong.saved == pytest.approx(1 - 12 / 70)
    # Two small turns cost 1 each for 2 tokens; the strong turn's 2 output tokens cost 1 as well.
    assert (cheap.name, cheap.usd_micro) == ("all cheap", 3)


async def test_model_without_a_price_leaves_its_comparison_unknown() -> None:
    run = await replayed(FakeGateway(), HELLO)

    def no_price(model: str, usage: Usage) -> None:
        return None

    found = compared("all strong", "strong", run.answers, 2, no_price)
    assert (found.usd_micro, found.saved) == (None, None)


async def test_after_the_limit_no_further_turn_starts() -> None:
    run = await replayed(FakeGateway(), HELLO, options=DemoOptions(limit_s=-1))

    assert run.answers == []
    text = text_of(report_of(run, CATALOG))
    assert "0 answers to 2 user turns" in text
    assert "2 turns were not sent" in text


def test_a_replay_cut_short_has_every_language_and_kind_and_the_longest_chats() -> None:
    trace = load_trace()

    long, short = queues_of(trace)

    pairs = {(each.language, each.kind) for each in short}
    assert {(each.language, each.kind) for each in list(short)[: len(pairs)]} == pairs
    assert len(long[0].turns) == max(len(each.turns) for each in trace)
    assert len(long) + len(short) == len(trace)


def test_percentiles_are_values_that_were_measured() -> None:
    assert percentiles([0.1, 0.4, 0.2, 0.3]) == (0.2, 0.4, 0.4)
    assert percentiles([]) == ()


async def test_events_survive_comments_and_fields_we_do_not_read() -> None:
    async def lines() -> AsyncIterator[bytes]:
        for line in (b": keep-alive\n", b"\n", b"event: x\n", b"data: 1\r\n", b"\r\n", b"data:2\n"):
            await asyncio.sleep(0)
            yield line

    assert [data async for data in sse_data(lines())] == [b"1", b"2"]


def test_stream_chunks_join_into_one_tool_call() -> None:
    reply = StreamedReply(status=200)
    for piece in ({"id": "c", "function": {"name": "weather"}}, {"function": {"arguments": "{}"}}):
        reply.add(_chunk("m", {"tool_calls": [{"index": 0, **piece}]}))

    assert reply.tool_calls == {0: {"id": "c", "name": "weather", "arguments": "{}"}}


def test_table_puts_numbers_to_the_right() -> None:
    assert table(("tier", "n"), [("small", "9"), ("strong", "12")]).splitlines() == [
        "  tier     n",
        "  small    9",
        "  strong  12",
    ]


def test_report_of_nothing_is_still_a_report() -> None:
    run = DemoRun("x", "http://h", datetime(2026, 1, 1, tzinfo=UTC), DemoOptions(), 0, 0)

    assert "0 answers" in text_of(report_of(run, CATALOG))
