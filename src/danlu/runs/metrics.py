"""metrics.jsonl: one JSON object a line, added while the run goes on.

A reader may come at any moment and a writer may die in the middle of a line, so a last line
without its end is not yet there. Knows nothing of what is measured but `step`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from danlu.errors import CapacityError, DataError
from danlu.files.atomic import append_line, atomic_write, sync_lines
from danlu.files.json_file import parsed
from danlu.files.os_errors import readable
from danlu.files.regular import read_regular
from danlu.language import _
from danlu.reasons import reason_of

METRICS_FILE = "metrics.jsonl"
# Two million steps.
MOST_BYTES = 512 << 20
Value = str | int | float | bool | None


class Metrics:
    """Adds records to a run's file. What a full disk refuses is kept and written later."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / METRICS_FILE
        self._waiting: list[str] = []

    def append(self, record: Mapping[str, Value]) -> None:
        """Add one record, which must hold `step`; NaN and infinity become null."""
        if "step" not in record:
            raise ValueError("a metrics record needs its step")
        self._waiting.append(_to_line(record))
        self.flush()

    def flush(self) -> None:
        """Write the waiting records; where the disk is full, they go on waiting."""
        if self._waiting:
            with suppress(CapacityError):
                append_line(self._file, "\n".join(self._waiting))
                self._waiting.clear()

    def sync(self) -> None:
        """Return once what has been written is on the medium. Another thread may add meanwhile."""
        with suppress(CapacityError):
            sync_lines(self._file)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Read all complete records; a missing file has none. Raises DataError with file:line."""
    file = folder / METRICS_FILE
    return [_parse(file, number, line) for number, line in enumerate(_lines(file), 1)]


def losses_after(folder: Path, step: int) -> dict[int, float | None]:
    """Return the losses of the steps behind `step`, by step; damaged lines have none."""
    found: dict[int, float | None] = {}
    for number, line in enumerate(_lines(folder / METRICS_FILE), 1):
        with suppress(DataError):
            record = _parse(folder, number, line)
            if record["step"] > step and "loss" in record:
                found[record["step"]] = record["loss"]
    return found


def truncate_after(folder: Path, step: int) -> None:
    """Drop the records after `step`, as a resumed run writes them again.

    What a power cut made of the lines after `step` goes as well. Raises DataError with file:line
    for a damaged line before a record that is kept.
    """
    file = folder / METRICS_FILE
    lines = _lines(file)
    while lines and not _is_kept(lines[-1], step):
        lines.pop()
    records = [_parse(file, number, line) for number, line in enumerate(lines, 1)]
    if file.exists():
        kept = [_to_line(record) + "\n" for record in records if record["step"] <= step]
        atomic_write(file, "".join(kept))


def _lines(file: Path) -> list[bytes]:
    """Read the complete lines."""
    with readable(file):
        if not file.exists():
            return []
        return read_regular(file, most_bytes=MOST_BYTES).split(b"\n")[:-1]


def _is_kept(line: bytes, step: int) -> bool:
    try:
        return bool(parsed(line)["step"] <= step)
    except (ValueError, TypeError, KeyError):
        return False


def _to_line(record: Mapping[str, Value]) -> str:
    finite = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in record.items()
    }
    return json.dumps(finite, ensure_ascii=False, allow_nan=False)


def _parse(file: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        record = parsed(line)
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            return record
        why = _("It is not an object with a step.")
    except ValueError as fault:
        why = reason_of(fault)
    raise DataError(
        _("{place} is damaged.").format(place=f"{file}:{number}"),
        why=why,
        fix=_("Remove that line from the file."),
    )
