"""Choosing tokens in Triton: the twin's, whatever the rows, the vocabulary's size and the dtype."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from danlu.device.variants import TRITON
from danlu.ops.nvidia import drawing_kernels
from danlu.ops.sampling.draw import DRAW, Draw

KERNELS, TWIN = DRAW.variants[TRITON], DRAW.variants["reference"]
ROWS = [
    Draw(),
    Draw(0.6, 20, 0.95, 0.0, 0.4),
    Draw(1.0, 64, 1.0, 0.0, 0.9),
    Draw(2.0, 64, 0.5, 0.0, 0.999),
    Draw(1.0, 1, 1.0, 0.0, 0.6),
    Draw(0.7, 33, 0.9, 0.2, 0.0),
    Draw(1.0, 20, 0.01, 0.0, 0.5),
]


def numbers(rows: int, size: int, dtype: torch.dtype, scale: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(size)
    return (torch.randn(rows, size, generator=generator) * scale).bfloat16().to(dtype)


def check(logits: Tensor, rows: list[Draw]) -> None:
    asked = torch.tensor(rows).reshape(-1, len(Draw._fields)).t().contiguous()
    found, expected = KERNELS(logits, asked), TWIN(logits, asked)
    assert (found.dtype, found.shape) == (torch.int32, expected.shape)
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("size", [1, 5, 64, 65, 346, 1000])
def test_any_size(size: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing_kernels, "_CHUNK", 256)  # 1,000 are four of them
    check(numbers(len(ROWS), size, dtype), ROWS)


def test_several_chunks_as_they_are() -> None:
    check(numbers(2, 2 * 8192 + 7, torch.bfloat16), ROWS[:2])


def test_rows_with_gaps_and_none() -> None:
    check(numbers(2, 700, torch.bfloat16)[:, :300], ROWS[1:3])
    check(numbers(2, 300, torch.bfloat16)[:0], [])


def test_many_alike_are_those_with_the_first_ids() -> None:
    """More tie with the last of top-k than are looked at."""
    logits = torch.zeros(3, 500)
    logits[:, 300] = 1.0
    rows = [Draw(1.0, 2, 1.0, 0.0, chance) for chance in (0.0, 0.5, 0.9999)]
    ids = KERNELS(logits, torch.tensor(rows).t().contiguous())[0].tolist()
    assert ids[0] == 0
    assert ids[2] == 300
    assert 0 < ids[1] < 63


def test_a_zero_is_a_zero() -> None:
    logits = torch.tensor([[-0.0, 0.0, -1.0, 0.0, -0.0]])
    check(logits, [Draw(1.0, 1, 1.0, 0.0, 0.1)])
    check(logits, [Draw(1.0, 1, 1.0, 0.0, 0.9)])
    check(logits, [Draw()])


@pytest.mark.filterwarnings("ignore:invalid value encountered", "ignore:All-NaN")  # as intended
@pytest.mark.parametrize("fault", [torch.nan, torch.inf, -torch.nan])
def test_what_is_not_finite_is_named(fault: float) -> None:
    logits = numbers(4, 300, torch.bfloat16)
    logits[1, 250], logits[2] = fault, fault
    for wanted in ROWS[:2]:
        asked = torch.tensor([wanted] * 4).t().contiguous()
        ids, is_finite = KERNELS(logits, asked)
        assert is_finite.tolist() == [1, 0, 0, 1]
        assert all(0 <= token < 300 for token in ids.tolist())
        expected = TWIN(logits, asked)[0]
        assert ids[[0, 3]].tolist() == expected[[0, 3]].tolist()
    nothing = torch.full((1, 300), -torch.inf)
    assert KERNELS(nothing, torch.tensor([ROWS[1]]).t().contiguous())[1].tolist() == [0]
