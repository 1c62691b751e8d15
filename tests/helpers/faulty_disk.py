"""Disks that go wrong on purpose: they fail or die at the N-th operation that changes the disk.

`every_fault` tries a scenario with a fault at its first operation, its second, and so on, until it
passes without one; SQLite's tests do the same. Reading is made to fail by `failing_reads`.
"""

from __future__ import annotations

import errno
import io
import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

from danlu.errors import DanluError
from danlu.files import disk, regular
from danlu.files.disk import Bytes, Disk
from danlu.files.process import ProcessName
from tests.helpers.figures import figure

# "dies": the process is gone, its clean-up too. "is killed": really, by SIGKILL. Else an errno.
Fault = int | Literal["dies", "is killed"]
OPERATIONS = [name for name in vars(Disk) if not name.startswith("_")]


class Died(BaseException):
    """The process ends here: nothing that follows reaches the disk."""


class HastyDisk(Disk):
    """The real disk, but nobody waits for the medium, which takes most of a test's time."""

    def sync(self, file: FileIO) -> None: ...

    def sync_folder(self, path: Path) -> None: ...

    def sync_file(self, path: Path) -> None: ...


class FaultyDisk(HastyDisk):
    """The disk, up to operation number `number`.

    An errno fails that operation alone, or, with `lasting`, each later one that needs room as well.
    What consists of several steps, a long write or the removal of a folder, is half done first.
    Threads may share it: operations are counted as they come, and done one after another.
    """

    def __init__(self, number: int, fault: Fault, *, lasting: bool = False) -> None:
        self.number = number
        self.fault = fault
        self.lasting = lasting
        self.count = 0
        self._turn = threading.RLock()

    @property
    def fired(self) -> bool:
        """Tell whether the operation came."""
        return self.count >= self.number

    def __getattribute__(self, name: str) -> Any:
        if name not in OPERATIONS:
            return object.__getattribute__(self, name)
        real = getattr(HastyDisk, name)

        def operation(*values: Any, **named: Any) -> object:
            with self._turn:
                self.count += 1
                if self.count == self.number:
                    _half_done(name, values)
                if self.count == self.number or (self.fired and self._goes_on(name)):
                    self._fail(name)
                return real(self, *values, **named)

        return operation

    def _goes_on(self, name: str) -> bool:
        frees_room = name in ("cut", "remove", "remove_tree", "rename", "sync_folder")
        return self.fault == "dies" or (self.lasting and not frees_room)

    def _fail(self, name: str) -> None:
        if self.fault == "is killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if isinstance(self.fault, int):
            raise OSError(self.fault, os.strerror(self.fault))
        raise Died(name)


def _half_done(name: str, values: tuple[Any, ...]) -> None:
    if name == "write":
        file, data = values
        Disk().write(file, memoryview(data).cast("B")[: len(data) // 2])
    elif name == "remove_tree":
        files = sorted(path for path in values[0].rglob("*") if path.is_file())
        for path in files[: (len(files) + 1) // 2]:
            path.unlink()


class FillingDisk(Disk):
    """Has room for so many bytes; then every write fails half-way."""

    def __init__(self, room_bytes: int) -> None:
        self.room_bytes = room_bytes

    def write(self, file: FileIO, data: Bytes) -> None:
        data = memoryview(data).cast("B")
        super().write(file, data[: self.room_bytes])
        if len(data) > self.room_bytes:
            self.room_bytes = 0
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room_bytes -= len(data)


class RefusingDisk(Disk):
    """Fails the named operations with one errno, every time."""

    def __init__(self, code: int, *names: str) -> None:
        def refuse(*_: object) -> None:
            raise OSError(code, os.strerror(code))

        for name in names:
            setattr(self, name, refuse)


@contextmanager
def installed(other: Disk) -> Iterator[None]:
    """Let danlu write to another disk inside the block."""
    with patch.object(disk, "DISK", other):
        yield


@contextmanager
def everyone_else_is_dead() -> Iterator[None]:
    """Let leftovers of this very process count as those of a dead one, as after a restart."""
    with patch.object(ProcessName, "is_running", lambda _self: False):
        yield


def every_fault(
    fresh: Callable[[], Path],
    act: Callable[[Path], object],
    check: Callable[[Path], object],
    *,
    fault: Fault,
    lasting: bool = False,
) -> int:
    """Act on a fresh folder with a fault at operation 1, 2, ... and check what it left each time.

    Returns the number of faults. An errno may end the action with a DanluError and nothing else.
    """
    for number in itertools.count(1):
        folder = fresh()
        faulty = FaultyDisk(number, fault, lasting=lasting)
        with installed(faulty), suppress(Died, DanluError):
            act(folder)
        check(folder)
        if not faulty.fired:
            assert number > 1, "the scenario does not touch the disk"
            figure("faults injected", number - 1)
            return number - 1
    raise AssertionError


class FailingReads:
    """Fails the N-th opening or reading of a file inside a folder, and counts them."""

    def __init__(self, folder: Path, number: int, code: int = errno.EIO) -> None:
        self.folder = folder
        self.number = number
        self.code = code
        self.count = 0
        self.failed: Path | None = None

    def touch(self, path: Path) -> None:
        """Count one opening or reading of `path`, and fail if it is the one."""
        self.count += 1
        if self.count == self.number:
            self.failed = path
            raise OSError(self.code, os.strerror(self.code), str(path))


class _FailingFile(io.BufferedReader):
    def __init__(self, path: Path, reads: FailingReads) -> None:
        super().__init__(FileIO(path))
        self._path = path
        self._reads = reads

    def read(self, size: int | None = -1, /) -> bytes:
        self._reads.touch(self._path)
        return super().read(size)

    def readinto(self, buffer: Any, /) -> int:
        self._reads.touch(self._path)
        return super().readinto(buffer)


@contextmanager
def failing_reads(reads: FailingReads) -> Iterator[None]:
    """Let files below `reads.folder` be opened and read through `reads` inside the block."""
    real = io.open

    def opened(file: Any, mode: str = "r", *values: Any, **options: Any) -> Any:
        path = Path(file) if isinstance(file, (str, Path)) else None
        if path is None or set(mode) & set("wax+") or not path.is_relative_to(reads.folder):
            return real(file, mode, *values, **options)
        reads.touch(path)
        binary = _FailingFile(path, reads)
        return binary if "b" in mode else io.TextIOWrapper(binary, encoding="utf-8")

    # Path.open is io.open; who opens regular files only takes the built-in one.
    with (
        patch.object(io, "open", opened),
        patch.object(regular, "open", opened, create=True),
    ):
        yield
