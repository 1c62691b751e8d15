"""One GGUF file, written piece by piece: the format of llama.cpp and Ollama, and its number types.

Knows the format, not the model. Source: ggml's docs/gguf.md, version 3, little-endian; q8_0 as
ggml's reference quantises: blocks of 32 numbers with one fp16 scale.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from danlu.files.draft import Draft, Write
from danlu.weights.safetensors import tensor_bytes

GgufType = Literal["f32", "bf16", "q8_0"]
Value = bool | int | float | str | Sequence[str] | Sequence[int]
Q8_BLOCK = 32
_ALIGNMENT = 32
# The format's numbers for the types of tensors and of values.
_TENSOR_TYPES = {"f32": 0, "q8_0": 8, "bf16": 30}
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9
# Rows are converted in pieces of about so many numbers.
_NUMBERS_AT_ONCE = 4 * 2**20


@dataclass(frozen=True, kw_only=True)
class GgufTensor:
    """A tensor to be written: its name in the file, where it comes from, its type there."""

    name: str
    source: str
    shape: tuple[int, ...]
    type: GgufType

    @property
    def num_bytes(self) -> int:
        """Size of its data in the file."""
        count = torch.Size(self.shape).numel()
        if self.type == "q8_0":
            return count // Q8_BLOCK * (Q8_BLOCK + 2)
        return count * (4 if self.type == "f32" else 2)


def write_gguf(
    draft: Draft,
    file_name: str,
    fields: Mapping[str, Value],
    tensors: Sequence[GgufTensor],
    fetch: Callable[[str], Tensor],
) -> None:
    """Stream one file: its fields, then one tensor at a time, fetched by its source."""
    with draft.stream(file_name) as write:
        write(_header(fields, tensors))
        for tensor in tensors:
            _write_values(write, fetch(tensor.source), tensor.type)
            write(bytes(-tensor.num_bytes % _ALIGNMENT))


def quantize_q8_0(rows: Tensor) -> Tensor:
    """Quantise fp32 [n, multiple of 32] -> bytes [blocks, 34]: a scale, then 32 int8."""
    blocks = rows.reshape(-1, Q8_BLOCK)
    scale = blocks.abs().amax(1, keepdim=True) / 127
    scaled = blocks * torch.where(scale == 0, 0.0, 1.0 / scale)
    # Halves away from zero, as C's roundf.
    size = scaled.abs()
    whole = size.floor()
    values = scaled.sign() * (whole + (2 * (size - whole)).floor())
    parts = (scale.to(torch.float16).view(torch.uint8), values.to(torch.int8).view(torch.uint8))
    return torch.cat(parts, 1)


def _write_values(write: Write, tensor: Tensor, kind: GgufType) -> None:
    if kind != "q8_0":
        dtype = torch.float32 if kind == "f32" else torch.bfloat16
        write(tensor_bytes(tensor.to(dtype)))
        return
    for rows in tensor.split(max(1, _NUMBERS_AT_ONCE // tensor.shape[-1])):
        write(tensor_bytes(quantize_q8_0(rows.float())))


def _header(fields: Mapping[str, Value], tensors: Sequence[GgufTensor]) -> bytes:
    parts = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(fields))]
    for name, value in fields.items():
        parts += [_text(name), _typed(value)]
    offset = 0
    for tensor in tensors:
        sizes = tensor.shape[::-1]  # the fastest dimension first
        parts += [
            _text(tensor.name),
            struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes),
            struct.pack("<IQ", _TENSOR_TYPES[tensor.type], offset),
        ]
        offset += tensor.num_bytes + -tensor.num_bytes % _ALIGNMENT
    header = b"".join(parts)
    return header + bytes(-len(header) % _ALIGNMENT)


def _typed(value: Value) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", _BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", _UINT32, value)
    if isinstance(value, float):
        return struct.pack("<If", _FLOAT32, value)
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _text(value)
    return struct.pack("<I", _ARRAY) + _list(value)


def _list(values: Sequence[str] | Sequence[int]) -> bytes:
    numbers = [value for value in values if isinstance(value, int)]
    if len(numbers) == len(values):
        return struct.pack(f"<IQ{len(numbers)}i", _INT32, len(numbers), *numbers)
    return struct.pack("<IQ", _STRING, len(values)) + b"".join(_texts(values))


def _texts(values: Iterable[str | int]) -> Iterable[bytes]:
    return (_text(str(value)) for value in values)


def _text(value: str) -> bytes:
    data = value.encode("utf-8")
    return struct.pack("<Q", len(data)) + data
