"""Figures for Prometheus, under vLLM's names, so that existing dashboards work.

Knows the text format and what the routes report. The engine's own figures are read for each
scrape. Sources: vLLM's metrics documentation (names, labels, bounds of the histograms;
`time_per_output_token_seconds` is its older name for `inter_token_latency_seconds`); Prometheus's
text format 0.0.4.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator

from danlu.dialog.events import Usage
from danlu.engine.engine import Figures

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_FIRST_TOKEN_SECONDS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
_TOKEN_SECONDS = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(20.0, 40.0, 80.0),
)
_REQUEST_SECONDS = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0),
    *(240.0, 480.0, 960.0, 1920.0, 7680.0),
)
FINISH_REASONS = ("stop", "length", "abort", "error")


class Histogram:
    """Counts values by upper bounds."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self, name: str, label: str) -> Iterator[str]:
        """Write the cumulative counts, the sum and the count."""
        total = 0
        for bound, count in zip((*self._bounds, "+Inf"), self._counts, strict=True):
            total += count
            yield f'{name}_bucket{{{label},le="{bound}"}} {total}'
        yield f"{name}_sum{{{label}}} {self._sum}"
        yield f"{name}_count{{{label}}} {total}"


class PrometheusFigures:
    """What the routes report; used on the event loop only."""

    def __init__(self) -> None:
        self._started = 0
        self._finished = Counter(dict.fromkeys(FINISH_REASONS, 0))
        self._prompt_tokens = self._completion_tokens = self._cached_tokens = 0
        self._first_token = Histogram(_FIRST_TOKEN_SECONDS)
        self._token = Histogram(_TOKEN_SECONDS)
        self._request = Histogram(_REQUEST_SECONDS)

    def request_started(self) -> None:
        """Count a request that was handed to the engine."""
        self._started += 1

    def first_token(self, seconds: float) -> None:
        """Observe the time from a request's arrival to its first token."""
        self._first_token.observe(seconds)

    def token(self, seconds: float) -> None:
        """Observe the time from one token of an answer to the next."""
        self._token.observe(seconds)

    def request_finished(self, reason: str, usage: Usage, *, seconds: float) -> None:
        """Count a request that ended. seconds: since its HTTP request arrived."""
        self._finished[reason] += 1
        self._prompt_tokens += usage.prompt_tokens
        self._completion_tokens += usage.completion_tokens
        self._cached_tokens += usage.cached_tokens
        self._request.observe(seconds)

    def text(self, model: str, figures: Figures) -> str:
        """Write all figures in Prometheus's format. model: the name they are labelled with."""
        label = f'model_name="{_quoted(model)}"'
        lines: list[str] = []
        for name, kind, value in self._numbers(figures):
            lines += [f"# TYPE {name} {kind}", f"{name}{{{label}}} {value}"]
        name = "vllm:request_success_total"
        lines.append(f"# TYPE {name} counter")
        for reason, count in self._finished.items():
            lines.append(f'{name}{{{label},finished_reason="{reason}"}} {count}')
        for name, histogram in (
            ("vllm:time_to_first_token_seconds", self._first_token),
            ("vllm:inter_token_latency_seconds", self._token),
            ("vllm:time_per_output_token_seconds", self._token),
            ("vllm:e2e_request_latency_seconds", self._request),
        ):
            lines += [f"# TYPE {name} histogram", *histogram.lines(name, label)]
        return "\n".join(lines) + "\n"

    def _numbers(self, figures: Figures) -> list[tuple[str, str, float]]:
        """List the figures that are one number: name, type, value."""
        return [
            ("vllm:num_requests_running", "gauge", figures.num_running),
            ("vllm:num_requests_waiting", "gauge", figures.num_waiting),
            ("vllm:kv_cache_usage_perc", "gauge", figures.cache_usage),
            ("vllm:num_preemptions_total", "counter", figures.num_preemptions),
            ("vllm:prompt_tokens_total", "counter", self._prompt_tokens),
            ("vllm:generation_tokens_total", "counter", self._completion_tokens),
            # Both in tokens: those that were looked for in the cache, and those found there.
            ("vllm:prefix_cache_queries_total", "counter", self._prompt_tokens),
            ("vllm:prefix_cache_hits_total", "counter", self._cached_tokens),
            ("vllm:spec_decode_num_draft_tokens_total", "counter", figures.num_tried),
            ("vllm:spec_decode_num_accepted_tokens_total", "counter", figures.num_taken),
            ("danlu:requests_started_total", "counter", self._started),
        ]


def _quoted(text: str) -> str:
    """Write a label's value as the format wants it."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
