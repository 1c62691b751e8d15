"""Every kernel against its readable twin, in Triton's interpreter; and compiled for real cards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from danlu.device.variants import FLASH, GROUPED_MM, TRITON, preferred_variants
from danlu.ops import choice, expert_products
from danlu.ops.attention import ATTENTION
from danlu.ops.choice import _OPERATIONS, NotHere
from danlu.ops.expert_products import EXPERT_LINEAR
from danlu.ops.nvidia import late_import

CPU = torch.device("cpu")
WITH_KERNELS = {name: one for name, one in _OPERATIONS.items() if TRITON in one.variants}
ROOT = Path(__file__).resolve().parents[2]
# Of a block of threads on every card since Volta, without asking for more.
SHARED_BYTES = 99 * 1024


def _run_outside(module: str, *arguments: str) -> str:
    """Run a program outside of Triton's interpreter; return what it prints."""
    kept = {name: text for name, text in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=kept,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", WITH_KERNELS)
def test_the_probe_takes_it(name: str) -> None:
    assert WITH_KERNELS[name]._fault(TRITON, CPU) is None


@pytest.mark.soak
@pytest.mark.parametrize(
    "capability",
    [80, 89, 90, 100, 120],
    ids=["A100", "RTX 4090", "H100", "B200", "RTX 5090"],
)
def test_it_compiles_for(capability: int, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path))
        found = json.loads(_run_outside("tests.nvidia.compiling", str(capability)))
    assert found.keys() == WITH_KERNELS.keys()
    for kernels in found.values():
        assert all(one["bytes"] > 1000 and one["shared"] <= SHARED_BYTES for one in kernels)
    for name in ("int8_linear", "int4_linear"):
        loops = [one["loop"] for one in found[name] if one["kernel"] == "_rows_kernel"]
        # A thread has 128 weights at a time; the shortest loop is that of one row.
        assert 128 < min(loops) <= 3.5 * 128
    # There a loop that adds two products to a sum loses some of them (Triton up to 3.8).
    for name in ("int8_linear", "int4_linear", "expert_bits"):
        assert not any(one["tensor_memory"] for one in found[name])
    if capability == 100:
        assert any(one["tensor_memory"] for one in found["expert_linear"])


def test_no_length_or_adapter_makes_triton_compile_anew() -> None:
    """That takes seconds each time, in which a training or a server stands still."""
    found = json.loads(_run_outside("tests.nvidia.compiled_anew"))
    assert set(found["train"].items()) == {
        ("norm_kernels._norm_kernel", 1),
        ("norm_kernels._norm_back_kernel", 2),  # with and without the weight's gradient
        ("gating_kernels._swiglu_kernel", 1),
        ("gating_kernels._swiglu_back_kernel", 1),
        ("rotation_kernels._rotate_kernel", 1),
        ("rotation_kernels._rotate_back_kernel", 2),
        ("loss_kernels._forward_kernel", 1),
        ("loss_kernels._backward_kernel", 1),
    }
    assert set(found["prompts"].values()) == {1}
    assert set(found["choices"].values()) == {1}
    # A and B of few rows and of many; what has a norm before it is another kernel.
    assert found["adapters"] == {
        "grouped_kernels._row_kernel": 2,
        "grouped_kernels._grouped_kernel": 3,
        "row_kernels._row_kernel": 1,
    }
    # By bits; up to 8, 16, 32 and 64 rows; with more or fewer outputs than fill a card.
    assert found["few_bits"] == {
        "few_bits_kernels._rows_kernel": 2 * 4 * 2,
        "few_bits_kernels._add_kernel": 1,
    }


def test_cards_before_ampere_compute_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton compiles for some of them, but nobody has tried that; torch's own operations do."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    late_import._function.cache_clear()
    for operation in WITH_KERNELS.values():
        with pytest.raises(NotHere, match="from Ampere on"):
            operation._fault(TRITON, CPU)
    # Nor is it a fault that torch has no FlashAttention for them.
    with pytest.raises(NotHere, match="from Ampere on"):
        ATTENTION._fault(FLASH, CPU)


@pytest.mark.parametrize(
    ("capability", "taken"),
    [
        ((7, 0), "by_expert"),
        ((8, 0), TRITON),
        ((8, 9), TRITON),
        ((9, 0), GROUPED_MM),
        ((12, 0), TRITON),
    ],
    ids=["V100", "A100", "RTX 4090", "H100", "RTX 5090"],
)
def test_experts_are_multiplied_at_once_where_torch_has_a_kernel_for_it(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], taken: str
) -> None:
    """Elsewhere torch goes through all experts, those of which nobody has a row as well: ours."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(late_import, "require_triton", lambda: None)  # as on a card
    monkeypatch.setattr(choice, "preferred_variants", lambda _kind: preferred_variants("cuda"))
    found_before = (
        expert_products._require_grouped_kernels,
        expert_products._writes_what_was_there,
        late_import._function,
    )
    for function in found_before:
        function.cache_clear()
    try:
        assert EXPERT_LINEAR._choose(CPU) == (taken, [])
    finally:
        for function in found_before:
            function.cache_clear()


@pytest.mark.parametrize(("capability", "is_mended"), [((10, 0), True), ((9, 0), False)])
def test_an_expert_without_rows_has_no_gradient_on_a_b200(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], is_mended: bool
) -> None:
    """There torch leaves in its place what a sum began with, which may be anything."""
    multiply = torch._grouped_mm

    def like_a_b200(a: torch.Tensor, b: torch.Tensor, *, offs: torch.Tensor) -> torch.Tensor:
        out = multiply(a, b, offs=offs)
        if out.dim() == 3:  # one matrix for each group
            out[torch.diff(offs, prepend=offs.new_zeros(1)) == 0] = torch.nan
        return out

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch, "_grouped_mm", like_a_b200)
    expert_products._writes_what_was_there.cache_clear()
    try:
        assert (EXPERT_LINEAR._fault(GROUPED_MM, CPU) is None) == is_mended
    finally:
        expert_products._writes_what_was_there.cache_clear()


def test_which_cards_keep_sums_in_a_memory_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not late_import.has_tensor_memory()  # there is no card
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = {}
    for capability in ((8, 0), (9, 0), (10, 0), (10, 3), (11, 0), (12, 0)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda now=capability: now)
        found[capability] = late_import.has_tensor_memory()
    assert [capability for capability, has in found.items() if has] == [(10, 0), (10, 3), (11, 0)]
