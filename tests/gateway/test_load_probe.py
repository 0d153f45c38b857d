from __future__ import annotations

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from gateway.backends.load_probe import LoadProbe, VllmLoad, engine_ttft_ms
from gateway.backends.openai import http_session
from tests.fakes import until


def page(waiting: int, ended: int, ttft_sum: float, ttft_count: int) -> bytes:
    return f"""# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{engine="0",model_name="m"}} 4.0
vllm:num_requests_waiting{{engine="0",model_name="m"}} {waiting}.0
vllm:kv_cache_usage_perc{{engine="0",model_name="m"}} 0.5
vllm:request_success_total{{engine="0",finished_reason="stop",model_name="m"}} {ended}.0
vllm:request_success_total{{engine="0",finished_reason="length",model_name="m"}} 0.0
vllm:time_to_first_token_seconds_sum{{model_name="m"}} {ttft_sum}
vllm:time_to_first_token_seconds_count{{model_name="m"}} {ttft_count}.0
""".encode()


def test_first_tokens_since_the_last_page_are_the_prediction() -> None:
    load = VllmLoad()
    assert load(page(0, 10, 5.0, 10), 0.0) is None
    assert load(page(0, 12, 5.5, 12), 2.0) == pytest.approx(250)


def test_a_queue_predicts_the_time_it_takes_to_drain() -> None:
    load = VllmLoad()
    load(page(0, 10, 5.0, 10), 0.0)
    assert load(page(20, 14, 5.4, 14), 2.0) == pytest.approx(10_000)


def test_an_idle_server_is_unknown_however_slow_it_was() -> None:
    load = VllmLoad()
    load(page(0, 10, 50.0, 10), 0.0)
    load(page(0, 20, 150.0, 20), 1.0)
    assert load(page(0, 20, 150.0, 20), 7.0) is None


def test_a_server_that_was_started_anew_is_measured_anew() -> None:
    load = VllmLoad()
    load(page(0, 100, 50.0, 100), 0.0)
    assert load(page(0, 1, 0.1, 1), 1.0) is None


def test_another_page_is_no_vllm() -> None:
    with pytest.raises(ValueError, match="vLLM"):
        VllmLoad()(b"<html>", 0.0)


async def test_a_probe_asks_beside_the_turns_and_forgets_a_server_that_fails() -> None:
    answers = [web.json_response({"predicted_ttft_s": 0.2}), web.Response(status=500)]

    async def stats(_: web.Request) -> web.Response:
        return answers.pop(0) if len(answers) > 1 else answers[0]

    app = web.Application()
    app.router.add_get("/stats", stats)
    async with TestServer(app) as server, http_session() as session:
        url = str(server.make_url("/stats"))
        async with LoadProbe(url, session=session, read=engine_ttft_ms) as probe:
            assert probe.load().predicted_ttft_ms is None
            await until(lambda: probe.load().predicted_ttft_ms == 200)
            await until(lambda: probe.load().predicted_ttft_ms is None)
