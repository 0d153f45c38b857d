from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from local_models.app import App, Service
from local_models.config import EngineConfig
from local_models.engine import load_engine
from local_models.engine_thread import EngineThread
from local_models.grammar import Grammars
from local_models.server import _bind
from local_models.text import TextCodec

ROOT = Path(__file__).parents[2]
HELLO = [{"role": "user", "content": "hello"}]


@asynccontextmanager
async def serving(folder: Path, token: str | None = None, **changes):
    config = EngineConfig(model=str(folder), quantize="none", **changes)
    thread = EngineThread(load_engine(config), asyncio.get_running_loop())
    codec = TextCodec.from_folder(folder)
    grammars = Grammars(codec.tokenizer, thread.engine.vocabulary, sorted(thread.engine.eos))
    service = Service(config, "tiny", codec, thread.engine, thread, grammars, token=token)
    try:
        yield App(service), thread
    finally:
        await thread.stop()


class Client:
    """Speaks ASGI to the app; `leave` closes the client's side."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.leave = asyncio.Event()
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.body = b""
        self.received = asyncio.Event()

    async def ask(self, path: str, body=None, headers=()):
        sent = False

        async def receive():
            nonlocal sent
            if not sent:
                sent = True
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                return {"type": "http.request", "body": data}
            await self.leave.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            if message["type"] == "http.response.start":
                self.status, self.headers = message["status"], dict(message["headers"])
            else:
                self.body += message["body"]
                self.received.set()

        method = "GET" if body is None else "POST"
        scope = {"type": "http", "method": method, "path": path, "headers": list(headers)}
        await self.app(scope, receive, send)
        return self

    def json(self):
        return json.loads(self.body)

    def frames(self):
        lines = self.body.decode().split("\n\n")
        return [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]


async def chat(app: App, **fields) -> Client:
    body = {"messages": HELLO, "max_tokens": 8, "temperature": 0, "ignore_eos": True} | fields
    return await Client(app).ask("/v1/chat/completions", body)


async def test_a_plain_answer_has_openais_shape(tiny):
    async with serving(tiny[0]) as (app, _):
        answer = (await chat(app)).json()
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["finish_reason"] == "length"
    usage = answer["usage"]
    assert usage["completion_tokens"] == 8
    assert usage["total_tokens"] == usage["prompt_tokens"] + 8
    assert usage["busy_s"] > 0


async def test_a_stream_collected_equals_the_plain_answer(tiny):
    async with serving(tiny[0]) as (app, _):
        plain = (await chat(app)).json()
        frames = (await chat(app, stream=True, stream_options={"include_usage": True})).frames()
    assert frames[-1] == "[DONE]"
    chunks = [json.loads(frame) for frame in frames[:-1]]
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 8
    assert chunks[-2]["choices"][0]["finish_reason"] == "length"
    text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks[:-1])
    assert text == plain["choices"][0]["message"]["content"]


async def test_choices_differ_and_repeat_with_the_seed(tiny):
    async with serving(tiny[0]) as (app, _):
        fields = {"n": 3, "temperature": 1.0, "seed": 4}
        first, second = (await chat(app, **fields)).json(), (await chat(app, **fields)).json()
    texts = [c["message"]["content"] for c in first["choices"]]
    assert texts == [c["message"]["content"] for c in second["choices"]]
    assert len(set(texts)) > 1


async def test_logprobs_name_the_chosen_token_first_under_greedy(tiny):
    async with serving(tiny[0]) as (app, _):
        answer = (await chat(app, logprobs=True, top_logprobs=2)).json()
    entries = answer["choices"][0]["logprobs"]["content"]
    assert len(entries) == 8
    assert all(e["logprob"] == e["top_logprobs"][0]["logprob"] for e in entries)


async def test_a_client_that_leaves_stops_generation(tiny):
    async with serving(tiny[0]) as (app, thread):
        client = Client(app)
        body = {"messages": HELLO, "stream": True, "ignore_eos": True}
        async with asyncio.TaskGroup() as group:
            group.create_task(client.ask("/v1/chat/completions", body))
            await client.received.wait()
            client.leave.set()
        await asyncio.sleep(0.1)
        assert thread.engine.scheduler.running == []
        assert thread.engine.pool.n_held == 0
        assert thread.engine.stats.finished == {"cancelled": 1}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{", None),
        ([], None),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"messages": HELLO, "temperature": 9}, "temperature"),
        ({"messages": HELLO, "temperature": "hot"}, "temperature"),
        ({"messages": HELLO, "max_tokens": 0}, "max_tokens"),
        ({"messages": HELLO, "n": 99}, "n"),
        ({"messages": HELLO, "stop": [""]}, "stop"),
        ({"messages": HELLO, "logit_bias": {"x": 1}}, "logit_bias"),
        ({"messages": [{"role": "user", "content": "x" * 900}]}, "messages"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content",
        ),
    ],
)
async def test_bad_input_is_a_400_that_names_the_field(tiny, body, param):
    async with serving(tiny[0]) as (app, _):
        client = await Client(app).ask("/v1/chat/completions", body)
        assert client.status == 400
        assert client.json()["error"]["param"] == param
        assert (await chat(app)).status == 200


async def test_a_schema_holds_even_a_random_model_to_json(tiny):
    pytest.importorskip("llguidance", reason="llguidance is not installed")
    schema = {
        "type": "object",
        "properties": {"is_open": {"type": "boolean"}, "day": {"enum": ["mon", "tue"]}},
        "required": ["is_open", "day"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    async with serving(tiny[0]) as (app, _):
        fields = {"response_format": form, "max_tokens": 100, "ignore_eos": False}
        for temperature in (0, 1.5):
            answer = (await chat(app, temperature=temperature, **fields)).json()
            value = json.loads(answer["choices"][0]["message"]["content"])
            assert isinstance(value["is_open"], bool)
            assert value["day"] in ("mon", "tue")


async def test_a_schema_that_is_none_is_refused(tiny):
    pytest.importorskip("llguidance", reason="llguidance is not installed")
    form = {"type": "json_schema", "json_schema": {"schema": {"type": "wizard"}}}
    async with serving(tiny[0]) as (app, _):
        client = await chat(app, response_format=form)
        assert (client.status, client.json()["error"]["param"]) == (400, "response_format")


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {
                "type": "object",
                "properties": {"unit": {"enum": ["c", "f"]}},
                "required": ["unit"],
                "additionalProperties": False,
            },
        },
    }
    for name in ("weather", "time")
]


@pytest.mark.parametrize("temperature", [0, 1.5])
@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "weather"}}]
)
async def test_a_demanded_call_comes_even_from_a_random_model(tiny, choice, temperature):
    pytest.importorskip("llguidance", reason="llguidance is not installed")
    fields = {"tools": TOOLS, "tool_choice": choice, "max_tokens": 150, "ignore_eos": False}
    fields |= {"temperature": temperature, "parallel_tool_calls": False}
    async with serving(tiny[0]) as (app, _):
        choices = (await chat(app, **fields)).json()["choices"]
        frames = (await chat(app, stream=True, **fields)).frames()
    assert choices[0]["finish_reason"] == "tool_calls"
    assert choices[0]["message"]["content"] is None
    (call,) = choices[0]["message"]["tool_calls"]
    assert call["function"]["name"] in ("weather", "time")
    assert json.loads(call["function"]["arguments"])["unit"] in ("c", "f")
    deltas = [json.loads(frame)["choices"][0] for frame in frames[:-1]]
    assert not any(d["delta"].get("content") for d in deltas)
    assert [d["delta"]["tool_calls"][0]["index"] for d in deltas if "tool_calls" in d["delta"]] == [
        0
    ]
    assert deltas[-1]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    ("tools", "choice", "param"),
    [
        (TOOLS, {"type": "function", "function": {"name": "nobody"}}, "tool_choice"),
        ([], "required", "tool_choice"),
        ([{"type": "wizard"}], "auto", "tools[0]"),
    ],
)
async def test_tools_that_cannot_be_called_are_a_400(tiny, tools, choice, param):
    async with serving(tiny[0]) as (app, _):
        client = await chat(app, tools=tools, tool_choice=choice)
    assert (client.status, client.json()["error"]["param"]) == (400, param)


async def test_another_models_name_is_404(tiny):
    async with serving(tiny[0]) as (app, _):
        client = await chat(app, model="gpt-9")
    assert (client.status, client.json()["error"]["code"]) == (404, "model_not_found")


async def test_a_full_queue_is_429_with_retry_after(tiny):
    async with serving(tiny[0], max_running=1, max_queued=1) as (app, thread):
        async with asyncio.TaskGroup() as group:
            clients = [Client(app) for _ in range(6)]
            body = {"messages": HELLO, "ignore_eos": True, "max_tokens": 100}
            for client in clients:
                group.create_task(client.ask("/v1/chat/completions", body))
        refused = [c for c in clients if c.status == 429]
        assert refused
        assert all(int(c.headers[b"retry-after"]) >= 1 for c in refused)
        assert (await chat(app)).status == 200


async def test_a_step_that_breaks_ends_its_requests_and_no_others(tiny):
    async with serving(tiny[0]) as (app, thread):
        good = thread.engine._runner.run
        thread.engine._runner.run = lambda work: 1 / 0
        client = await chat(app)
        thread.engine._runner.run = good
        assert (client.status, client.json()["error"]["type"]) == (503, "server_error")
        assert (await chat(app)).status == 200


async def test_stats_and_metrics_tell_queue_running_and_pages(tiny):
    async with serving(tiny[0]) as (app, _):
        await chat(app)
        stats = (await Client(app).ask("/stats")).json()
        metrics = (await Client(app).ask("/metrics")).body.decode()
    assert stats["queue"] == stats["running"] == 0
    assert stats["pages"]["total"] == stats["pages"]["free"] + stats["pages"]["cached"]
    assert stats["reply_tokens"] == 8
    assert 'vllm:num_requests_running{model_name="tiny"} 0' in metrics
    assert 'vllm:generation_tokens_total{model_name="tiny"} 8' in metrics


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/stats", "/health", "/metrics"])
async def test_an_engine_with_a_token_answers_to_it_alone(tiny, path):
    body = {"messages": HELLO, "max_tokens": 1} if path.startswith("/v1") else None
    async with serving(tiny[0], token="one") as (app, _):
        for given, status in (("Bearer two", 401), ("", 401), ("Bearer one", 200)):
            headers = [(b"authorization", given.encode())]
            assert (await Client(app).ask(path, body, headers)).status == status


@pytest.mark.parametrize(("value", "status"), [(b"50", 200), (b"0", 400), (b"soon", 400)])
async def test_a_target_for_the_first_token_is_a_number_of_milliseconds(tiny, value, status):
    async with serving(tiny[0]) as (app, thread):
        headers = [(b"x-turnwise-target-ttft-ms", value)]
        body = {"messages": HELLO, "max_tokens": 1}
        client = await Client(app).ask("/v1/chat/completions", body, headers)
        target_s = thread.engine.pace.target_s(thread.engine.now_s())
    assert client.status == status
    assert target_s == (0.05 if status == 200 else None)


async def test_tokenize_counts_text_and_messages(tiny):
    async with serving(tiny[0]) as (app, _):
        text = (await Client(app).ask("/tokenize", {"text": "abc"})).json()
        messages = (await Client(app).ask("/tokenize", {"messages": HELLO})).json()
    assert text == {"tokens": 3}
    assert messages["tokens"] > 5


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(folder: Path, port: int, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "local_models.server", "--model", str(folder)]
    command += ["--quantize", "none", "--port", str(port), "--parent-stdin", *more]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)


async def healthy(port: int) -> bool:
    try:
        url = f"http://127.0.0.1:{port}/health"
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False


@pytest.mark.parametrize("ending", ["stdin", "sigterm"])
async def test_the_process_ends_with_its_parents_stdin_and_on_sigterm_under_load(tiny, ending):
    port = free_port()
    process = start(tiny[0], port)
    try:
        deadline = time.monotonic() + 60
        while not await healthy(port):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
        async with aiohttp.ClientSession() as session:
            body = {"messages": HELLO, "stream": True, "ignore_eos": True, "max_tokens": 240}
            url = f"http://127.0.0.1:{port}/v1/chat/completions"
            async with session.post(url, json=body) as response:
                await response.content.readline()
                if ending == "stdin":
                    process.stdin.close()
                else:
                    process.send_signal(signal.SIGTERM)
                await asyncio.to_thread(process.wait, 10)
    finally:
        process.kill()
        process.wait()
        if process.stdin and not process.stdin.closed:
            process.stdin.close()


def test_an_answer_never_waits_for_its_peers_acknowledgement():
    # asyncio sets TCP_NODELAY on what a listener accepts only where the protocol is named.
    with _bind("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP
