"""Prometheus text of one engine, under the names that vLLM's users know.

Owns names and format. Source: vLLM documentation, "Production metrics"; Prometheus exposition
format 0.0.4.
"""

from __future__ import annotations

from local_models.scheduler import Scheduler
from local_models.stats import EngineStats, Histogram


def prometheus_text(stats: EngineStats, scheduler: Scheduler, model_name: str) -> str:
    """Return the whole page of metrics."""
    name = model_name.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    label = f'model_name="{name}"'
    pool = scheduler.pool
    lines: list[str] = []

    def add(metric: str, kind: str, value: float, more: str = "") -> None:
        header = f"# TYPE {metric} {kind}"
        if header not in lines:
            lines.append(header)
        lines.append(f"{metric}{{{label}{more}}} {value:g}")

    add("vllm:num_requests_running", "gauge", len(scheduler.running))
    add("vllm:num_requests_waiting", "gauge", scheduler.n_waiting)
    add("vllm:kv_cache_usage_perc", "gauge", pool.n_held / pool.n_pages)
    add("vllm:num_preemptions_total", "counter", scheduler.n_preemptions)
    add("vllm:prompt_tokens_total", "counter", stats.prompt_tokens)
    add("vllm:generation_tokens_total", "counter", stats.reply_tokens)
    add("vllm:prefix_cache_hits_total", "counter", stats.reused_tokens)
    add("vllm:spec_decode_num_draft_tokens_total", "counter", stats.drafted_tokens)
    add("vllm:spec_decode_num_accepted_tokens_total", "counter", stats.accepted_tokens)
    for reason, count in sorted(stats.finished.items()):
        add("vllm:request_success_total", "counter", count, f',finished_reason="{reason}"')
    add("turnwise_engine_busy_seconds_total", "counter", stats.busy_s)
    add("turnwise_engine_predicted_wait_seconds", "gauge", stats.predicted_wait_s(scheduler))
    add("turnwise_engine_predicted_ttft_seconds", "gauge", stats.predicted_ttft_s(scheduler))
    lines += _histogram("vllm:time_to_first_token_seconds", label, stats.histograms["ttft"])
    lines += _histogram("vllm:inter_token_latency_seconds", label, stats.histograms["inter_token"])
    return "\n".join(lines) + "\n"


def _histogram(metric: str, label: str, histogram: Histogram) -> list[str]:
    lines = [f"# TYPE {metric} histogram"]
    total = 0
    for bound, count in zip([*histogram.bounds, "+Inf"], histogram.counts, strict=True):
        total += count
        lines.append(f'{metric}_bucket{{{label},le="{bound}"}} {total}')
    lines.append(f"{metric}_sum{{{label}}} {histogram.total:g}")
    lines.append(f"{metric}_count{{{label}}} {total}")
    return lines
