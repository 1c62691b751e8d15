"""The loss curves of a run, drawn by matplotlib: as files, and as SVG for a page of HTML.

loss.png and loss.svg show training and held-out loss together; training_loss.png and
training_eval_loss.png are the two pictures that LLaMA-Factory draws. matplotlib is loaded only to
draw.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from danlu.files.atomic import atomic_write
from danlu.runs.metrics import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVE_FILE = "loss.png"
# The colours of the three curves and of matplotlib's grid.
TRAIN, SMOOTHED, HELD_OUT, GRID = "#9db4c0", "#253237", "#c1440e", "#b0b0b0"
Points = Sequence[tuple[int, float]]


@dataclass(frozen=True, kw_only=True)
class LossCurves:
    """Steps with their losses: of each recorded optimizer step, of each evaluation."""

    train: Points = ()
    held_out: Points = ()

    @classmethod
    def of(cls, records: Iterable[Mapping[str, Any]]) -> LossCurves:
        """Collect the losses of a run's metrics."""
        records = list(records)
        train, held_out = (
            [(record["step"], record[key]) for record in records if record.get(key) is not None]
            for key in ("loss", "eval_loss")
        )
        return cls(train=train, held_out=held_out)


def draw_loss_curves(folder: Path, *, title: str) -> None:
    """Draw all pictures of a run anew; a picture without any point is left out."""
    curves = LossCurves.of(read_metrics(folder))
    if curves.train or curves.held_out:
        both = _labelled(curves, title)
        _write(both, folder / "loss.png")
        _write(both, folder / "loss.svg")
    if curves.train:
        _write(_labelled(LossCurves(train=curves.train), title), folder / "training_loss.png")
    if curves.held_out:
        held_out = LossCurves(held_out=curves.held_out)
        _write(_labelled(held_out, title), folder / "training_eval_loss.png")


def loss_svg(curves: LossCurves) -> str:
    """Draw the curves as an `<svg>` element for HTML: lines, dots and the numbers of the axes.

    It holds no identifiers, references, fonts or styles for other elements, and no words: they are
    the page's, in its language. The colours are TRAIN, SMOOTHED, HELD_OUT and GRID.
    """
    figure, axes = _plotted(curves, width=12.5, height=4.6)
    import matplotlib

    figure.set_frameon(False)
    axes.set_frame_on(False)
    axes.grid(visible=False, axis="x")
    axes.grid(alpha=1.0, axis="y")
    axes.tick_params(length=0, labelsize=13)
    # Text as text, in the font of the page; details below a point only make the file larger.
    with matplotlib.rc_context({"svg.fonttype": "none", "path.simplify_threshold": 1.0}):
        return _for_html(_saved(figure, "svg").decode())


def _labelled(curves: LossCurves, title: str) -> Figure:
    """Draw a picture that stands alone: with title, axis labels and legend."""
    figure, axes = _plotted(curves, width=7.0, height=4.0)
    # The title may hold a folder's Chinese name; the default font would show boxes.
    axes.set_title(title if title.isascii() else "danlu")
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats per token)")
    axes.legend()
    return figure


def _plotted(curves: LossCurves, *, width: float, height: float) -> tuple[Figure, Axes]:
    """Plot the curves that have points. width, height: inches."""
    # A Jupyter kernel names a way to show pictures that only its own Python has, and with it
    # matplotlib would not load. Nothing is shown here.
    os.environ.pop("MPLBACKEND", None)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    train, held_out = curves.train, curves.held_out
    if train:
        axes.plot(*zip(*train, strict=True), color=TRAIN, linewidth=1, label="train")
        axes.plot(*zip(*_smoothed(train), strict=True), color=SMOOTHED, label="train, smoothed")
    if held_out:
        axes.plot(*zip(*held_out, strict=True), color=HELD_OUT, marker="o", label="held out")
    axes.grid(alpha=0.3)
    return figure, axes


def _write(figure: Figure, path: Path) -> None:
    atomic_write(path, _saved(figure, path.suffix[1:]))


def _saved(figure: Figure, form: str) -> bytes:
    picture = io.BytesIO()
    # Without dates a picture drawn again is the same file.
    figure.savefig(picture, format=form, metadata={"Date": None} if form == "svg" else {})
    return picture.getvalue()


def _for_html(svg: str) -> str:
    """Keep what is visible of matplotlib's SVG: paths, markers (as circles) and text."""
    root = ElementTree.fromstring(svg)
    parts = [f'<svg viewBox="{root.attrib["viewBox"]}">']
    for element in root.iter():
        kind, get = element.tag.rpartition("}")[2], element.attrib.get
        style = "; ".join(
            part for part in get("style", "").split("; ") if not part.startswith("font")
        )
        place = f'{{0}}="{get("x")}" {{1}}="{get("y")}" style="{style}"'
        if kind == "path" and "id" not in element.attrib:
            path = re.sub(r"\s+", " ", get("d", "")).strip()
            parts.append(f'<path d="{path}" style="{style}"/>')
        elif kind == "use":
            parts.append(f'<circle {place.format("cx", "cy")} r="3"/>')
        elif kind == "text":
            parts.append(f"<text {place.format('x', 'y')}>{escape(element.text or '')}</text>")
    return "".join((*parts, "</svg>"))


def _smoothed(points: Points, weight: float = 0.9) -> list[tuple[int, float]]:
    """Exponential moving average, corrected for its start (as Adam corrects its moments)."""
    result: list[tuple[int, float]] = []
    mean = 0.0
    for count, (step, value) in enumerate(points, start=1):
        mean = weight * mean + (1 - weight) * value
        result.append((step, mean / (1 - weight**count)))
    return result
