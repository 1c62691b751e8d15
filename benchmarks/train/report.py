"""The sides next to each other: figures of each, ratios between them, a table to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.train.flops import Shape, step_flops
from benchmarks.train.measured import Measured, Step
from benchmarks.train.process import Finished
from benchmarks.train.recipe import LORA_RANK, WARMUP_STEPS

Figures = dict[str, Any]

# What is compared, and how a table calls it.
COLUMNS = {
    "tokens_per_s": "useful tokens/s",
    "utilisation": "utilisation",
    "peak_memory_gb": "peak memory, GB",
    "first_forward_s": "first forward pass, s",
}
MEANINGS = {
    "tokens_per_s": "tokens of rows; padding does not count. Every side has the same 16 rows in "
    "the same step, and its own template, so its own number of tokens",
    "utilisation": "operations that the steps need per second, as a share of gemm_gflops: forward, "
    "input gradients of frozen projections, causal attention, adapters, the output matrix on "
    "head_rows; not what is computed again to save memory, nor padding",
    "head_rows": "tokens whose logits a side computes: danlu those learned, the others all",
    "seconds": "from a step's begin to its end, without loading, saving and reporting",
    "peak_memory_gb": "highest resident memory of the process in 10^9 bytes, pages of mapped files "
    "included",
    "cores_used": "processor seconds by seconds of the whole process: where it is far below "
    "torch_threads, the machine was not quiet",
    "first_forward_s": "from the start of the process, with its files in the file cache and "
    "nothing kept of an earlier run",
}


def figures(measured: Measured, finished: Finished, shape: Shape, gemm_gflops: float) -> Figures:
    """Reduce one side's measured steps (without those for warming up) to its figures."""
    steps = measured.steps[WARMUP_STEPS:]
    seconds = sum(step.seconds for step in steps)
    tokens = sum(step.num_tokens for step in steps)
    flops = sum(step_flops(shape, step, lora_rank=LORA_RANK) for step in steps)
    return {
        "tokens_per_s": round(tokens / seconds, 2),
        "utilisation": round(flops / seconds / (gemm_gflops * 1e9), 4),
        "peak_memory_gb": round(finished.peak_bytes / 1e9, 2),
        "first_forward_s": round(measured.first_forward - finished.started, 2),
        "gflop_per_token": round(flops / tokens / 1e9, 3),
        "padding": round(1 - tokens / sum(step.computed_tokens for step in steps), 4),
        "torch_threads": measured.threads,
        "cores_used": round(finished.cores_used, 2),
        "versions": dict(measured.versions),
        "steps": [_step_figures(step, shape) for step in measured.steps],
    }


def _step_figures(step: Step, shape: Shape) -> Figures:
    return {
        "seconds": round(step.seconds, 4),
        "num_tokens": step.num_tokens,
        "computed_tokens": step.computed_tokens,
        "head_rows": step.head_rows,
        "gflop": round(step_flops(shape, step, lora_rank=LORA_RANK) / 1e9, 1),
    }


def ratios(sides: Mapping[str, Figures]) -> dict[str, dict[str, float]]:
    """Divide danlu's figures by each peer's; empty without danlu."""
    if "danlu" not in sides:
        return {}
    own = sides["danlu"]
    return {
        f"danlu / {name}": {key: round(own[key] / side[key], 3) for key in COLUMNS}
        for name, side in sides.items()
        if name != "danlu"
    }


def table(sides: Mapping[str, Figures], compared: Mapping[str, Mapping[str, float]]) -> str:
    """Write both as aligned text, a line for each side and each ratio."""
    lines = [["", *COLUMNS.values()]]
    lines += [[name, *_cells(side, "{:.2f}")] for name, side in sides.items()]
    lines += [[name, *_cells(ratio, "{:.2f} x")] for name, ratio in compared.items()]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(_aligned(line, widths) for line in lines)


def _cells(values: Mapping[str, Any], form: str) -> list[str]:
    return [form.format(values[key]) for key in COLUMNS]


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    name, *cells = line
    return "  ".join(
        [name.ljust(widths[0])]
        + [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
    )
