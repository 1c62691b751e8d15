"""A chart as SVG inside a page: its colours are the page's, so it follows light, dark and paper.

Knows coordinates. Must not know what is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from danlu.workflows.report.page import Chart, Curve, shown

_WIDTH, _HEIGHT = 900, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 20, 40, 48
# More points than pixels only make the file larger.
_MAX_POINTS = 800
_STYLE = 'font-size="13" fill="var(--dim)"'
_COLOURS = {"faint": "var(--train)", "train": "var(--train)", "eval": "var(--accent)"}


def svg(chart: Chart) -> str:
    """Draw the curves that have points, with axes, ticks and a legend."""
    curves = [curve for curve in chart.curves if curve.points]
    points = [point for curve in curves for point in curve.points]
    axes = _Axes(points)
    label = escape(shown(f"{chart.y_label}: {', '.join(curve.name for curve in curves)}"))
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}" {_STYLE}>',
        *axes.drawn(),
        _text(_LEFT, 20, chart.y_label, anchor="start"),
        _text(_WIDTH - _RIGHT, _HEIGHT - 8, chart.x_label, anchor="end"),
        *(_curve(curve, axes) for curve in curves),
        *_legend(curves),
        "</svg>",
    ]
    return "".join(parts)


class _Axes:
    """The range of the data and where each value stands on the drawing."""

    def __init__(self, points: Sequence[tuple[float, float]]) -> None:
        xs, ys = [x for x, _y in points] or [0.0], [y for _x, y in points] or [0.0]
        self.x_ticks = _ticks(min(0.0, *xs, 0.0), max(xs), whole=True)
        self.y_ticks = _ticks(min(ys), max(ys))
        self._x_range = (min(0.0, *xs, 0.0), max(*xs, 1.0))
        self._y_range = (self.y_ticks[0], self.y_ticks[-1])

    def x(self, value: float) -> float:
        low, high = self._x_range
        return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        low, high = self._y_range
        return _HEIGHT - _BOTTOM - (value - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    def drawn(self) -> list[str]:
        """Draw a line and a number at each tick of y, a number at each tick of x."""
        parts = []
        for tick in self.y_ticks:
            y = self.y(tick)
            parts.append(
                f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" '
                'stroke="var(--line)"/>'
            )
            parts.append(_text(_LEFT - 8, y + 4, f"{tick:g}", anchor="end"))
        for tick in self.x_ticks:
            if tick <= self._x_range[1]:
                parts.append(
                    _text(self.x(tick), _HEIGHT - _BOTTOM + 20, f"{tick:g}", anchor="middle")
                )
        return parts


def _curve(curve: Curve, axes: _Axes) -> str:
    colour = _COLOURS[curve.style]
    every = math.ceil(len(curve.points) / _MAX_POINTS)
    kept = [*curve.points[::every], curve.points[-1]]
    places = [(axes.x(x), axes.y(y)) for x, y in kept]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    opacity = ' opacity="0.35"' if curve.style == "faint" else ""
    width = 1 if curve.style == "faint" else 2
    line = (
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}" '
        f'stroke-linejoin="round"{opacity}/>'
    )
    if not curve.marks:
        return line
    dots = (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in places)
    return line + "".join(dots)


def _legend(curves: Sequence[Curve]) -> list[str]:
    """Name the curves in the upper right corner, from the right."""
    parts = []
    right = _WIDTH - _RIGHT
    for curve in reversed(curves):
        # A wide character takes about twice the room of a narrow one.
        width = sum(13 if ord(character) > 0x2E7F else 7 for character in curve.name)
        opacity = ' opacity="0.45"' if curve.style == "faint" else ""
        parts.append(_text(right, 20, curve.name, anchor="end"))
        parts.append(
            f'<line x1="{right - width - 30}" x2="{right - width - 8}" y1="16" y2="16" '
            f'stroke="{_COLOURS[curve.style]}" stroke-width="3"{opacity}/>'
        )
        right -= width + 48
    return parts


def _text(x: float, y: float, text: str, *, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(shown(text))}</text>'


def _ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Choose four to eight round values that enclose the range (steps of 1, 2 or 5 times 10^n)."""
    span = max(high - low, 1.0 if whole else 1e-3)
    power = 10.0 ** math.floor(math.log10(span / 6))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor * 6 >= span)
    if whole:
        step = max(1.0, step)
    first, last = math.floor(low / step), math.ceil(max(high, low + span) / step)
    return [round(index * step, 10) for index in range(first, last + 1)]
