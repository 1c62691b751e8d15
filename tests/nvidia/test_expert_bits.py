"""Experts' products with int8 and int4 in Triton: any shapes, experts without rows, neighbours."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from danlu.device.variants import TRITON
from danlu.ops import reference
from danlu.ops.frozen.expert_bits import EXPERT_BITS
from danlu.ops.frozen.quantized import quantized_in, whole_floats
from danlu.ops.nvidia.frozen import expert_bits_kernels, few_bits_kernels

SHARE = {torch.bfloat16: 0.01, torch.float16: 0.002}
FORMS = pytest.mark.parametrize("name", ["int8", "int4"])


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def products(name: str, x: Tensor, weight: Tensor, ends: list[int]) -> tuple[Tensor, Tensor]:
    """Return the kernel's, and what floats of the same numbers give."""
    bits, where = EXPERT_BITS.variants[TRITON][name], torch.tensor(ends, dtype=torch.int32)
    stored = quantized_in(bits.form, weight.to(x.dtype))
    floats = whole_floats(bits.form.floats, stored, *weight.shape, torch.float32)
    expected = reference.expert_linear(x.float(), floats, where.long())
    return bits.linear(x, *stored, where), expected


def check(name: str, x: Tensor, weight: Tensor, ends: list[int]) -> None:
    found, expected = products(name, x, weight, ends)
    assert (found.dtype, found.shape) == (x.dtype, expected.shape)
    error = (found.float() - expected).abs().max()
    assert error <= SHARE[x.dtype] * expected.abs().max(), error


@FORMS
@pytest.mark.parametrize("dtype", SHARE, ids=str)
@pytest.mark.parametrize("ends", [[7], [0, 0, 7], [7, 7, 7], [0, 3, 3, 7]], ids=str)
def test_any_groups(name: str, ends: list[int], dtype: torch.dtype) -> None:
    check(name, numbers(7, 64).to(dtype), numbers(len(ends) * 40, 64, seed=1), ends)


@FORMS
@pytest.mark.parametrize(
    ("inputs", "outputs"), [(32, 64), (160, 65), (288, 8), (256, 130)], ids=str
)
def test_matrices_of_any_shape(name: str, inputs: int, outputs: int) -> None:
    check(name, numbers(5, inputs).bfloat16(), numbers(2 * outputs, inputs, seed=1), [3, 5])


@FORMS
def test_many_rows(name: str) -> None:
    check(name, numbers(130, 64).bfloat16(), numbers(3 * 24, 64, seed=1), [64, 64, 130])


@FORMS
def test_many_rows_on_a_b200(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """There a tile has fewer outputs; see `test_few_bits`."""
    tiles = []
    launch = expert_bits_kernels._expert_kernel

    class Watched:
        def __getitem__(self, grid: tuple[int, int]) -> object:
            tiles.append(grid[1])
            return launch[grid]

    monkeypatch.setattr(expert_bits_kernels, "_expert_kernel", Watched())
    monkeypatch.setattr(few_bits_kernels, "has_tensor_memory", lambda: True)
    check(name, numbers(130, 64).bfloat16(), numbers(3 * 64, 64, seed=1), [64, 64, 130])
    assert tiles == [64 // 32]


@FORMS
def test_numbers_of_32_bits_are_left_to_floats(name: str) -> None:
    takes = EXPERT_BITS.variants[TRITON][name].takes
    assert [takes(dtype, 64) for dtype in (torch.float32, *SHARE)] == [False, True, True]


@FORMS
def test_rows_with_gaps(name: str) -> None:
    check(name, numbers(6, 200).half()[:, 30:94], numbers(2 * 16, 64, seed=1), [4, 6])


@FORMS
def test_a_row_alone_has_the_bits_it_has_among_others(name: str) -> None:
    x, weight = numbers(9, 96).bfloat16(), numbers(3 * 40, 96, seed=1)
    among, _floats = products(name, x, weight, [2, 6, 9])
    alone, _floats = products(name, x[4:5].contiguous(), weight, [0, 1, 1])
    assert torch.equal(alone[0], among[4])


@FORMS
@pytest.mark.filterwarnings("ignore:invalid value encountered")  # as intended
def test_what_is_not_finite_stays_with_its_expert(name: str) -> None:
    x, weight = numbers(6, 32).bfloat16(), numbers(3 * 24, 32, seed=1)
    expected, _floats = products(name, x, weight, [2, 4, 6])
    x[2] = torch.nan
    found, _floats = products(name, x, weight, [2, 4, 6])
    assert torch.equal(found[[0, 1, 3, 4, 5]], expected[[0, 1, 3, 4, 5]])
    assert not found[2].isfinite().any()


def test_no_more_programs_than_rows_and_experts_can_want() -> None:
    for rows, size, blocks in ((8, 16, 8), (64, 16, 64), (4096, 64, 64 + 127)):
        (found, *_tile), programs = expert_bits_kernels.blocks_of(rows, 128)
        assert (found, programs) == (size, blocks)
