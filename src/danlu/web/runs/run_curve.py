"""The curves of a run, thinned out for a page so that no peak is lost.

Of each bucket of steps the least and the greatest value stay, in their order, and beside them the
mean, from which the page makes a smooth line. Numbers only; nothing is drawn here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from danlu.web.runs.metric_table import NUMBER, Column, MetricTable

MOST_POINTS = 2000
SPARK_POINTS = 60
_SERIES = ("loss", "learning_rate", "grad_norm", "memory_bytes", "seconds")


def curve_of(table: MetricTable, *, first: int = 0, last: int | None = None) -> dict[str, Any]:
    """Return the curves between two steps: of each series its steps `x`, its values `y`.

    A thinned series also has the means of its buckets, `mean_x` and `mean_y`.
    """
    steps = _between(table.steps, first, last)
    held_out = _between(table.held_out, first, last)
    series = {name: _thinned(steps["step"], steps[name]) for name in _SERIES}
    with np.errstate(divide="ignore", invalid="ignore"):
        speed = steps["num_tokens"] / steps["seconds"]
    series["tokens_per_s"] = _thinned(steps["step"], speed)
    series["eval_loss"] = _thinned(held_out["step"], held_out["eval_loss"])
    return {
        "count": table.count,
        "generation": table.generation,
        "step": table.step,
        "series": series,
        "remarks": [
            {name: record[name] for name in ("step", "event", "rows", "moment") if name in record}
            for record in table.remarks[-200:]
        ],
    }


def points_behind(table: MetricTable, seen: int) -> dict[str, Any]:
    """Return the records behind the `seen`th, whole, for a curve that grows."""
    steps = {name: column[table.steps[NUMBER] > seen] for name, column in table.steps.items()}
    rows = table.held_out[NUMBER] > seen
    with np.errstate(divide="ignore", invalid="ignore"):
        speed = steps["num_tokens"] / steps["seconds"]
    named = {"step": steps["step"], "tokens_per_s": speed, **{n: steps[n] for n in _SERIES}}
    held_out = {
        "step": table.held_out["step"][rows],
        "eval_loss": table.held_out["eval_loss"][rows],
    }
    return {
        "steps": {name: numbers(column) for name, column in named.items()},
        "held_out": {name: numbers(column) for name, column in held_out.items()},
    }


def spark_of(table: MetricTable) -> list[float]:
    """Return the training loss as a few means, for a line beside a name."""
    loss = table.steps["loss"]
    loss = loss[np.isfinite(loss)]
    parts = np.array_split(loss, min(len(loss), SPARK_POINTS)) if len(loss) else []
    return [round(float(part.mean()), 5) for part in parts]


def numbers(values: Column) -> list[float | int | None]:
    """Write values as JSON has them: None for what is no number, whole numbers without a dot."""
    return [
        None if not np.isfinite(value) else int(value) if value == int(value) else value
        for value in values.tolist()
    ]


def _between(
    columns: Mapping[str, Column], first: int, last: int | None
) -> dict[str, NDArray[np.float64]]:
    step = columns["step"]
    chosen = (step >= first) & (step <= (np.inf if last is None else last))
    return {name: column[chosen] for name, column in columns.items()}


def _thinned(x: Column, y: Column) -> dict[str, list[float | int | None]]:
    known = np.isfinite(y)
    x, y = x[known], y[known]
    if len(x) <= MOST_POINTS:
        return {"x": numbers(x), "y": numbers(y)}
    edges = np.linspace(0, len(x), MOST_POINTS // 2 + 1).astype(int)
    starts = edges[:-1]
    sizes = np.diff(edges)
    bucket = np.repeat(np.arange(len(starts)), sizes)
    # Sorted by value within its bucket, the first of a bucket is its least, the last its greatest.
    order = np.lexsort((y, bucket))
    picked = np.unique(np.concatenate([order[starts], order[edges[1:] - 1]]))
    return {
        "x": numbers(x[picked]),
        "y": numbers(y[picked]),
        "mean_x": numbers(np.add.reduceat(x, starts) / sizes),
        "mean_y": numbers(np.add.reduceat(y, starts) / sizes),
    }
