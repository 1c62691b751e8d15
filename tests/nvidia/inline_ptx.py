"""Runs the few PTX instructions that danlu's kernels contain, for Triton's interpreter, on numpy.

As "Parallel Thread Execution ISA" (NVIDIA, 9.0) defines them: `mov` also packs and unpacks halves;
`lop3` takes each result bit from a table by three bits; `prmt` picks bytes by the nibbles of a
selector; `fma.rn` of packed halves rounds once. Anything else is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

Words = np.ndarray[Any, np.dtype[np.uint32]]
FLOATS = {"bf16x2": torch.bfloat16, "f16x2": torch.float16}


def run(text: str, constraints: str, inputs: Sequence[Words]) -> list[Words]:
    """Return the outputs of the instructions, which the first operands are, as whole numbers."""
    outputs = sum(each.startswith("=") for each in constraints.split(","))
    registers = {f"${outputs + number}": some for number, some in enumerate(inputs)}
    for line in text.strip().strip("{}").split(";"):
        statement = line.strip()
        if statement and not statement.startswith(".reg"):
            name, rest = statement.split(maxsplit=1)
            packs = re.fullmatch(r"\{(.+?), *(.+?)\}, *(\S+)", rest)
            if name == "mov.b32" and packs:
                low, high, word = packs.groups()
                value = _value(word, registers)
                registers[low], registers[high] = value & 0xFFFF, value >> 16
                continue
            target, *operands = (part.strip() for part in rest.split(","))
            registers[target] = _compute(name, [_value(each, registers) for each in operands])
    return [registers[f"${number}"] for number in range(outputs)]


def _value(operand: str, registers: dict[str, Words]) -> Words:
    if operand.startswith("0x"):
        return np.asarray(int(operand, 16), dtype=np.uint32)
    return registers[operand]  # one that nothing was written into is a KeyError


def _compute(name: str, operands: list[Words]) -> Words:
    if name == "mov.b32":
        return operands[0]
    if name == "lop3.b32":
        return _lop3(*operands)
    if name == "prmt.b32":
        return _prmt(*operands)
    if name.startswith("fma.rn."):
        return _fma(FLOATS[name.removeprefix("fma.rn.")], operands)
    raise NotImplementedError(name)


def _lop3(a: Words, b: Words, c: Words, table: Words) -> Words:
    total = np.zeros(np.broadcast_shapes(a.shape, b.shape, c.shape), np.uint32)
    for case in range(8):
        if int(table) >> case & 1:
            bits = (case >> 2 & 1, case >> 1 & 1, case & 1)
            total |= np.bitwise_and.reduce(
                [
                    np.broadcast_to(some if bit else ~some, total.shape)
                    for some, bit in zip((a, b, c), bits, strict=True)
                ]
            )
    return total


def _prmt(a: Words, b: Words, selector: Words) -> Words:
    both = [some >> 8 * byte & 0xFF for some in (a, b) for byte in range(4)]
    picks = [int(selector) >> 4 * place & 0xF for place in range(4)]
    if any(pick > 7 for pick in picks):
        raise NotImplementedError("prmt with signs")
    parts = [both[pick] << 8 * place for place, pick in enumerate(picks)]
    return np.bitwise_or.reduce([part.astype(np.uint32) for part in parts])


def _fma(dtype: torch.dtype, operands: list[Words]) -> Words:
    def half(some: Words, upper: bool) -> torch.Tensor:
        bits = (some >> 16 if upper else some & 0xFFFF).astype(np.uint16).view(np.int16)
        return torch.from_numpy(np.atleast_1d(bits).copy()).view(dtype).double()

    def rounded(upper: bool) -> Words:
        a, b, c = (half(some, upper) for some in operands)
        # A product of two halves is exact in 53 bits, and so is the sum but for far apart numbers.
        bits = (a * b + c).to(dtype).view(torch.int16).numpy().view(np.uint16)
        return bits.astype(np.uint32)

    return rounded(upper=False) | rounded(upper=True) << 16


class _Results:
    def __init__(self, results: list[Any]) -> None:
        self._results = results

    def get_result(self, number: int) -> Any:
        return self._results[number]


def create_inline_asm(interpreter: Any) -> Callable[..., _Results]:
    """Return what stands in for the method of Triton's interpreter, which refuses such texts."""

    def create(
        _self: Any, text: str, constraints: str, values: Any, types: Any, _pure: bool, pack: int
    ) -> _Results:
        assert pack == 1, "a call for each number"
        inputs = [value.data.astype(np.int32).view(np.uint32) for value in values]
        found = run(text, constraints, inputs)
        shape = np.broadcast_shapes(*(some.shape for some in inputs))
        results = []
        for bits, kind in zip(found, types, strict=True):
            scalar = getattr(kind, "element_ty", kind)
            assert scalar.primitive_bitwidth == 16, "halves of 32 bits"
            halves = np.broadcast_to(bits, shape).astype(np.uint16).view(np.int16)
            results.append(interpreter.TensorHandle(halves, scalar))
        return _Results(results)

    return create
