"""The loss curve of a run as a picture, from its metrics. matplotlib is loaded to draw only."""

from __future__ import annotations

import io
from pathlib import Path

from danlu.files.atomic import atomic_write
from danlu.runs.metrics import read_metrics

CURVE_FILE = "loss.png"


def draw_loss_curve(folder: Path, *, title: str) -> Path:
    """Draw training and held-out loss over the steps into loss.png; return its path."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    records = read_metrics(folder)
    train = [(r["step"], r["loss"]) for r in records if r.get("loss") is not None]
    held_out = [(r["step"], r["eval_loss"]) for r in records if r.get("eval_loss") is not None]
    figure = Figure(figsize=(7.0, 4.0), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    if train:
        axes.plot(*zip(*train, strict=True), color="#9db4c0", linewidth=1, label="train")
        axes.plot(*zip(*smoothed(train), strict=True), color="#253237", label="train, smoothed")
    if held_out:
        axes.plot(*zip(*held_out, strict=True), color="#c1440e", marker="o", label="held out")
    # The title may hold a folder's Chinese name; the default font would show boxes.
    axes.set_title(title if title.isascii() else "danlu")
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats per token)")
    axes.grid(alpha=0.3)
    if train or held_out:
        axes.legend()
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    atomic_write(folder / CURVE_FILE, picture.getvalue())
    return folder / CURVE_FILE


def smoothed(points: list[tuple[int, float]], weight: float = 0.9) -> list[tuple[int, float]]:
    """Exponential moving average, corrected for its start (as Adam corrects its moments)."""
    result: list[tuple[int, float]] = []
    mean = 0.0
    for count, (step, value) in enumerate(points, start=1):
        mean = weight * mean + (1 - weight) * value
        result.append((step, mean / (1 - weight**count)))
    return result
