"""The loss curves as a part of a page: whole, inside its frame, small, the same each time."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.runs.curve import HELD_OUT, SMOOTHED, TRAIN, LossCurves, Points, loss_svg


def places(path: ElementTree.Element) -> list[tuple[float, float]]:
    numbers = [float(number) for number in re.findall(r"-?[\d.]+", path.attrib["d"])]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def drawn(curves: LossCurves, colour: str) -> tuple[ElementTree.Element, list[ElementTree.Element]]:
    """The drawing, and the paths in it that have a colour."""
    root = ElementTree.fromstring(loss_svg(curves))
    return root, [path for path in root.iter("path") if colour in path.attrib["style"]]


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.floats(0, 1e4, allow_nan=False)), max_size=30).map(
        sorted
    )
)
def test_a_curve_stays_inside_its_frame(points: Points) -> None:
    root, _paths = drawn(LossCurves(train=points, held_out=points), TRAIN)
    width, height = (float(part) for part in root.attrib["viewBox"].split()[2:])
    dots = [(float(dot.attrib["cx"]), float(dot.attrib["cy"])) for dot in root.iter("circle")]
    for x, y in (*dots, *(place for path in root.iter("path") for place in places(path))):
        assert 0 <= x <= width
        assert 0 <= y <= height


def test_a_curve_with_one_point_or_a_flat_line_is_drawn() -> None:
    for points in ([(5, 1.0)], [(1, 0.0), (9, 0.0)], [(1, 2.5), (2, 2.5)]):
        for colour in (TRAIN, SMOOTHED):
            assert len(drawn(LossCurves(train=points), colour)[1]) == 1


def test_a_long_run_is_thinned_out_and_keeps_its_end() -> None:
    points = [(step, 1 / (step + 1)) for step in range(50_000)]
    _root, (path,) = drawn(LossCurves(train=points), TRAIN)
    _root, (ends,) = drawn(LossCurves(train=[points[0], points[-1]]), TRAIN)
    assert len(places(path)) < 1000
    assert places(path)[-1] == places(ends)[-1]
    noisy = [(step, loss + step * 7919 % 1000 / 1000) for step, loss in points]
    assert len(loss_svg(LossCurves(train=noisy))) < 300_000


def test_each_evaluation_is_a_dot() -> None:
    root, (path,) = drawn(LossCurves(held_out=[(0, 3.0), (10, 2.0), (20, 1.0)]), HELD_OUT)
    dots = [(float(dot.attrib["cx"]), float(dot.attrib["cy"])) for dot in root.iter("circle")]
    assert dots == places(path)


def test_it_refers_to_nothing_and_is_the_same_each_time() -> None:
    curves = LossCurves(train=[(1, 2.0), (2, 1.0)], held_out=[(1, 2.0), (2, 1.0)])
    svg = loss_svg(curves)
    assert svg == loss_svg(curves)
    assert not re.search(r"href|url\(|xmlns|\bid=|font|<style|<defs|<metadata", svg)


@pytest.mark.parametrize("draw", ["loss_svg(curves)", "_labelled(curves, 'title')"])
def test_curves_are_drawn_under_a_jupyter_kernel(draw: str) -> None:
    """It names a backend that danlu's environment does not have: training failed at its end."""
    program = (
        "from danlu.runs.curve import LossCurves, _labelled, loss_svg\n"
        f"curves = LossCurves(train=[(1, 2.0), (2, 1.0)])\n{draw}"
    )
    backend = "module://matplotlib_inline.backend_inline"
    variables = {**os.environ, "MPLBACKEND": backend}
    subprocess.run([sys.executable, "-c", program], env=variables, check=True)
