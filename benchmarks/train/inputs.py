"""The folder that all sides read: the random model, and the rows in the order each side needs.

danlu shuffles by its seed, and the peers are told not to. They get the rows in the order in which
danlu takes them, so that every side has the same 16 rows in the same step.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.train.recipe import ROWS_PER_STEP, SEED
from danlu.data.tokens.order import epoch_order

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Where the inputs lie."""

    folder: Path

    @property
    def model(self) -> Path:
        """The model folder."""
        return self.folder / "model"

    @property
    def shuffled(self) -> Path:
        """A dataset_dir for danlu, with a data set `rows`."""
        return self.folder / "shuffled"

    @property
    def in_order(self) -> Path:
        """The same for the peers."""
        return self.folder / "in_order"


def write_rows(inputs: Inputs, data: Path, *, num_steps: int) -> None:
    """Take the first rows of an alpaca file for both data sets. Raises SystemExit for too few."""
    rows: list[Row] = json.loads(data.read_text(encoding="utf-8"))
    wanted = num_steps * ROWS_PER_STEP
    if len(rows) < wanted:
        raise SystemExit(
            f"{data.name} has {len(rows)} rows, and {num_steps} steps need {wanted}: "
            "use a larger file or fewer --steps"
        )
    rows = rows[:wanted]
    _write_dataset(inputs.shuffled, rows)
    _write_dataset(inputs.in_order, [rows[number] for number in epoch_order(wanted, SEED, 0)])


def _write_dataset(folder: Path, rows: list[Row]) -> None:
    folder.mkdir(parents=True)
    files = {"rows.json": rows, "dataset_info.json": {"rows": {"file_name": "rows.json"}}}
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
