"""fp8 operands in Triton: the twin's numbers bit by bit, any widths, strides, extreme values."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from danlu.device.variants import SCALED_MM
from danlu.ops import reference
from danlu.ops.choice import NotHere
from danlu.ops.frozen.fp8 import FP8_LINEAR
from danlu.ops.nvidia import late_import
from danlu.ops.nvidia.frozen import fp8_kernels

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[2]
# Compiles the kernel for a card that is not here; see compiling.py.
COMPILE = """
import sys, torch
from triton.runtime import driver
from triton.runtime.jit import JITFunction
from danlu.ops.nvidia.frozen import fp8_kernels
from tests.nvidia.compiling import AbsentCard
driver.set_active(AbsentCard(int(sys.argv[1])))
run = JITFunction.run
def only_compile(self, *arguments, grid, warmup, **named):
    kernel = run(self, *arguments, grid=grid, warmup=True, **named)
    print(len(kernel.asm["cubin"]), "e4m3x2" in kernel.asm["ptx"], kernel.metadata.shared)
    return kernel
JITFunction.run = only_compile
for width in (64, 4096, 24576):
    fp8_kernels.quantized_rows(torch.empty(2, width, dtype=torch.bfloat16))
"""


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def check(x: Tensor) -> None:
    found, expected = fp8_kernels.quantized_rows(x), reference.quantized_rows(x)
    for one, other in zip(found, expected, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        torch.testing.assert_close(one.float(), other.float(), rtol=0, atol=0, equal_nan=True)


def test_the_probe_takes_it() -> None:
    assert FP8_LINEAR._fault(SCALED_MM, CPU) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("size", [16, 48, 1000, 4096], ids=str)
def test_rows_are_rounded_as_the_twin_does(size: int, dtype: torch.dtype) -> None:
    check(numbers(5, size).to(dtype))


def test_gaps_and_other_orders() -> None:
    wide = numbers(6, 200).bfloat16()
    check(wide[:, 8:104])
    check(wide[::2, 8:104])
    check(wide.t())


def test_zeros_and_extreme_numbers() -> None:
    x = numbers(6, 64)
    x[0], x[1, 5], x[2] = 0.0, 3e38, x[2] * 1e-36
    x[3, 1] = torch.inf
    with np.errstate(invalid="ignore"):  # infinity times nothing, as is meant
        check(x)
    x[3, 1] = torch.nan
    values, _scales = fp8_kernels.quantized_rows(x)
    assert values[3, 1].float().isnan()


def test_no_rows() -> None:
    values, scales = reference.quantized_rows(numbers(32, 64))
    assert fp8_kernels.fp8_linear(numbers(0, 64).bfloat16(), values, scales).shape == (0, 32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rows", [1, 7, 33])
def test_products_are_the_twins(rows: int, dtype: torch.dtype) -> None:
    weight = reference.quantized_rows(numbers(48, 80))
    x = numbers(rows, 80, seed=1).to(dtype)
    found = fp8_kernels.fp8_linear(x, *weight)
    expected = reference.fp8_linear(x.float(), *weight)
    assert (found.dtype, found.shape) == (dtype, (rows, 48))
    assert (found.float() - expected).abs().max() <= 0.005 * expected.abs().max()


@pytest.mark.parametrize(
    "capability",
    [
        pytest.param(90, id="H100"),
        pytest.param(89, id="RTX 4090", marks=pytest.mark.soak),
        pytest.param(120, id="RTX 5090", marks=pytest.mark.soak),
    ],
)
def test_it_compiles_to_the_cards_own_rounding_for(capability: int, tmp_path: Path) -> None:
    kept = {name: text for name, text in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, str(capability)],
        cwd=ROOT,
        env={**kept, "TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    kernels = [line.split() for line in done.stdout.splitlines()]
    assert len(kernels) == 3
    for size, rounds, shared in kernels:
        assert (int(size) > 1000, rounds) == (True, "True")
        assert int(shared) <= 99 * 1024


@pytest.mark.parametrize("capability", [(8, 0), (8, 6), (7, 5)])
def test_cards_before_ada_have_none(
    capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    late_import._function.cache_clear()
    with pytest.raises(NotHere, match="from Ada on"):
        FP8_LINEAR._fault(SCALED_MM, CPU)
