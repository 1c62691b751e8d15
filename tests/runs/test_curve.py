"""The loss curves as a part of a page: whole, inside its frame, small, the same each time."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.runs import curve
from danlu.runs.curve import (
    AXES,
    CURVES,
    HELD_OUT,
    SMOOTHED,
    TRAIN,
    LossCurves,
    Points,
    draw_loss_curves,
    loss_svg,
)
from danlu.runs.metrics import METRICS_FILE


def places(path: ElementTree.Element) -> list[tuple[float, float]]:
    numbers = [float(number) for number in re.findall(r"-?[\d.]+", path.attrib["d"])]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def drawn(curves: LossCurves, colour: str) -> tuple[ElementTree.Element, list[ElementTree.Element]]:
    """The drawing, and the paths in it that have a colour."""
    root = ElementTree.fromstring(loss_svg(curves))
    return root, [path for path in root.iter("path") if colour in path.attrib["style"]]


@settings(max_examples=15)
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


def smoothed(losses: list[float]) -> list[float]:
    """The heights of the smoothed curve, in units of the losses."""
    points = [(step, loss) for step, loss in enumerate(losses)]
    _root, (raw,) = drawn(LossCurves(train=points), TRAIN)
    _root, (smooth,) = drawn(LossCurves(train=points), SMOOTHED)
    heights = [y for _x, y in places(raw)]
    scale = (max(losses) - min(losses)) / (max(heights) - min(heights))
    return [max(losses) - (y - min(heights)) * scale for _x, y in places(smooth)]


def test_the_smoothed_curve_does_not_lag() -> None:
    """It crosses the middle of a sudden fall where the fall is, and is as steep as a slope."""
    fall = smoothed([2.0 if step < 30 else 1.0 for step in range(60)])
    assert fall[29] - 1.5 == pytest.approx(1.5 - fall[30], abs=0.01)
    losses = [3.0 - step / 50 + (step % 2) / 20 for step in range(100)]
    curve_of_slope = smoothed(losses)
    assert len(curve_of_slope) == len(losses)
    for step in range(30, 70):
        assert curve_of_slope[step] == pytest.approx(3.0 - step / 50 + 1 / 40, abs=0.02)


def test_the_smoothed_curve_starts_and_ends_with_the_run_not_at_zero() -> None:
    short = smoothed([4.0, 3.0, 2.5, 2.4, 2.3])
    assert 3.3 < short[0] < 4.0
    assert 2.3 < short[-1] < 2.5


def words_of(svg: Path) -> str:
    """The words of a drawing: matplotlib leaves each as a comment beside its outlines."""
    return " ".join(re.findall(r"<!-- (.*?) -->", svg.read_text(encoding="utf-8")))


def test_the_pictures_speak_the_users_language(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}, {"step": 2, "eval_loss": 1.5}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / METRICS_FILE).write_text(text, encoding="utf-8")
    draw_loss_curves(tmp_path, title="第一次")
    english = [*AXES.values(), *CURVES.values()]
    assert all(name in words_of(tmp_path / "loss.svg") for name in english)

    monkeypatch.setenv("DANLU_LANG", "zh")
    draw_loss_curves(tmp_path, title="第一次")
    if curve._font_for("第一次训练损失") is None:
        assert all(name in words_of(tmp_path / "loss.svg") for name in english)
        pytest.skip("needs a font with Chinese characters")
    shown = words_of(tmp_path / "loss.svg")
    assert all(word in shown for word in ("第一次", "步", "训练", "留出"))
    assert not any(name in shown for name in english)


def test_without_a_font_for_them_the_words_are_english(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = json.dumps({"step": 1, "loss": 2.0}) + "\n"
    (tmp_path / METRICS_FILE).write_text(text, encoding="utf-8")
    monkeypatch.setenv("DANLU_LANG", "zh")
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", list)
    curve._font_for.cache_clear()
    try:
        draw_loss_curves(tmp_path, title="第一次")
    finally:
        curve._font_for.cache_clear()
    assert words_of(tmp_path / "loss.svg").count("danlu") == 1
    assert "loss (nats per token)" in words_of(tmp_path / "loss.svg")


@pytest.mark.parametrize("draw", ["loss_svg(curves)", "_alone(curves, 'title', form='png')"])
def test_curves_are_drawn_under_a_jupyter_kernel(draw: str) -> None:
    """It names a backend that danlu's environment does not have: training failed at its end."""
    program = (
        "from danlu.runs.curve import LossCurves, _alone, loss_svg\n"
        f"curves = LossCurves(train=[(1, 2.0), (2, 1.0)])\n{draw}"
    )
    backend = "module://matplotlib_inline.backend_inline"
    variables = {**os.environ, "MPLBACKEND": backend}
    subprocess.run([sys.executable, "-c", program], env=variables, check=True)
