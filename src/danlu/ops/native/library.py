"""The library of C++ kernels for the CPU (native/): finding it, and calling it.

It is called through ctypes with the addresses of tensors' numbers: a microsecond a call, and other
Python threads run meanwhile. What a call takes is a structure, which is the same in Python and in
native/kernels.h. A build and this code belong together; another one is not taken.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from danlu.device.openmp import libgomp
from danlu.ops.choice import NotHere

FILE = Path(__file__).with_name("libdanlu.so")
# As in native/kernels.h.
VERSION = 1

Pointer, Size, Int, Float = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32, ctypes.c_float


class KernelCall(ctypes.Structure):
    """What a kernel takes. kind: its number, as in native/kernels.h."""

    kind: ClassVar[int]


class _Call(ctypes.Structure):
    _fields_ = (("kind", Int), ("arguments", Pointer))


class Library:
    """A loaded library. isa: the instruction set that it computes with, the best by itself.

    Raises NotHere where it cannot be used here.
    """

    def __init__(self, file: Path = FILE, isa: str | None = None) -> None:
        if not file.is_file():
            raise NotHere("it was not built: make native, with a C++ compiler")
        try:
            library = ctypes.CDLL(str(file))
        except OSError as fault:
            raise NotHere(f"{file.name} cannot be loaded: {fault}") from None
        if library.danlu_version() != VERSION:
            raise NotHere(f"{file.name} belongs to another version of danlu: make native")
        library.danlu_prepare.restype = ctypes.c_char_p
        openmp = libgomp()
        parallel = None if openmp is None else ctypes.cast(openmp.GOMP_parallel, Pointer)
        found = library.danlu_prepare(None if isa is None else isa.encode(), parallel)
        if found is None:
            raise NotHere(f"this processor does not have {isa or 'AVX2'}")
        self.isa: str = found.decode()
        self._run: Callable[..., None] = library.danlu_run
        self._here = threading.local()

    def run(self, arguments: KernelCall, *tensors: Tensor | None) -> None:
        """Call a kernel; tensors: those whose addresses it takes."""
        call = _Call(arguments.kind, ctypes.addressof(arguments))
        self._run(ctypes.byref(call), Size(1), torch.get_num_threads())
        program: Program | None = getattr(self._here, "program", None)
        if program is not None:
            program.add(arguments, tensors)

    @contextmanager
    def recorded(self) -> Iterator[Program]:
        """Record what this thread calls meanwhile, beside doing it."""
        program = self._here.program = Program(self._run)
        try:
            yield program
        finally:
            self._here.program = None


class Program:
    """Calls in their order. It keeps the tensors that they read and write."""

    def __init__(self, run: Callable[..., None]) -> None:
        self._run = run
        self._calls: list[tuple[KernelCall, tuple[Tensor | None, ...]]] = []
        self._array: ctypes.Array[_Call] | None = None

    def add(self, arguments: KernelCall, tensors: tuple[Tensor | None, ...]) -> None:
        """Append a call."""
        self._calls.append((arguments, tensors))
        self._array = None

    def run(self) -> None:
        """Make all calls again."""
        if self._array is None:
            calls = [_Call(call.kind, ctypes.addressof(call)) for call, _tensors in self._calls]
            self._array = (_Call * len(calls))(*calls)
        self._run(self._array, Size(len(self._array)), torch.get_num_threads())


@cache
def library() -> Library:
    """Return the library of this process. Raises NotHere."""
    return Library()


def address(tensor: Tensor | None) -> int | None:
    """Return where a tensor's numbers begin."""
    return None if tensor is None else tensor.data_ptr()
