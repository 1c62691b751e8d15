"""The loss curves of a run, drawn by matplotlib: as files, and as SVG for a page of HTML.

loss.png and loss.svg show training and held-out loss together; training_loss.png and
training_eval_loss.png are the two pictures that LLaMA-Factory draws. Their words are in the user's
language where this machine has a font for it. matplotlib is loaded only to draw.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from itertools import accumulate
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from danlu.files.atomic import atomic_write
from danlu.language import _
from danlu.runs.metrics import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVE_FILE = "loss.png"
# The colours of the three curves and of matplotlib's grid.
TRAIN, SMOOTHED, HELD_OUT, GRID = "#9db4c0", "#253237", "#c1440e", "#b0b0b0"
# What the curves and the axes are called, in every drawing and on every page.
CURVES = {TRAIN: "training", SMOOTHED: "training, smoothed", HELD_OUT: "held out"}
AXES = {"x": "step", "y": "loss (nats per token)"}
# A smoothed value is a mean over about this share of the curve, to either side.
_SMOOTHING = 0.02
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

    def colours(self) -> list[str]:
        """List the colours of the curves that have points; CURVES names them."""
        return [*((TRAIN, SMOOTHED) if self.train else ()), *((HELD_OUT,) if self.held_out else ())]


def draw_loss_curves(folder: Path, *, title: str) -> None:
    """Draw all pictures of a run anew; a picture without any point is left out."""
    curves = LossCurves.of(read_metrics(folder))
    pictures = {
        "loss.png": curves,
        "loss.svg": curves,
        "training_loss.png": LossCurves(train=curves.train),
        "training_eval_loss.png": LossCurves(held_out=curves.held_out),
    }
    for name, shown in pictures.items():
        if shown.colours():
            atomic_write(folder / name, _alone(shown, title, form=name.rpartition(".")[2]))


def loss_svg(curves: LossCurves) -> str:
    """Draw the curves as an `<svg>` element for HTML: lines, dots and the numbers of the axes.

    It holds no identifiers, references, fonts or styles for other elements, and no words: they are
    the page's, in its language. The colours are TRAIN, SMOOTHED, HELD_OUT and GRID.
    """
    matplotlib = _matplotlib()
    figure, axes = _plotted(curves, width=12.5, height=4.6)
    figure.set_frameon(False)
    axes.set_frame_on(False)
    axes.grid(visible=False, axis="x")
    axes.grid(alpha=1.0, axis="y")
    axes.tick_params(length=0, labelsize=13)
    # Text as text, in the font of the page; details below a point only make the file larger.
    with matplotlib.rc_context({"svg.fonttype": "none", "path.simplify_threshold": 1.0}):
        return _for_html(_saved(figure, "svg").decode())


def _alone(curves: LossCurves, title: str, *, form: str) -> bytes:
    """Draw a picture that stands alone: with title, axis labels and legend. form: png or svg."""
    matplotlib = _matplotlib()
    names = [CURVES[colour] for colour in curves.colours()]
    say: Callable[[str], str] = _
    said = "".join(map(say, (*AXES.values(), *names)))
    font = _font_for(said + title)
    if font is None:
        title, font = "danlu", _font_for(said)
    if font is None:  # better English words than boxes
        say, font = str, ""
    # For each character the fonts are asked in this order.
    with matplotlib.rc_context({"font.family": ["DejaVu Sans", *filter(None, [font])]}):
        figure, axes = _plotted(curves, width=7.0, height=4.0)
        axes.set_title(title)
        axes.set_xlabel(say(AXES["x"]))
        axes.set_ylabel(say(AXES["y"]))
        axes.legend([say(name) for name in names], loc="upper right")
        return _saved(figure, form)


def _matplotlib() -> ModuleType:
    """Load matplotlib; it asks for no screen."""
    # A Jupyter kernel names a way to show pictures that only its own Python has, and with it
    # matplotlib would not load. Nothing is shown here.
    os.environ.pop("MPLBACKEND", None)
    import matplotlib

    return matplotlib


@cache
def _font_for(text: str) -> str | None:
    """Name a font of this machine that has every character; None without one, "" if any has."""
    if text.isascii():
        return ""
    from matplotlib.font_manager import FontProperties, findSystemFonts, fontManager
    from matplotlib.ft2font import FT2Font

    unusual = re.compile("bold|italic|oblique|light|thin|black|mono|emoji", re.IGNORECASE)
    for path in sorted(findSystemFonts(), key=lambda path: (bool(unusual.search(path)), path)):
        # Not matplotlib's own list of fonts: it is kept in a file, and not made anew.
        try:
            has = FT2Font(path).get_charmap()
        except (OSError, RuntimeError):
            continue
        if all(ord(character) in has for character in text if not character.isascii()):
            fontManager.addfont(path)
            return FontProperties(fname=path).get_name()
    return None


def _plotted(curves: LossCurves, *, width: float, height: float) -> tuple[Figure, Axes]:
    """Plot the curves that have points. width, height: inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    train, held_out = curves.train, curves.held_out
    if train:
        axes.plot(*zip(*train, strict=True), color=TRAIN, linewidth=1)
        axes.plot(*zip(*_smoothed(train), strict=True), color=SMOOTHED)
    if held_out:
        axes.plot(*zip(*held_out, strict=True), color=HELD_OUT, marker="o")
    axes.grid(alpha=0.3)
    return figure, axes


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


def _smoothed(points: Points) -> list[tuple[int, float]]:
    """Return an exponential mean that looks both ways and so does not lag behind the curve.

    Point i becomes sum_j w^|i-j| x_j / sum_j w^|i-j|: an exponential moving average forwards and
    one backwards. Dividing by the weights that there are corrects both ends, as Adam corrects its
    moments at their start by 1 - beta^t (Kingma and Ba, 2015, section 3), and TensorBoard its
    smoothed scalars. w = n / (n + 1), where n is 2 % of the number of points.
    """
    weight = 1 - 1 / (1 + _SMOOTHING * len(points))
    values = [value for _step, value in points]
    before = _decayed(values, weight)
    after = _decayed(values[::-1], weight)[::-1]
    parts = _decayed([1.0] * len(values), weight)
    # The point itself is in both sums.
    return [
        (step, (left + right - value) / (weights + other - 1))
        for (step, value), left, right, weights, other in zip(
            points, before, after, parts, parts[::-1], strict=True
        )
    ]


def _decayed(values: Sequence[float], weight: float) -> list[float]:
    """Sum the values up to each place, those further back weighing less."""
    return list(accumulate(values, lambda total, value: weight * total + value))
