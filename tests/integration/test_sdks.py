"""The official SDKs talk to a running gateway unchanged: only the base URL and the key differ."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
KEY, LIMITED_KEY = "key-of-the-demo-0123456789", "key-of-the-limited-0123456789"
QUESTION = [{"role": "user", "content": "Where is my parcel?"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "find_parcel",
        "description": "Say where a parcel is.",
        "parameters": {
            "type": "object",
            "properties": {"number": {"type": "string"}},
            "required": ["number"],
        },
    },
}
PRICE = {"input_usd_per_mtok": "1", "output_usd_per_mtok": "2"}
CONFIGURATION = {
    "backends": {"near": {"kind": "simulated"}, "far": {"kind": "simulated"}},
    "models": {
        "local-small": {"backend": "near", "name": "a", "context_tokens": 4096, "price": PRICE},
        "strong": {"backend": "far", "name": "b", "context_tokens": 100_000, "price": PRICE},
    },
    "tenants": {"demo": {"keys": [KEY]}, "limited": {"policy": "tight", "keys": [LIMITED_KEY]}},
}
TIGHT = {
    "routing": {
        "tiers": {"small": ["local-small"], "strong": ["strong"]},
        "thresholds": {"strong": 0.5},
    },
    "limits": {"requests_per_minute": 1},
}


@dataclass(frozen=True)
class Server:
    """A gateway in a process of its own."""

    url: str

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    def get(self, path: str) -> Any:
        request = urllib.request.Request(
            self.url + path, headers={"Authorization": f"Bearer {KEY}"}
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.load(response)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="tw-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        (folder / "policies").mkdir()
        (folder / "policies" / "tight.yaml").write_text(json.dumps(TIGHT))
        config = {**CONFIGURATION, "server": {"port": port}}
        (folder / "turnwise.yaml").write_text(json.dumps(config))
        log = folder / "log"
        command = [sys.executable, "-m", "gateway", "serve"]
        command += ["--config", str(folder / "turnwise.yaml")]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                stdout=output,
                stderr=output,
            )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_ready(f"{url}/readyz", process, log)
            yield Server(url)
        finally:
            process.terminate()
            process.wait(30)


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + 90
    while time.monotonic() < deadline_s and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"the gateway does not start:\n{log.read_text()[-3000:]}")


def status_of(server: Server, request_id: str) -> str:
    """Return how a turn ended, once it is booked."""
    deadline_s = time.monotonic() + 20
    while True:
        try:
            status = str(server.get(f"/v1/turns/{request_id}")["status"])
        except urllib.error.HTTPError as error:
            error.close()
            status = "pending"
        if status != "pending" or time.monotonic() > deadline_s:
            return status
        time.sleep(0.1)


class TestOpenAIPython:
    @pytest.fixture
    def client(self, server: Server) -> Iterator[Any]:
        openai = pytest.importorskip("openai")
        with openai.OpenAI(base_url=server.base_url, api_key=KEY, max_retries=0) as client:
            yield client

    def test_models_are_listed(self, client: Any) -> None:
        assert {model.id for model in client.models.list()} >= {"local-small", "strong"}

    def test_a_plain_answer_discloses_model_usage_and_cost(self, client: Any) -> None:
        raw = client.chat.completions.with_raw_response.create(model="auto", messages=QUESTION)
        answer = raw.parse()
        assert "simulated" in answer.choices[0].message.content
        assert answer.choices[0].finish_reason == "stop"
        assert answer.model == raw.headers["x-turnwise-model"]
        assert answer.usage.prompt_tokens > 0
        assert answer.usage.cost >= 0
        assert raw.headers["x-request-id"].startswith("req_")

    def test_several_choices_and_a_limit_are_honoured(self, client: Any) -> None:
        answer = client.chat.completions.create(
            model="strong", messages=QUESTION, n=2, max_completion_tokens=5
        )
        assert [choice.index for choice in answer.choices] == [0, 1]
        assert {choice.finish_reason for choice in answer.choices} == {"length"}

    @pytest.mark.parametrize("wants_usage", [True, False])
    def test_a_stream_ends_with_its_reason_and_usage_only_if_asked(
        self, client: Any, wants_usage: bool
    ) -> None:
        options = {"stream_options": {"include_usage": True}} if wants_usage else {}
        with client.chat.completions.create(
            model="auto", messages=QUESTION, stream=True, **options
        ) as stream:
            chunks = list(stream)
        deltas = [chunk.choices[0] for chunk in chunks if chunk.choices]
        assert deltas[0].delta.role == "assistant"
        assert "simulated" in "".join(delta.delta.content or "" for delta in deltas)
        assert [delta.finish_reason for delta in deltas if delta.finish_reason] == ["stop"]
        usages = [chunk.usage for chunk in chunks if not chunk.choices]
        assert len(usages) == wants_usage
        assert all(usage.completion_tokens > 0 for usage in usages)

    def test_tools_go_there_and_back(self, client: Any) -> None:
        first = client.chat.completions.create(
            model="strong", messages=QUESTION, tools=[TOOL], tool_choice="required"
        )
        assert first.choices[0].finish_reason == "tool_calls"
        message = first.choices[0].message
        (call,) = message.tool_calls
        assert call.function.name == "find_parcel"
        assert json.loads(call.function.arguments) == {"number": "simulated"}
        result = {"role": "tool", "tool_call_id": call.id, "content": "In Pune."}
        second = client.chat.completions.create(
            model="strong", messages=[*QUESTION, message, result], tools=[TOOL]
        )
        assert second.choices[0].message.content

    def test_streamed_tool_calls_are_put_together(self, client: Any) -> None:
        with client.chat.completions.stream(
            model="strong", messages=QUESTION, tools=[TOOL], tool_choice="required"
        ) as stream:
            answer = stream.get_final_completion()
        (call,) = answer.choices[0].message.tool_calls
        assert call.function.name == "find_parcel"

    def test_errors_have_their_types(self, client: Any, server: Server) -> None:
        import openai

        create = client.chat.completions.create
        with pytest.raises(openai.AuthenticationError) as unknown_key:
            client.with_options(api_key="wrong").models.list()
        assert unknown_key.value.code == "invalid_api_key"
        with pytest.raises(openai.NotFoundError) as unknown_model:
            create(model="nothing", messages=QUESTION)
        assert unknown_model.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError) as bad_value:
            create(model="auto", messages=QUESTION, temperature="hot")
        assert bad_value.value.param == "temperature"
        assert bad_value.value.request_id.startswith("req_")
        limited = client.with_options(api_key=LIMITED_KEY)
        with pytest.raises(openai.RateLimitError) as too_many:
            for _ in range(2):
                limited.chat.completions.create(model="auto", messages=QUESTION)
        assert too_many.value.code == "rate_limit_exceeded"

    def test_an_aborted_stream_is_recorded_as_cancelled(self, client: Any, server: Server) -> None:
        stream = client.chat.completions.create(model="strong", messages=QUESTION, stream=True, n=8)
        request_id = stream.response.headers["x-request-id"]
        next(iter(stream))
        stream.close()
        assert status_of(server, request_id) == "cancelled"

    async def test_the_async_client_answers_and_streams(self, server: Server) -> None:
        openai = pytest.importorskip("openai")
        async with openai.AsyncOpenAI(base_url=server.base_url, api_key=KEY) as client:
            answer = await client.chat.completions.create(model="auto:fast", messages=QUESTION)
            assert answer.choices[0].message.content
            stream = await client.chat.completions.create(
                model="auto:best", messages=QUESTION, stream=True
            )
            async with stream:
                texts = [chunk.choices[0].delta.content or "" async for chunk in stream]
            assert "".join(texts)


class TestLangChain:
    @pytest.fixture
    def chat(self, server: Server) -> Any:
        langchain = pytest.importorskip("langchain_openai")
        return langchain.ChatOpenAI(
            base_url=server.base_url, api_key=KEY, model="strong", max_retries=0
        )

    def test_it_answers_with_usage(self, chat: Any) -> None:
        answer = chat.invoke("Where is my parcel?")
        assert "simulated" in answer.content
        assert answer.usage_metadata["input_tokens"] > 0

    def test_it_streams_with_usage(self, chat: Any) -> None:
        chunks = list(chat.stream("Where is my parcel?", stream_usage=True))
        whole = chunks[0]
        for chunk in chunks[1:]:
            whole += chunk
        assert "simulated" in whole.content
        assert whole.usage_metadata["output_tokens"] > 0

    def test_bound_tools_are_called(self, chat: Any) -> None:
        answer = chat.bind_tools([TOOL], tool_choice="required").invoke("Where is my parcel?")
        assert [call["name"] for call in answer.tool_calls] == ["find_parcel"]
        assert answer.tool_calls[0]["args"] == {"number": "simulated"}


SCRIPT = """
import OpenAI from "openai";
const [baseURL, apiKey, limitedKey] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const messages = [{ role: "user", content: "Where is my parcel?" }];
const tools = JSON.parse(process.env.TOOLS);
const told = {};
const answer = await client.chat.completions.create({ model: "auto", messages });
told.plain = answer.choices[0].message.content;
const stream = await client.chat.completions.create({
  model: "auto", messages, stream: true, stream_options: { include_usage: true } });
