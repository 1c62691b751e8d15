"""What a side's process reports: plain figures, written to a file and read back.

Standard library only: it is loaded in every side's environment.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Step:
    """One optimizer step.

    lengths: tokens of each example, padding not counted; computed_tokens: with padding.
    head_rows: tokens whose logits the side computes, those of padding not counted.
    """

    seconds: float
    lengths: Sequence[int]
    computed_tokens: int
    head_rows: int

    @property
    def num_tokens(self) -> int:
        """Useful tokens: those of rows."""
        return sum(self.lengths)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One side. first_forward: when it began, on the clock `time.monotonic` (one per machine)."""

    first_forward: float
    threads: int
    versions: Mapping[str, str]
    steps: Sequence[Step]

    def save(self, file: Path) -> None:
        """Write it as JSON."""
        file.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def load(cls, file: Path) -> Measured:
        """Read what `save` wrote."""
        values = json.loads(file.read_text(encoding="utf-8"))
        steps = [Step(**step) for step in values.pop("steps")]
        return cls(steps=steps, **values)
