"""The library of C++ kernels for the CPU (native/): finding it, and calling it.

It is called through ctypes with the addresses of tensors' numbers: a microsecond a call, and other
Python threads run meanwhile. What a call takes is a structure, which is the same in Python and in
native/kernels.h. A build and this code belong together; another one is not taken.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from danlu.device.openmp import libgomp
from danlu.language import _
from danlu.ops.choice import NotBuilt, NotHere

FILE = Path(__file__).with_name("libdanlu.so")
# As in native/kernels.h.
VERSION = 4

Pointer, Size, Int, Float = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32, ctypes.c_float


class Kind(IntEnum):
    """The kernels, in the order of native/kernels.h."""

    PACK = 0
    LINEAR = 1
    QUANTIZE = 2
    LOOK_UP = 3
    APPEND = 4
    ATTEND_CACHED = 5
    LARGEST = 6
    RMS_NORM = 7
    RMS_NORM_BACKWARD = 8
    SWIGLU = 9
    SWIGLU_BACKWARD = 10
    ROTATE = 11
    ROTATE_BACKWARD = 12
    LOSS = 13
    LOSS_BACKWARD = 14
    ATTEND = 15
    ATTEND_BACKWARD = 16
    NARROW = 17
    WIDEN = 18
    OUTER = 19
    DEQUANTIZE = 20


class KernelCall(ctypes.Structure):
    """What a kernel takes: numbers, and the addresses of tensors, which it keeps."""

    kind: ClassVar[Kind]

    def __init__(self, *values: Any, **named: Any) -> None:
        self.tensors = [v for v in (*values, *named.values()) if isinstance(v, Tensor)]
        numbers = {name: _number(value) for name, value in named.items()}
        super().__init__(*map(_number, values), **numbers)


class _Call(ctypes.Structure):
    _fields_ = (("kind", Int), ("arguments", Pointer))


class Library:
    """A loaded library. isa: the instruction set that it computes with, the best by itself.

    Raises NotHere where it cannot be used here, NotBuilt where a build would help.
    """

    def __init__(self, file: Path | None = None, isa: str | None = None) -> None:
        library = _load(file or FILE)
        library.danlu_prepare.restype = ctypes.c_char_p
        openmp = libgomp()
        parallel = None if openmp is None else ctypes.cast(openmp.GOMP_parallel, Pointer)
        found = library.danlu_prepare(None if isa is None else isa.encode(), parallel)
        if found is None:
            raise NotHere(_("this processor does not have {name}").format(name=isa or "AVX2"))
        self.isa: str = found.decode()
        # A forked process has none of the threads that OpenMP waits for: one works there.
        os.register_at_fork(after_in_child=lambda: library.danlu_prepare(found, None))
        self._run: Callable[..., None] = library.danlu_run
        self._here = threading.local()

    def run(self, call: KernelCall) -> None:
        """Call a kernel. That tensors lie as it reads them, the caller sees to."""
        self._run(ctypes.byref(_as_call(call)), Size(1), torch.get_num_threads())
        program: Program | None = getattr(self._here, "program", None)
        if program is not None:
            program.add(call)

    @contextmanager
    def recorded(self) -> Iterator[Program]:
        """Record what this thread calls meanwhile, beside doing it."""
        program = self._here.program = Program(self._run)
        try:
            yield program
        finally:
            self._here.program = None


class Program:
    """Calls in their order, with the tensors that they read and write."""

    def __init__(self, run: Callable[..., None]) -> None:
        self._run = run
        self._calls: list[KernelCall] = []
        self._array: ctypes.Array[_Call] | None = None

    def add(self, call: KernelCall) -> None:
        """Append a call."""
        self._calls.append(call)
        self._array = None

    def run(self) -> None:
        """Make all calls again."""
        if self._array is None:
            self._array = (_Call * len(self._calls))(*map(_as_call, self._calls))
        self._run(self._array, Size(len(self._array)), torch.get_num_threads())


@cache
def library() -> Library:
    """Return the library of this process. Raises NotHere."""
    return Library()


def about_kernels() -> str:
    """Say which instruction set the kernels compute with, or why there are none."""
    try:
        return library().isa
    except NotHere as reason:
        return _("none: {reason}").format(reason=reason)


def _load(file: Path) -> ctypes.CDLL:
    """Load a build that belongs to this code. Raises NotBuilt."""
    why = None
    if not file.is_file():
        why = _("the C++ kernels for the CPU are not built")
    elif not _is_whole(file):
        why = _("{file} is damaged").format(file=file)
    else:
        try:
            library = ctypes.CDLL(str(file))
            if library.danlu_version() == VERSION:
                return library
            why = _("{file} belongs to another version of danlu").format(file=file)
        except (OSError, AttributeError) as fault:
            why = _("{file} cannot be loaded ({reason})").format(file=file, reason=fault)
    raise NotBuilt(
        _("{why}. With a C++ compiler (g++) this builds them: {command}").format(
            why=why, command=_command()
        )
    )


def _is_whole(file: Path) -> bool:
    """Whether a file is as long as its ELF header says, whose table of sections is its end.

    The system's loader does not look: it would end the process. Source: elf(5), Elf64_Ehdr.
    """
    with file.open("rb") as stream:
        header = stream.read(64)
    if len(header) < 64 or header[:6] != b"\x7fELF\x02\x01":
        return False
    (table,) = struct.unpack_from("<Q", header, 40)
    size, count = struct.unpack_from("<HH", header, 58)
    return int(table) + int(size) * int(count) <= file.stat().st_size


def _command() -> str:
    """Return what builds the library: of a clone, or of an installed package."""
    python, script = shlex.quote(sys.executable), FILE.parents[4] / "native" / "build.py"
    if script.is_file():
        return f"{python} {shlex.quote(str(script))}"
    source = "git+https://github.com/danlu-project/danlu"
    return f"{python} -m pip install --force-reinstall --no-deps {source}"


def _as_call(call: KernelCall) -> _Call:
    return _Call(call.kind, ctypes.addressof(call))


def _number(value: Any) -> Any:
    return value.data_ptr() if isinstance(value, Tensor) else value
