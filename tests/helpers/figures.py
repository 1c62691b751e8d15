"""Figures that the tests of reliability measured; they are printed at the end of the run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

FIGURES: Counter[str] = Counter()
_AT_MOST = "ms at most "


def figure(name: str, count: int) -> None:
    """Add to a figure, once the test has seen that all was well."""
    FIGURES[name] += count


def slowest(name: str, seconds: float) -> None:
    """Keep the longest time of its name, in milliseconds."""
    add_figures({_AT_MOST + name: round(1000 * seconds)})


def add_figures(figures: Mapping[str, int]) -> None:
    """Add what another process measured."""
    for name, count in figures.items():
        known = FIGURES[name]
        FIGURES[name] = max(known, count) if name.startswith(_AT_MOST) else known + count


def figures_line() -> str:
    """Write all figures in one line, or nothing where none was measured."""
    if not FIGURES:
        return ""
    return "reliability: " + "; ".join(f"{count:,} {name}" for name, count in FIGURES.items())
