"""Products of groups of rows in Triton: any groups, also none, whatever the host knows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from danlu.device.variants import TRITON
from danlu.lora.stack import MOST_STACKED
from danlu.ops.expert_products import EXPERT_LINEAR
from danlu.ops.grouped import GROUPED_LINEAR

SHARE = {torch.float32: 1e-5, torch.bfloat16: 0.01, torch.float16: 0.002}


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def check(x: Tensor, matrices: Tensor, ends: list[int]) -> None:
    where = torch.tensor(ends)
    found = GROUPED_LINEAR.variants[TRITON](x, matrices, where)
    expected = GROUPED_LINEAR.variants["reference"](x.float(), matrices.float(), where)
    assert (found.dtype, found.shape) == (x.dtype, expected.shape)
    if len(x):
        error = (found.float() - expected).abs().max()
        assert error <= SHARE[x.dtype] * expected.abs().max(), error


@pytest.mark.parametrize("dtype", SHARE, ids=str)
@pytest.mark.parametrize(
    "ends",
    [[7], [0, 0, 7], [7, 7, 7], [1, 2, 3, 4, 5, 6, 7], [0, 3, 3, 7], [2, 2, 2, 2, 5, 5, 6, 7, 7]],
    ids=str,
)
def test_any_groups(ends: list[int], dtype: torch.dtype) -> None:
    assert len(ends) <= 1 + MOST_STACKED
    x, matrices = numbers(7, 48).to(dtype), numbers(len(ends), 48, 40, seed=1).to(dtype)
    check(x, matrices, ends)


@pytest.mark.parametrize("ends", [[64, 64, 130], [1, 100, 130], [0, 130, 130]], ids=str)
def test_long_runs(ends: list[int]) -> None:
    check(numbers(130, 32).bfloat16(), numbers(3, 32, 16, seed=1).bfloat16(), ends)


@pytest.mark.parametrize(
    ("inputs", "outputs"), [(600, 8), (257, 48), (4, 200), (1, 1), (16, 65)], ids=str
)
def test_matrices_of_any_shape(inputs: int, outputs: int) -> None:
    check(numbers(5, inputs).bfloat16(), numbers(2, inputs, outputs, seed=1).bfloat16(), [3, 5])


def test_rows_with_gaps_and_none() -> None:
    wide = numbers(6, 100)
    matrices = numbers(2, 32, 24, seed=1)
    check(wide[:, 30:62], matrices, [4, 6])
    check(wide[:0, :32], matrices, [0, 0])


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # as intended
def test_a_group_with_what_is_not_finite_leaves_the_others_alone() -> None:
    x, matrices = numbers(6, 32), numbers(3, 32, 24, seed=1)
    expected = GROUPED_LINEAR.variants[TRITON](x, matrices, torch.tensor([2, 4, 6]))
    matrices[1], x[2] = torch.inf, torch.nan
    found = GROUPED_LINEAR.variants[TRITON](x, matrices, torch.tensor([2, 4, 6]))
    assert torch.equal(found[:2], expected[:2])
    assert torch.equal(found[4:], expected[4:])
    assert not found[2:4].isfinite().any()


@pytest.mark.parametrize("dtype", SHARE, ids=str)
@pytest.mark.parametrize(
    ("ends", "inputs", "outputs"),
    [
        ([0, 3, 3, 7], 96, 40),
        ([7, 7, 7], 300, 520),
        ([1, 2, 3], 520, 300),
        ([3, 3, 7], 520, 24),  # an adapter's A
        ([64, 64, 130], 64, 288),
        ([100, 100, 260], 300, 264),
        ([0, 0, 0], 64, 32),
    ],
    ids=str,
)
def test_experts_both_ways(ends: list[int], inputs: int, outputs: int, dtype: torch.dtype) -> None:
    """Few rows and many; matrices as the model has them, [E * out, in]."""
    where, rows = torch.tensor(ends, dtype=torch.int32), ends[-1]
    weight = numbers(len(ends) * outputs, inputs, seed=1).to(dtype)
    x, dy = numbers(rows, inputs).to(dtype), numbers(rows, outputs, seed=2).to(dtype)
    passes = EXPERT_LINEAR.variants[TRITON]
    expected = EXPERT_LINEAR.variants["reference"]
    for name, some in (("forward", x), ("input_gradient", dy)):
        found = getattr(passes, name)(some, weight, where)
        twin = getattr(expected, name)(some.float(), weight.float(), where.long())
        assert (found.dtype, found.shape) == (dtype, twin.shape)
        if rows:
            assert (found.float() - twin).abs().max() <= SHARE[dtype] * twin.abs().max()


def test_an_experts_row_alone_has_the_bits_it_has_among_others() -> None:
    """With few rows: an answer must not depend on who else asks."""
    weight = numbers(3 * 288, 96, seed=1).bfloat16()
    x = numbers(9, 96).bfloat16()
    forward = EXPERT_LINEAR.variants[TRITON].forward
    among = forward(x, weight, torch.tensor([2, 6, 9], dtype=torch.int32))
    alone = forward(x[4:5].contiguous(), weight, torch.tensor([0, 1, 1], dtype=torch.int32))
    assert torch.equal(alone[0], among[4])
