"""The loss curves of a run as pictures, from its metrics. matplotlib is loaded to draw only.

loss.png and loss.svg show training and held-out loss together; training_loss.png and
training_eval_loss.png are the two pictures that LLaMA-Factory draws, for whoever looks for them.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from danlu.files.atomic import atomic_write
from danlu.runs.metrics import read_metrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVE_FILE = "loss.png"
Points = Sequence[tuple[int, float]]


def draw_loss_curves(folder: Path, *, title: str) -> None:
    """Draw all pictures anew; a curve without points is left out, and so is a picture."""
    records = read_metrics(folder)
    train, held_out = (
        [(record["step"], record[key]) for record in records if record.get(key) is not None]
        for key in ("loss", "eval_loss")
    )
    if train or held_out:
        both = _figure(train, held_out, title)
        _write(both, folder / "loss.png")
        _write(both, folder / "loss.svg")
    if train:
        _write(_figure(train, [], title), folder / "training_loss.png")
    if held_out:
        _write(_figure([], held_out, title), folder / "training_eval_loss.png")


def _figure(train: Points, held_out: Points, title: str) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

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
    axes.legend()
    return figure


def _write(figure: Figure, path: Path) -> None:
    picture = io.BytesIO()
    # Without dates a picture drawn again is the same file.
    metadata = {"Date": None} if path.suffix == ".svg" else {}
    figure.savefig(picture, format=path.suffix[1:], metadata=metadata)
    atomic_write(path, picture.getvalue())


def smoothed(points: Points, weight: float = 0.9) -> list[tuple[int, float]]:
    """Exponential moving average, corrected for its start (as Adam corrects its moments)."""
    result: list[tuple[int, float]] = []
    mean = 0.0
    for count, (step, value) in enumerate(points, start=1):
        mean = weight * mean + (1 - weight) * value
        result.append((step, mean / (1 - weight**count)))
    return result
