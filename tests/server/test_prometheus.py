"""/metrics: Prometheus's text format, vLLM's names."""

from __future__ import annotations

import re

import pytest

from danlu.dialog.events import Usage
from danlu.engine.engine import Figures
from danlu.server.prometheus import PrometheusFigures
from tests.helpers.serving.server import ask, server_app

FIGURES = Figures(
    num_running=3,
    num_waiting=2,
    cache_usage=0.25,
    num_preemptions=1,
    num_tried=9,
    num_taken=4,
)
LINE = re.compile(
    r'(?P<name>[a-zA-Z_:][\w:]*)\{(?P<labels>(?:\w+="(?:[^"\\\n]|\\["\\n])*",?)+)\} (?P<value>\S+)'
)


def parsed(text: str) -> dict[str, float]:
    """Every sample by name and labels but the model's; fails for a line that is none."""
    samples = {}
    types = {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _hash, _type, name, kind = line.split()
            assert name not in types
            types[name] = kind
            continue
        found = LINE.fullmatch(line)
        assert found, line
        rest = re.sub(r'model_name="(?:[^"\\]|\\.)*",?', "", found["labels"])
        name = found["name"] + (f"{{{rest}}}" if rest else "")
        assert name not in samples
        samples[name] = float(found["value"])
        base = re.sub(r"_(bucket|sum|count)$", "", found["name"])
        assert types.get(found["name"]) in ("gauge", "counter") or types[base] == "histogram"
    return samples


def test_what_was_reported_is_shown() -> None:
    metrics = PrometheusFigures()
    for _ in range(2):
        metrics.request_started()
        metrics.first_token(0.3)
        metrics.token(0.02)
        metrics.token(1000.0)
    cached = Usage(prompt_tokens=10, completion_tokens=5, cached_tokens=8)
    metrics.request_finished("stop", cached, seconds=1.5)
    metrics.request_finished("length", Usage(prompt_tokens=20, completion_tokens=6), seconds=100.0)
    samples = parsed(metrics.text("tiny", FIGURES))
    assert samples["vllm:num_requests_running"] == 3
    assert samples["vllm:num_requests_waiting"] == 2
    assert samples["vllm:kv_cache_usage_perc"] == 0.25
    assert samples["vllm:num_preemptions_total"] == 1
    assert samples["vllm:spec_decode_num_draft_tokens_total"] == 9
    assert samples["vllm:spec_decode_num_accepted_tokens_total"] == 4
    assert samples["vllm:prompt_tokens_total"] == 30
    assert samples["vllm:generation_tokens_total"] == 11
    assert samples["vllm:prefix_cache_queries_total"] == 30
    assert samples["vllm:prefix_cache_hits_total"] == 8
    assert samples["danlu:requests_started_total"] == 2
    for reason, count in {"stop": 1, "length": 1, "abort": 0, "error": 0}.items():
        assert samples[f'vllm:request_success_total{{finished_reason="{reason}"}}'] == count
    first = "vllm:time_to_first_token_seconds"
    assert samples[f'{first}_bucket{{le="0.25"}}'] == 0
    assert samples[f'{first}_bucket{{le="0.5"}}'] == 2
    assert samples[f"{first}_sum"] == pytest.approx(0.6)
    for name in ("vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds"):
        assert samples[f'{name}_bucket{{le="80.0"}}'] == 2
        assert samples[f'{name}_bucket{{le="+Inf"}}'] == samples[f"{name}_count"] == 4


def test_a_bound_counts_as_below_it() -> None:
    metrics = PrometheusFigures()
    metrics.first_token(0.25)
    samples = parsed(metrics.text("tiny", FIGURES))
    assert samples['vllm:time_to_first_token_seconds_bucket{le="0.25"}'] == 1


def test_any_name_can_be_a_label() -> None:
    text = PrometheusFigures().text('a "name"\\ with\nlines', FIGURES)
    assert 'model_name="a \\"name\\"\\\\ with\\nlines"' in text
    parsed(text)


def test_the_route() -> None:
    answer = ask(server_app(), "GET", "/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert parsed(answer.body.decode())["vllm:num_requests_running"] == 3
