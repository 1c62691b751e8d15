"""One safetensors file, read with strict checks. Knows the format, not the model.

Format (huggingface/safetensors, README "Format"): 8 bytes little-endian header length, a JSON
header of name -> {dtype, shape, data_offsets}, then the data. Offsets must tile the data without
gaps or overlaps. A file is untrusted input: every number is checked against the file's real size
before a byte of data is touched, and every error names file and tensor.
"""

from __future__ import annotations

import json
import math
import os
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from danlu.device.memory import is_readable_in_place
from danlu.errors import DataError
from danlu.files.os_errors import readable
from danlu.files.regular import open_regular
from danlu.language import _
from danlu.reasons import reason_of

MAX_HEADER_BYTES = 100_000_000
# torch's own limit. The product of a hostile header's million numbers would take hours.
_MAX_DIMENSIONS = 64
# Data in another dtype or on another device than wanted passes through a buffer of this size.
_CHUNK_BYTES = 8 * 2**20

TORCH_DTYPES: dict[str, torch.dtype] = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
DTYPE_NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}
# Other dtypes of the format, known by size so that a header that holds them can still be checked.
_OTHER_ITEM_BYTES = {
    "F64": 8,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
}


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """Where one tensor lies: dtype by its name in the format, absolute byte range in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


class SafetensorsFile:
    """The checked header of one file. Opening reads no tensor data.

    From the first reading on the file stays open: a model of experts has 18,000 tensors, and on a
    network disk opening takes longer than reading one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with readable(path), open_regular(path) as file:
            self.tensors, self.metadata = _read_header(file, path)

    def check_fits(self, name: str, destination: Tensor) -> torch.dtype:
        """Return a tensor's stored dtype if it can fill `destination` (any float dtype or device).

        Raises DataError for another shape or for a dtype that is no float.
        """
        stored = self.tensors[name]
        if stored.shape != tuple(destination.shape):
            raise damaged(
                self.path,
                _("{name} has shape {shape}; {needed} is needed").format(
                    name=name, shape=list(stored.shape), needed=list(destination.shape)
                ),
            )
        dtype = TORCH_DTYPES.get(stored.dtype)
        if dtype is None:
            raise damaged(
                self.path,
                _("{name} has dtype {dtype}; BF16, F16 or F32 is needed").format(
                    name=name, dtype=stored.dtype
                ),
            )
        return dtype

    def read_into(self, name: str, destination: Tensor) -> None:
        """Fill `destination` with a tensor that fits it, converting dtype and device.

        Raises DataError where `check_fits` does, and for a file that has shrunk or cannot be read.
        """
        dtype = self.check_fits(name, destination)
        start = self.tensors[name].start
        if destination.dtype == dtype and is_readable_in_place(destination):
            self._fill(start, name, destination)
        else:
            self._convert(start, name, dtype, destination)

    def divide(
        self, name: str, shape: tuple[int, ...], parts: Sequence[tuple[str, tuple[int, ...]]]
    ) -> None:
        """Take a tensor of a shape for those that fill it one behind the other, by name and shape.

        Raises DataError for another shape.
        """
        whole = self.tensors.pop(name)
        if whole.shape != shape:
            raise damaged(
                self.path,
                _("{name} has shape {shape}; {needed} is needed").format(
                    name=name, shape=list(whole.shape), needed=list(shape)
                ),
            )
        item_bytes = (whole.stop - whole.start) // math.prod(shape)
        stop = whole.start
        for part, part_shape in parts:
            start, stop = stop, stop + math.prod(part_shape) * item_bytes
            self.tensors[part] = StoredTensor(
                name=part, dtype=whole.dtype, shape=part_shape, start=start, stop=stop
            )

    def bytes_at(self, start: int, count: int) -> bytes:
        """Return so many bytes of the file, from a place on; fewer at its end."""
        with readable(self.path):
            return os.pread(self._handle, count, start)

    @cached_property
    def _handle(self) -> int:
        """The open file; closed with this object. Read by place, so that threads may share it."""
        with readable(self.path):
            file = open_regular(self.path)
        weakref.finalize(self, file.close)
        return file.fileno()

    def read(self, name: str) -> Tensor:
        """Return a tensor in its stored dtype on the CPU."""
        stored = self.tensors[name]
        dtype = TORCH_DTYPES.get(stored.dtype, torch.float32)
        tensor = torch.empty(stored.shape, dtype=dtype)
        self.read_into(name, tensor)
        return tensor

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Return rows [start, stop) of a tensor with a first dimension, as `read` does the whole.

        Raises what `read` raises.
        """
        stored = self.tensors[name]
        row_bytes = (stored.stop - stored.start) // stored.shape[0]
        dtype = TORCH_DTYPES.get(stored.dtype, torch.float32)
        tensor = torch.empty(stop - start, *stored.shape[1:], dtype=dtype)
        self._fill(stored.start + start * row_bytes, name, tensor)
        return tensor

    def _fill(self, start: int, name: str, destination: Tensor) -> None:
        """Read from a place straight into the tensor's memory: there is no second copy."""
        memory = destination.view(-1).view(torch.uint8).numpy().data
        filled = 0
        while filled < len(memory):
            with readable(self.path):
                count = os.preadv(self._handle, [memory[filled:]], start + filled)
            if not count:
                raise damaged(self.path, _("the file ends inside {name}").format(name=name))
            filled += count

    def _convert(self, start: int, name: str, dtype: torch.dtype, destination: Tensor) -> None:
        """Read in pieces along the first dimension, converting dtype and device on the way."""
        if destination.dim() == 0:
            destination = destination.unsqueeze(0)
        row_bytes = max(1, destination[0].numel() * dtype.itemsize) if len(destination) else 1
        buffer: Tensor | None = None
        for rows in destination.split(max(1, _CHUNK_BYTES // row_bytes)):
            buffer = torch.empty(rows.shape, dtype=dtype) if buffer is None else buffer
            piece = buffer[: len(rows)]  # the last one may be shorter
            self._fill(start, name, piece)
            start += piece.nbytes
            rows.copy_(piece)


def _read_header(file: BinaryIO, path: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    size = os.fstat(file.fileno()).st_size
    prefix = file.read(8)
    if len(prefix) < 8:
        raise damaged(path, _("The file is shorter than a safetensors header."))
    header_bytes = int.from_bytes(prefix, "little")
    if header_bytes > MAX_HEADER_BYTES:
        # Not how many: the number is the first bytes of a file that may be something else.
        raise damaged(path, _("its header claims more than 100 MB, which is the limit"))
    if 8 + header_bytes > size:
        raise damaged(
            path,
            _("its header claims {count} bytes; the file has {size}").format(
                count=header_bytes, size=size
            ),
        )
    try:
        header = json.loads(file.read(header_bytes).decode("utf-8"), object_pairs_hook=_unique)
        json.dumps(header, ensure_ascii=False).encode()  # a name may hold half a character
    except (UnicodeDecodeError, ValueError, RecursionError) as problem:
        raise damaged(
            path, _("its header is not valid JSON: {detail}").format(detail=reason_of(problem))
        ) from problem
    if not isinstance(header, dict):
        raise damaged(path, _("its header is not a JSON object"))
    metadata = header.pop("__metadata__", None) or {}
    data_start = 8 + header_bytes
    tensors = {
        name: _stored_tensor(path, name, entry, data_start) for name, entry in header.items()
    }
    _check_tiling(path, list(tensors.values()), data_start, size)
    return tensors, metadata if isinstance(metadata, dict) else {}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a JSON object that names a key twice: two readers could see two different files."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError(_("a name occurs twice"))
    return result


def _stored_tensor(path: Path, name: str, entry: Any, data_start: int) -> StoredTensor:
    fields: dict[str, Any] = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = (fields.get(key, ()) for key in ("dtype", "shape", "data_offsets"))
    if not (isinstance(dtype, str) and _whole_numbers(shape) and _whole_numbers(offsets)):
        raise damaged(path, _("the header entry of {name} is malformed").format(name=name))
    known = TORCH_DTYPES.get(dtype)
    item_bytes = known.itemsize if known else _OTHER_ITEM_BYTES.get(dtype)
    if item_bytes is None:
        raise damaged(
            path, _("{name} has the unknown dtype {dtype}").format(name=name, dtype=dtype)
        )
    if len(offsets) != 2 or offsets[1] - offsets[0] != math.prod(shape) * item_bytes:
        raise damaged(
            path,
            _("{name}: shape {shape} and dtype {dtype} do not fit its offsets").format(
                name=name, shape=shape, dtype=dtype
            ),
        )
    return StoredTensor(
        name=name,
        dtype=dtype,
        shape=tuple(shape),
        start=data_start + offsets[0],
        stop=data_start + offsets[1],
    )


def _whole_numbers(value: Any) -> bool:
    if not isinstance(value, list) or len(value) > _MAX_DIMENSIONS:
        return False
    return all(type(n) is int and 0 <= n < 2**63 for n in value)


def _check_tiling(path: Path, tensors: list[StoredTensor], start: int, size: int) -> None:
    """Every data byte belongs to exactly one tensor, and the file ends where the last one does."""
    position = start
    for tensor in sorted(tensors, key=lambda t: (t.start, t.stop)):
        if tensor.stop > size:
            raise damaged(
                path,
                _("{name} ends at byte {stop}; the file has {size} (truncated)").format(
                    name=tensor.name, stop=tensor.stop, size=size
                ),
            )
        if tensor.start != position:
            why = (
                _("{name} overlaps the tensor before it")
                if tensor.start < position
                else _("{name} leaves a gap after the tensor before it")
            )
            raise damaged(path, why.format(name=tensor.name))
        position = tensor.stop
    if position != size:
        raise damaged(
            path, _("{count} bytes at its end belong to no tensor").format(count=size - position)
        )


def damaged(path: Path, why: str) -> DataError:
    """Build the error for a weight file that cannot be used."""
    return DataError(
        _("The weight file {path} cannot be used.").format(path=path),
        why=why,
        fix=_("Download or copy this file again and compare its size and sha256."),
    )


def tensor_bytes(tensor: Tensor) -> memoryview:
    """Return a CPU tensor's bytes without a copy where it is contiguous."""
    return tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().data


def header_bytes(
    tensors: Iterable[tuple[str, torch.dtype, tuple[int, ...]]],
) -> bytes:
    """Build the leading bytes of a file that holds these tensors in this order."""
    # Readers of Hugging Face refuse files without this mark.
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, dtype, shape in tensors:
        stop = position + math.prod(shape) * dtype.itemsize
        header[name] = {
            "dtype": DTYPE_NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [position, stop],
        }
        position = stop
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    # Padded with spaces so that the data starts at a multiple of eight, as the format asks.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
