"""int8 and int4 weights of the C++ kernels, on every instruction set of this machine."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from danlu.ops import QuantizedWeight, reference
from danlu.ops.choice import NotHere
from danlu.ops.frozen.int4 import INT4_LINEAR
from danlu.ops.frozen.quantized import multiplied, quantized_in
from danlu.ops.native import native_bits, native_linear
from danlu.ops.native.library import FILE, Library
from danlu.ops.native.native_bits import NATIVE_INT4, NATIVE_INT8
from danlu.ops.native.native_linear import NATIVE_LINEAR
from tests.helpers.models.few_bits import OPERATIONS, floats_of
from tests.helpers.models.instruction_sets import INSTRUCTION_SETS
from tests.helpers.models.native import needs_library

pytestmark = needs_library
FORMS = {8: NATIVE_INT8, 4: NATIVE_INT4}
both_bits = pytest.mark.parametrize("bits", [8, 4])


def taken(name: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute with an instruction set from now on; skips where this processor has none."""
    place.mkdir(exist_ok=True)
    # The choice belongs to a loaded file.
    try:
        library = Library(Path(shutil.copy(FILE, place / f"{name}.so")), name)
    except NotHere as reason:
        pytest.skip(str(reason))
    for module in (native_linear, native_bits):
        monkeypatch.setattr(module, "library", lambda: library)


@pytest.fixture(params=INSTRUCTION_SETS)
def isa(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    taken(request.param, tmp_path, monkeypatch)
    return str(request.param)


def numbers(*size: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(size, generator=generator) * scale).bfloat16()


def check(bits: int, x: Tensor, weight: Tensor) -> None:
    """A product is that of the floats that the weight holds."""
    form = FORMS[bits]
    stored = quantized_in(form, weight)
    floats = floats_of(form, stored)[: len(weight), : weight.shape[1]]
    found = multiplied(form, x, *stored)[:, : len(weight)]
    expected = x.double() @ floats.double().t()
    share = 2**-8 if x.dtype == torch.bfloat16 else 1e-4
    most = expected.abs().max().item() if len(x) else 0.0
    assert (found.dtype, found.shape) == (x.dtype, expected.shape)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=share * most + 1e-36)


