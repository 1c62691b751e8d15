"""Figures that the tests of reliability measured; they are printed at the end of the run."""

from __future__ import annotations

from collections import Counter

FIGURES: Counter[str] = Counter()


def figure(name: str, count: int) -> None:
    """Add to a figure, once the test has seen that all was well."""
    FIGURES[name] += count


def slowest(name: str, seconds: float) -> None:
    """Keep the longest time of its name, in milliseconds."""
    name = f"ms at most {name}"
    FIGURES[name] = max(FIGURES[name], round(1000 * seconds))


def figures_line() -> str:
    """Write all figures in one line, or nothing where none was measured."""
    if not FIGURES:
        return ""
    return "reliability: " + "; ".join(f"{count:,} {name}" for name, count in FIGURES.items())