told.text = ""; told.reasons = [];
for await (const chunk of stream) {
  told.text += chunk.choices[0]?.delta?.content ?? "";
  if (chunk.choices[0]?.finish_reason) told.reasons.push(chunk.choices[0].finish_reason);
  if (chunk.usage) told.usage = chunk.usage;
}
const first = await client.chat.completions.create({
  model: "strong", messages, tools, tool_choice: "required" });
const call = first.choices[0].message.tool_calls[0];
told.tool = call.function.name;
const second = await client.chat.completions.create({ model: "strong", tools, messages: [
  ...messages, first.choices[0].message,
  { role: "tool", tool_call_id: call.id, content: "In Pune." }] });
told.after_tool = second.choices[0].message.content;
const nameOf = async (work) => {
  try { await work(); return "none"; } catch (error) { return error.constructor.name; }
};
const ask = (c, body) => () => c.chat.completions.create({ model: "auto", messages, ...body });
const wrong = new OpenAI({ baseURL, apiKey: "wrong", maxRetries: 0 });
const limited = new OpenAI({ baseURL, apiKey: limitedKey, maxRetries: 0 });
await nameOf(ask(limited, {}));
told.errors = [
  await nameOf(ask(wrong, {})), await nameOf(ask(client, { model: "nothing" })),
  await nameOf(ask(client, { temperature: "hot" })), await nameOf(ask(limited, {}))];
