"""Weights in fewer bits as data: what they take, and how many are floats again at a time.

No torch here: `ops/frozen` holds the forms themselves; planning reads from here what a device that
is not at hand would keep.
"""

from __future__ import annotations

from danlu.device.variants import NATIVE, preferred_variants

# Inputs that share a scale, in int4 a zero as well.
INT4_GROUP, NF4_GROUP = 32, 64
# What the C++ kernels have (native/kernels.h): groups in int8, too, and scales in bf16 always.
_NATIVE_GROUP, _NATIVE_TILE, _NATIVE_SCALE = 32, 32, 2
# Numbers that are floats again at a time in a product: 8 MB in bf16, and 128 MB on an accelerator,
# which would start many small products otherwise.
PIECE, LARGE_PIECE = 1 << 22, 1 << 26


def piece_numbers(kind: str) -> int:
    """Return how many numbers of a weight are floats again at a time on a kind of device."""
    return PIECE if kind == "cpu" else LARGE_PIECE


def quantized_at_once(kind: str) -> int:
    """Return how many numbers of a weight are quantised at a time on a kind of device.

    On a CPU what that takes is small, and one place in the heap does; accelerators would start
    millions of small operations for a large model.
    """
    return 1 << 17 if kind == "cpu" else PIECE


def floats_bytes(form: str, numbers: int, *, kind: str, number_bytes: int) -> int:
    """Return what a matrix of so many numbers takes at most while a piece of it becomes floats."""
    if form == "int4" and kind == "npu":  # words of 32 bits for each number, twice
        return min(numbers, PIECE) * 10
    # nf4's levels are looked up by whole numbers, one for two weights.
    making = 2 if form == "nf4" else 0
    return min(numbers, piece_numbers(kind)) * (number_bytes + making)


def matrix_bytes(form: str, outputs: int, inputs: int, *, kind: str, number_bytes: int) -> int:
    """Return the bytes of a matrix in int8, int4, nf4 or fp8, as a kind of device usually has it.

    number_bytes: of the numbers that are computed with; scales have as many.
    """
    numbers = outputs * inputs
    if form == "fp8":  # twice, once for either direction, with scales in fp32
        return 2 * numbers + 4 * (outputs + inputs)
    if form == "nf4":
        return numbers // 2 + number_bytes * (numbers // NF4_GROUP)
    is_native = NATIVE in preferred_variants(kind)[f"{form}_linear"]
    if is_native:
        outputs = -(-outputs // _NATIVE_TILE) * _NATIVE_TILE
        numbers, number_bytes = outputs * inputs, _NATIVE_SCALE
    if form == "int4":
        return numbers // 2 + 2 * number_bytes * (numbers // INT4_GROUP)
    groups = -(-inputs // _NATIVE_GROUP) if is_native else 1
    return numbers + number_bytes * outputs * groups
