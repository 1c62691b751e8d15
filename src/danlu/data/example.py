"""The example data set that danlu brings along: rows that teach a model its name.

In a wheel it lies with the one-click scripts, in a clone in `examples/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import danlu
from danlu.data.dataset_info import INFO_FILE

ROWS_FILE = "identity.jsonl"
ONE_CLICK = Path(danlu.__file__).parent / "oneclick"


def example_files() -> Mapping[str, Path]:
    """Return the rows, and the dataset_info.json that names them, by their file names."""
    folder = ONE_CLICK / "data"
    if not folder.is_dir():
        folder = ONE_CLICK.parents[2] / "examples"
    return {name: folder / name for name in (ROWS_FILE, INFO_FILE)}
