"""`turnwise demo`: replays a bundled trace of conversations over HTTP against a gateway.

Owns the order of the turns and the recall check. It is a client like any other: what it
counts is what any caller sees. What the counts add up to is `demo_report`'s.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from time import perf_counter
from typing import Any
from urllib.parse import quote

import orjson

from gateway.demo_client import GatewayClient, GatewayUnusable, StreamedReply
from gateway.demo_trace import TOOLS, TraceConversation, load_trace, queues_of

# As OpenAI's own clients do: two more tries after a refusal that may pass.
_N_TRIES, _BACKOFF_S = 3, 0.5
_LONGEST_WAIT_S = 5.0
_LEDGER_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Answer:
    """One turn of the trace, answered."""

    conversation: TraceConversation
    reply: StreamedReply


@dataclass(frozen=True, slots=True)
class FactCheck:
    """Where the planted fact stood in the context of the turn that asks for it.

    `found_in` is `recalled`, `recent`, `summary`, or None when the model would not have seen it.
    """

    conversation: str
    language: str
    n_items: int
    context_tokens: int
    found_in: str | None


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """How a trace is replayed.

    `context_tokens` bounds the context of the recall check. After `limit_s` no further turn starts.
    With `use_cache` off, every answer is generated, so that runs can be compared.
    """

    n_at_once: int = 8
    max_completion_tokens: int = 24
    context_tokens: int = 512
    limit_s: float = 45.0
    turn_timeout_s: float = 45.0
    use_cache: bool = False


@dataclass(slots=True)
class DemoRun:
    """What happened; filled while the trace is replayed.

    `n_replayed` user turns were sent; `retried` counts refusals, by error code, that were followed
    by another try.
    `ends` maps `floor` and `ceiling` to the catalogue names that serve `auto:fast` and `auto:best`.
    `ledger` is what GET /v1/costs gained during the run, None where it could not be read.
    """

    id: str
    base_url: str
    started_at: datetime
    options: DemoOptions
    n_conversations: int
    n_turns: int
    n_replayed: int = 0
    answers: list[Answer] = field(default_factory=list)
    retried: Counter[str] = field(default_factory=Counter)
    facts: list[FactCheck] = field(default_factory=list)
    ends: dict[str, str] = field(default_factory=dict)
    ledger: dict[str, int] | None = None
    wall_s: float = 0.0


async def run_demo(
    base_url: str,
    key: str,
    *,
    trace: Sequence[TraceConversation] | None = None,
    options: DemoOptions | None = None,
    on_turn: Callable[[], None] | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> DemoRun:
    """Replay the trace against a running gateway and return what happened.

    Args:
        base_url: where the gateway is, without `/v1`.
        key: a bearer key with the scopes chat, conversations, route and costs.
        trace: the conversations, None for the bundled ones.
        options: how to replay.
        on_turn: called after each turn, for a progress bar.
        clock: aware UTC now; bounds the ledger window.

    Raises:
        GatewayUnusable: nothing answers at `base_url`, or it refuses the key.
    """
    trace = load_trace() if trace is None else trace
    options = options or DemoOptions()
    run = DemoRun(
        id=secrets.token_hex(4),
        base_url=base_url.rstrip("/"),
        started_at=clock(),
        options=options,
        n_conversations=len(trace),
        n_turns=sum(len(conversation.turns) for conversation in trace),
    )
    async with GatewayClient(
        base_url, key, timeout_s=options.turn_timeout_s, n_at_once=options.n_at_once
    ) as client:
        replay = _Replay(client, run, on_turn or (lambda: None))
        run.ends = await replay.ends()
        before = await replay.costs()
        await replay.all(trace)
        run.ledger = await replay.ledger_gain(before)
    return run


class _Replay:
    """One replay under way: several conversations at once, the turns of each in order."""

    def __init__(self, client: GatewayClient, run: DemoRun, on_turn: Callable[[], None]) -> None:
        self._client = client
        self._run = run
        self._options = run.options
        self._on_turn = on_turn

    async def all(self, trace: Sequence[TraceConversation]) -> None:
        """Replay every conversation, or as many as the time allows.

        Half of those at once are long chats while there are any, so that none is left for the end;
        the rest takes languages and kinds in turn, so that a replay cut short still has them all.
        """
        self._started_s = perf_counter()
        n_at_once = min(self._options.n_at_once, len(trace))
        long, short = queues_of(trace)

        async def worker(mine: deque[TraceConversation], other: deque[TraceConversation]) -> None:
            while (mine or other) and not self._is_late():
                await self._conversation((mine or other).popleft())

        async with asyncio.TaskGroup() as group:
            for index in range(n_at_once):
                group.create_task(worker(*((long, short) if index % 2 else (short, long))))
        self._run.wall_s = perf_counter() - self._started_s

    def _is_late(self) -> bool:
        return perf_counter() - self._started_s > self._options.limit_s

    async def _conversation(self, conversation: TraceConversation) -> None:
        name = f"demo-{self._run.id}-{conversation.id}"
        for index, text in enumerate(conversation.turns):
            if self._is_late():
                return
            if conversation.fact is not None and index == len(conversation.turns) - 1:
                # Before the question is asked: afterwards the answer itself may repeat the fact.
                await self._check_fact(conversation, name, text)
            messages = [{"role": "user", "content": text}]
            if index == 0 and conversation.system is not None:
                messages.insert(0, {"role": "system", "content": conversation.system})
            reply = await self._turn(conversation, name, messages)
            if reply.tool_calls and reply.error is None:
                await self._turn(conversation, name, _tool_results(reply))
            self._run.n_replayed += 1
            self._on_turn()

    async def _turn(
        self, conversation: TraceConversation, name: str, messages: list[dict[str, Any]]
    ) -> StreamedReply:
        body: dict[str, Any] = {
            "model": "auto",
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_completion_tokens": self._options.max_completion_tokens,
        }
        if conversation.tools:
            body["tools"] = [TOOLS[tool][0] for tool in conversation.tools]
        headers = {"x-turnwise-conversation-id": name, "x-turnwise-tags": "demo"}
        if not self._options.use_cache:
            headers["x-turnwise-cache"] = "off"
        for attempt in range(1, _N_TRIES + 1):
            reply = await self._client.chat(body, headers)
            wait_s = (
                reply.retry_after_s if reply.retry_after_s is not None else _BACKOFF_S * attempt
            )
            is_worth_it = reply.is_refused and wait_s <= _LONGEST_WAIT_S and not self._is_late()
            if attempt == _N_TRIES or not is_worth_it:
                break
            self._run.retried[reply.error or ""] += 1
            await asyncio.sleep(wait_s)
        self._run.answers.append(Answer(conversation, reply))
        return reply

    async def _check_fact(self, conversation: TraceConversation, name: str, question: str) -> None:
        assert conversation.fact is not None
        path = f"/v1/conversations/{quote(name, safe='')}"
        body = {"input": question, "max_tokens": self._options.context_tokens}
        try:
            status, context = await self._client.json("POST", f"{path}/context", json=body)
            _, page = await self._client.json("GET", f"{path}/items?order=asc&limit=4")
        except GatewayUnusable:
            return
        if status != 200 or not page:
            return
        self._run.facts.append(
            FactCheck(
                conversation=conversation.id,
                language=conversation.language,
                n_items=2 * (len(conversation.turns) - 1),
                context_tokens=context["tokens"],
                found_in=where_found(conversation.fact, context, page["data"]),
            )
        )

    async def ends(self) -> dict[str, str]:
        """Return the models of the floor and the ceiling, asked of POST /v1/route."""
        ends = {}
        for end, model in (("floor", "auto:fast"), ("ceiling", "auto:best")):
            body = {"model": model, "messages": [{"role": "user", "content": "Hello"}]}
            status, answer = await self._client.json("POST", "/v1/route", json=body)
            if status in (401, 403):
                said = ((answer or {}).get("error") or {}).get("message", f"status {status}")
                raise GatewayUnusable(f"{self._run.base_url} refuses the key: {said}")
            if status == 200:
                ends[end] = answer["decision"]["model"]
        return ends

    async def costs(self) -> dict[str, int] | None:
        """Return the tenant's totals around this run, None where the cost API does not answer."""
        since = self._run.started_at - timedelta(hours=1)
        query = {
            "from": since.isoformat(timespec="seconds"),
            "to": (since + timedelta(hours=3)).isoformat(timespec="seconds"),
        }
        try:
            status, costs = await self._client.json("GET", "/v1/costs", params=query)
        except GatewayUnusable:
            return None
        if status != 200:
            return None
        return {name: costs["total"].get(name) or 0 for name in ("requests", "cost_micro")}

    async def ledger_gain(self, before: dict[str, int] | None) -> dict[str, int] | None:
        """Return how much the ledger gained, once it has taken in every answered turn."""
        if before is None:
            return None
        n_answered = sum(1 for answer in self._run.answers if answer.reply.error is None)
        deadline_s = perf_counter() + _LEDGER_WAIT_S
        while True:
            after = await self.costs()
            if after is None:
                return None
            gain = {name: after[name] - before[name] for name in after}
            if gain["requests"] >= n_answered or perf_counter() > deadline_s:
                return gain
            await asyncio.sleep(0.2)


def where_found(
    fact: str, context: Mapping[str, Any], first_items: Sequence[Mapping[str, Any]]
) -> str | None:
    """Return which part of a context holds the fact: recalled, recent, summary, or None.

    Args:
        fact: the planted text.
        context: the answer of POST /v1/conversations/{id}/context; its last message, the question,
            does not count.
        first_items: the conversation's first items, the planted one among them.
    """
    planted = {item["id"] for item in first_items if fact in str(item.get("content"))}
    shown = context["messages"][:-1]
    if not any(fact in str(message.get("content")) for message in shown):
        return None
    parts = context["parts"]
    for part in ("recalled", "recent"):
        if planted & set(parts.get(part) or ()):
            return part
    return "summary"


def _tool_results(reply: StreamedReply) -> list[dict[str, Any]]:
    return [
        {
            "role": "tool",
            "tool_call_id": call["id"],
            "content": orjson.dumps(TOOLS.get(call["name"], ({}, {}))[1]).decode(),
        }
        for call in reply.tool_calls.values()
    ]
