"""The metrics of runs as columns, read once and then only what was added.

A run of 100,000 steps has 20 MB of records; a page asks for them again and again. What is here can
always be read again from metrics.jsonl.
"""

from __future__ import annotations

import json
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from danlu.files.regular import open_regular
from danlu.runs.metrics import METRICS_FILE, MOST_BYTES

Column = NDArray[np.float64]
STEP_COLUMNS = (
    *("step", "loss", "learning_rate", "grad_norm", "num_tokens", "seconds", "memory_bytes"),
    "epoch",
)
HELD_OUT_COLUMNS = ("step", "eval_loss", "eval_loss_per_sample")
# The place of a record in the file, counted from 1: by it a page says what it has seen.
NUMBER = "number"
_MOST_OPEN = 12
# What a number of the tables holds exactly.
_MOST_STEPS = 2**53


@dataclass(frozen=True, kw_only=True)
class MetricTable:
    """The records of a run. count: of all. generation: changes when records were taken back.

    steps, held_out: columns by name; NaN where a record lacks the value. remarks: on events.
    """

    count: int = 0
    generation: int = 0
    steps: Mapping[str, Column] = field(default_factory=lambda: _empty(STEP_COLUMNS))
    held_out: Mapping[str, Column] = field(default_factory=lambda: _empty(HELD_OUT_COLUMNS))
    remarks: tuple[Mapping[str, Any], ...] = ()

    @property
    def step(self) -> int:
        """The last step of which there is a record."""
        last = [int(part["step"][-1]) for part in (self.steps, self.held_out) if len(part["step"])]
        return max(last, default=0)

    def last(self, name: str) -> float | None:
        """Return the last finite value of a column."""
        column = self.held_out[name] if name in self.held_out else self.steps[name]
        known = column[np.isfinite(column)]
        return float(known[-1]) if len(known) else None


@dataclass(kw_only=True)
class _Open:
    """A file under observation: what was read of it, and up to where."""

    table: MetricTable = field(default_factory=MetricTable)
    file: tuple[int, int] = (0, 0)
    offset: int = 0


class MetricTables:
    """The tables of the runs that were asked for last. May be asked by several threads."""

    def __init__(self) -> None:
        self._open: OrderedDict[Path, _Open] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, folder: Path) -> MetricTable:
        """Return a run's metrics as they stand now. Raises OSError and DataError."""
        with self._lock:
            known = self._open.pop(folder, None) or _Open()
            self._open[folder] = known
            while len(self._open) > _MOST_OPEN:
                self._open.popitem(last=False)
            _refresh(known, folder / METRICS_FILE)
            return known.table


def read_table(folder: Path) -> MetricTable:
    """Read a run's metrics once, without keeping them."""
    once = _Open()
    _refresh(once, folder / METRICS_FILE)
    return once.table


def _refresh(known: _Open, path: Path) -> None:
    try:
        file = open_regular(path)
    except FileNotFoundError:
        if known.table.count:
            _forget(known)
        return
    with file:
        found = os.fstat(file.fileno())
        # A run that is resumed replaces the file by one without the steps that come again.
        if known.file != (found.st_dev, found.st_ino) or found.st_size < known.offset:
            if known.table.count:
                _forget(known)
            known.file, known.offset = (found.st_dev, found.st_ino), 0
        if found.st_size == known.offset:
            return
        file.seek(known.offset)
        data = file.read(min(found.st_size - known.offset, MOST_BYTES))
    whole = data[: data.rfind(b"\n") + 1]
    known.offset += len(whole)
    known.table = _extended(known.table, _records(whole.split(b"\n")[:-1]))


def _forget(known: _Open) -> None:
    known.table = MetricTable(generation=known.table.generation + 1)
    known.offset = 0


def _records(lines: list[bytes]) -> list[Mapping[str, Any]]:
    """Parse lines, all at once where none is damaged; a damaged one is an empty record."""
    try:
        records = json.loads(b"[" + b",".join(lines) + b"]")
        if len(records) == len(lines):
            return [_checked(record) for record in records]
    except (ValueError, RecursionError):
        pass
    parsed = []
    for line in lines:
        record: Mapping[str, Any] = {}
        with suppress(ValueError, RecursionError):
            record = _checked(json.loads(line))
        parsed.append(record)
    return parsed


def _checked(record: Any) -> Mapping[str, Any]:
    step = record.get("step") if isinstance(record, dict) else None
    return record if type(step) is int and abs(step) < _MOST_STEPS else {}


def _extended(table: MetricTable, records: list[Mapping[str, Any]]) -> MetricTable:
    numbered = [{**record, NUMBER: table.count + place} for place, record in enumerate(records, 1)]
    return MetricTable(
        count=table.count + len(records),
        generation=table.generation,
        steps=_grown(table.steps, [r for r in numbered if "loss" in r]),
        held_out=_grown(table.held_out, [r for r in numbered if "eval_loss" in r]),
        remarks=(*table.remarks, *(r for r in numbered if "event" in r)),
    )


def _grown(columns: Mapping[str, Column], records: list[dict[str, Any]]) -> Mapping[str, Column]:
    if not records:
        return columns
    return {
        name: np.concatenate([column, [_number(record.get(name)) for record in records]])
        for name, column in columns.items()
    }


def _number(value: Any) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) < 1e300 else float("nan")


def _empty(names: tuple[str, ...]) -> dict[str, Column]:
    return {name: np.zeros(0) for name in (*names, NUMBER)}