def plain_floats(bits: int, values: Tensor, scales: Tensor) -> Tensor:
    """What the words stand for (native/kernels.h), one place of them after the other."""
    count = 32 // bits
    places = [bits * (i // 2) + 16 * (i % 2) for i in range(count)]
    levels = torch.stack([values >> place & 2**bits - 1 for place in places], dim=2)
    levels = levels.flatten(1, 2).float()  # [tiles, in, TILE]
    of_groups = scales.float().repeat_interleave(32, dim=1)[:, : levels.shape[1]]
    if bits == 8:
        weight = torch.where(levels > 127, levels - 256, levels) * of_groups
    else:
        weight = (levels - 8) * of_groups[..., 0] + of_groups[..., 1]
    return weight.transpose(1, 2).flatten(0, 1)


@both_bits
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_floats_are_what_the_words_stand_for(isa: str, bits: int, dtype: torch.dtype) -> None:
    for outputs, inputs in ((70, 96), (31, 64), (200, 96 if bits == 4 else 30)):
        stored = quantized_in(FORMS[bits], numbers(outputs, inputs))
        found = torch.cat([weight for _rows, weight in FORMS[bits].floats(*stored, dtype)])
        assert found.dtype == dtype
        expected = plain_floats(bits, *stored)
        share = {torch.float32: 2e-6, torch.bfloat16: 2**-8, torch.float16: 2**-10}[dtype]
        torch.testing.assert_close(found.float(), expected, rtol=share, atol=2e-6)


@both_bits
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_many_rows_of_a_training_are_multiplied_alike(bits: int, dtype: torch.dtype) -> None:
    like = numbers(70, 96).to(dtype)
    name: Literal["int8", "int4"] = "int8" if bits == 8 else "int4"
    weight = QuantizedWeight(like, name, torch.device("cpu"), below_adapter=True)
    weight.fill(like)
    floats = floats_of(FORMS[bits], (weight.values, weight.scales))[:70]
    for rows in (native_bits.MANY_ROWS - 1, native_bits.MANY_ROWS):
        x = numbers(rows, 96, seed=1).to(dtype)
        expected = x.double() @ floats.double().t()
        share = 1e-4 if dtype == torch.float32 else 2**-7  # weights are rounded, too
        found = weight(x)
        assert found.dtype == dtype
        most = expected.abs().max().item()
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=share * most)


@both_bits
@pytest.mark.parametrize("outputs", [1, 31, 32, 33, 200])
def test_any_number_of_rows_and_outputs(isa: str, bits: int, outputs: int) -> None:
    for rows in (0, 1, 2, 3, 4, 5, 11, 12, 13, 24, 40):
        check(bits, numbers(rows, 96), numbers(outputs, 96, seed=1))
        check(bits, numbers(rows, 96).float(), numbers(outputs, 96, seed=1))


@both_bits
def test_any_number_of_inputs(isa: str, bits: int) -> None:
    widths = (32, 64, 1024) if bits == 4 else (1, 2, 3, 4, 30, 31, 33, 62, 96, 98, 1023)
    for inputs in widths:
        check(bits, numbers(3, inputs), numbers(40, inputs, seed=1))
        check(bits, numbers(3, inputs), numbers(40, inputs, seed=1).float())


@both_bits
@pytest.mark.parametrize("scale", [0.0, 1e-39, 1e-30, 1e6, 1e30])
def test_rows_and_weights_of_nothing_and_of_extreme_numbers(
    isa: str, bits: int, scale: float
) -> None:
    check(bits, numbers(3, 96, scale=scale), numbers(40, 96, seed=1))
    check(bits, numbers(3, 96), numbers(40, 96, seed=1, scale=scale))


@both_bits
@pytest.mark.parametrize("value", [0.0, 1.5, -2.0, 300.0])
def test_weights_that_are_all_alike(isa: str, bits: int, value: float) -> None:
    form, weight = FORMS[bits], torch.full((40, 96), value).bfloat16()
    assert torch.allclose(
        floats_of(form, quantized_in(form, weight))[:40], weight.float(), rtol=4e-3
    )
    check(bits, numbers(3, 96), weight)


@both_bits
def test_what_is_not_a_number_stays_in_its_row(isa: str, bits: int) -> None:
    x, stored = numbers(16, 96), quantized_in(FORMS[bits], numbers(40, 96, seed=1))
    plain = multiplied(FORMS[bits], x, *stored)
    x[1, 7], x[13, 95] = torch.nan, torch.inf
    found = multiplied(FORMS[bits], x, *stored)
    assert found[[1, 13], :40].isnan().all()
    others = [row for row in range(16) if row not in (1, 13)]
    assert torch.equal(found[others], plain[others])


@both_bits
def test_a_rows_sum_does_not_depend_on_the_others(isa: str, bits: int) -> None:
    form, x = FORMS[bits], numbers(40, 256)
    stored = quantized_in(form, numbers(70, 256, seed=1))
    together = multiplied(form, x, *stored)
    for count in range(1, 40):
        assert torch.equal(multiplied(form, x[:count], *stored), together[:count])


@both_bits
def test_outliers_in_a_row_leave_the_other_groups_as_exact_as_they_were(
    isa: str, bits: int
) -> None:
    """A number of 1,000 times the size; half of the outputs have zeros for it."""
    x, weight = numbers(2, 96), numbers(64, 96, seed=1)
    x[:, 40] = 1000.0
    weight[:32, 32:64] = 0.0
    form = FORMS[bits]
    stored = quantized_in(form, weight)
    floats = floats_of(form, stored).double()
    found = multiplied(form, x, *stored).double()[:, :32]
    expected = x.double() @ floats[:32].t()
    assert (found - expected).abs().max() <= 2**-8 * expected.abs().max()


PARTS = (
    {"norm": True},
    {"residual": True},
    {"gated": True, "residual": True},
    {"norm": True, "ends": [1, 1, 5]},
    {"gated": True, "residual": True, "ends": [0, 5]},
)


@both_bits
@pytest.mark.parametrize("parts", PARTS, ids=str)
def test_what_precedes_a_product_and_what_is_added(
    isa: str, bits: int, parts: dict[str, Any]
) -> None:
    weight = QuantizedWeight(numbers(40, 96), "int8" if bits == 8 else "int4", torch.device("cpu"))
    weight.form = FORMS[bits]
    weight.values, weight.scales = quantized_in(weight.form, numbers(40, 96, seed=1))
    assert NATIVE_LINEAR.takes(5, weight)
    gated, ends = parts.get("gated", False), parts.get("ends")
    norm = numbers(96, seed=2) if parts.get("norm") else None
    residual = numbers(5, 40, seed=3) if parts.get("residual") else None
    pair = None
    if ends is not None:
        a, b = numbers(len(ends), 96, 12, seed=4), numbers(len(ends), 12, 40, seed=5)
        pair = a, b, torch.tensor(ends)
    x = numbers(5, 192 if gated else 96)
    found = NATIVE_LINEAR.linear(x, weight, norm, 1e-6, gated, residual, pair)

    def wide(part: Tensor | None) -> Tensor | None:
        return None if part is None else part.float()

    floats = floats_of(weight.form, (weight.values, weight.scales))[:40]
    wide_pair = pair and (pair[0].float(), pair[1].float(), pair[2])
    expected = reference.fused_linear(
        x.float(), floats, wide(norm), 1e-6, gated, wide(residual), wide_pair
    )
    assert (found.float() - expected).abs().max() <= 0.02 * expected.abs().max()


def test_what_the_kernels_do_not_take_multiplies_by_itself() -> None:
    cpu = torch.device("cpu")
    odd = QuantizedWeight(numbers(40, 98), "int8", cpu)
    wide = QuantizedWeight(numbers(40, 96).float(), "int4", cpu)
    assert not NATIVE_LINEAR.takes(1, odd)
    assert not NATIVE_LINEAR.takes(1, wide)
    odd.fill(numbers(40, 98))
    assert odd(numbers(2, 98)).shape == (2, 40)


@both_bits
def test_every_instruction_set_finds_the_same(
    bits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for name in INSTRUCTION_SETS:
        with monkeypatch.context() as patch:
            try:
                taken(name, tmp_path, patch)
            except pytest.skip.Exception:
                continue
            stored = quantized_in(FORMS[bits], numbers(70, 256, seed=1))
            found.append((*stored, multiplied(FORMS[bits], numbers(5, 256), *stored)))
    for one in found:
        assert all(torch.equal(a, b) for a, b in zip(one, found[0], strict=True))


def test_int8_has_the_nearest_level_of_each_group(isa: str) -> None:
    weight = numbers(70, 128)
    groups = weight.float().unflatten(1, (-1, 32))
    scales = (groups.abs().amax(2, keepdim=True) / 127).bfloat16().float()
    expected = (groups / scales).round().clamp(-127, 127) * scales
    found = floats_of(NATIVE_INT8, quantized_in(NATIVE_INT8, weight))[:70]
    assert torch.equal(found, expected.flatten(1))


def test_int4_has_less_error_than_levels_over_the_whole_range(isa: str) -> None:
    weight = numbers(100, 256)
    weight[:, ::50] *= 8
    errors = []
    for form in (NATIVE_INT4, INT4_LINEAR.variants["reference"]):
        off = floats_of(form, quantized_in(form, weight))[:100] - weight.float()
        errors.append(off.unflatten(1, (-1, 32)).square().sum(2))
    # A little more where rounding scale and zero to bf16 hits the one and not the other.
    assert (errors[0] <= errors[1] * 1.1).all()
    assert errors[0].sum() < 0.9 * errors[1].sum()


def test_both_forms_are_the_ones_chosen_here() -> None:
    assert {OPERATIONS[bits].name_on(torch.device("cpu")) for bits in (8, 4)} == {"native"}
