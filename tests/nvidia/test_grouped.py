"""Products of groups of rows in Triton: any groups, also none, whatever the host knows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from danlu.device.variants import TRITON
from danlu.lora.stack import MOST_STACKED
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
