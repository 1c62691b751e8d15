"""What a program asked of the simulated NPU: operations, number types, waits of the host.

A real NPU works through a queue; the host runs ahead until it needs a value or a shape that the
device computes. Each such wait costs time, so they are counted, with the place in danlu's source.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

import danlu

_PACKAGE = f"{Path(danlu.__file__).parent}/"


@dataclass(kw_only=True, eq=False)
class Record:
    """Counts of one recording. `waits` and `uploads` are keyed by the place that caused them.

    pageable: the uploads among them from memory that is not pinned: the host waits for them, too.
    since_wait: operations since the host last waited. A wait with some after it left the device
    idle until they came. refused: the sentences of errors, which a program may have caught.
    """

    operations: Counter[str] = field(default_factory=Counter)
    dtypes: set[torch.dtype] = field(default_factory=set)
    waits: Counter[str] = field(default_factory=Counter)
    uploads: Counter[str] = field(default_factory=Counter)
    pageable: Counter[str] = field(default_factory=Counter)
    since_wait: Counter[str] = field(default_factory=Counter)
    refused: list[str] = field(default_factory=list)

    def clear(self) -> None:
        """Forget what has been counted so far."""
        for counted in (
            *(self.operations, self.dtypes, self.waits, self.uploads, self.pageable),
            *(self.since_wait, self.refused),
        ):
            counted.clear()


_open: list[Record] = []


@contextmanager
def recording() -> Iterator[Record]:
    """Record what reaches the device."""
    record = Record()
    _open.append(record)
    try:
        yield record
    finally:
        _open.remove(record)


@contextmanager
def unrecorded() -> Iterator[None]:
    """Hide from every recording that is open what happens inside."""
    hidden = _open.copy()
    _open.clear()
    try:
        yield
    finally:
        _open[:] = hidden


def note_operation(name: str, dtypes: Iterable[torch.dtype]) -> None:
    """Note one operation and the dtypes of its tensors on the device."""
    if not _open:
        return
    seen = set(dtypes)
    for record in _open:
        record.operations[name] += 1
        record.since_wait[name] += 1
        record.dtypes |= seen


def note_wait() -> None:
    """Note that the host must wait for the operation just noted."""
    for record in _open:
        record.since_wait.clear()
        record.waits[place()] += 1


def note_upload(*, pinned: bool) -> None:
    """Note a copy from the host to the device."""
    for record in _open:
        record.uploads[place()] += 1
        if not pinned:
            record.pageable[place()] += 1


def note_refusal(sentence: str) -> None:
    """Note that the device refused an operation."""
    for record in _open:
        record.refused.append(sentence)


def place() -> str:
    """Name the innermost function of danlu that is at work.

    Else `backward` where autograd calls from a thread of its own, and `outside` danlu.
    """
    frame = sys._getframe()
    while frame := frame.f_back:
        # Not just any folder called danlu: a clone is one, with the tests in it.
        if frame.f_code.co_filename.startswith(_PACKAGE):
            path = frame.f_code.co_filename.removeprefix(_PACKAGE)
            return f"{path}:{frame.f_code.co_name}"
    return "outside" if threading.current_thread() is threading.main_thread() else "backward"