const aborted = await client.chat.completions.create({
  model: "strong", messages, stream: true, n: 8 }).withResponse();
told.aborted = aborted.response.headers.get("x-request-id");
for await (const chunk of aborted.data) { aborted.data.controller.abort(); break; }
console.log(JSON.stringify(told));
"""


class TestOpenAIJavaScript:
    @pytest.fixture
    def package(self) -> Path:
        """A folder with the openai package, installed once and kept in the user's cache."""
        if shutil.which("node") is None or shutil.which("npm") is None:
            pytest.skip("node and npm are not installed")
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = cache / "turnwise-tests" / "openai-js"
        if not (folder / "node_modules" / "openai").is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "package.json").write_text('{"type": "module", "private": true}')
            command = ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error", "openai@7"]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"npm cannot install openai: {done.stderr.strip()[-200:]}")
        return folder

    def test_it_talks_to_the_gateway_unchanged(self, package: Path, server: Server) -> None:
        script = package / f"script-{os.getpid()}.mjs"
        script.write_text(SCRIPT)
        try:
            done = subprocess.run(
                ["node", str(script), server.base_url, KEY, LIMITED_KEY],
                cwd=package,
                env=os.environ | {"TOOLS": json.dumps([TOOL])},
                capture_output=True,
                text=True,
                timeout=120,
            )
        finally:
            script.unlink()
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert "simulated" in told["plain"]
        assert "simulated" in told["text"]
        assert told["reasons"] == ["stop"]
        assert told["usage"]["completion_tokens"] > 0
        assert told["tool"] == "find_parcel"
        assert told["after_tool"]
        assert told["errors"] == [
            "AuthenticationError",
            "NotFoundError",
            "BadRequestError",
            "RateLimitError",
        ]
        assert status_of(server, told["aborted"]) == "cancelled"
