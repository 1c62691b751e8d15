"""Which variant runs: the best that computes rightly; what is wrong is switched off and named."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from danlu import ops
from danlu.device.openmp import libgomp
from danlu.device.variants import REFERENCE, preferred_variants
from danlu.errors import EnvironmentFault, UsageError
from danlu.ops import choice
from danlu.ops.choice import NotHere, Operation
from danlu.ops.rms_norm import RMS_NORM
from danlu.ops.swiglu import SWIGLU, SwigluPasses

CPU = torch.device("cpu")


@pytest.fixture
def _untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Choose anew for this test, and forget it afterwards."""
    monkeypatch.delenv(choice.VARIABLE, raising=False)
    for operation in choice._OPERATIONS.values():
        monkeypatch.setattr(operation, "_chosen", {})
        monkeypatch.setattr(operation, "off", {})
        monkeypatch.setattr(operation, "variants", dict(operation.variants))


pytestmark = pytest.mark.usefixtures("_untouched")


def test_the_table_names_a_variant_of_every_operation() -> None:
    table = ops.ops_table(CPU)
    assert set(table.chosen) == set(preferred_variants("cpu")) == set(choice._OPERATIONS)
    assert table.off == ()
    for name, variant in table.chosen.items():
        assert variant in (*preferred_variants("cpu")[name], REFERENCE)
    # Without our library nothing is recorded or fused, and without bf16 products of its own a
    # processor has nothing to pack for; it has no fp8, is the host that chooses tokens, has no
    # kernel for a norm that adds, and multiplies one expert after the other.
    assert {n for n, v in table.chosen.items() if v == REFERENCE} <= {
        *("add_norm", "draw", "fp8_linear", "graph"),
        *("packed_linear", "packed_base"),
        *("fused_linear", "largest", "look_up", "expert_bits"),
    }


@pytest.mark.parametrize("kind", ["cpu", "cuda", "npu"])
def test_every_variant_that_is_preferred_exists(kind: str) -> None:
    for name, variants in preferred_variants(kind).items():
        assert set(variants) < set(choice._OPERATIONS[name].variants)


@pytest.mark.skipif(libgomp() is None, reason="this torch has another OpenMP than GNU's")
def test_a_thread_that_begins_during_a_trial_has_all_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It had one for good: torch.set_num_threads is heeded by whoever begins meanwhile."""
    trial, count = RMS_NORM._trial, torch.get_num_threads()
    alone, others = set(), set()

    def watched(*given: Any) -> Any:
        alone.add(torch.get_num_threads())
        beside = threading.Thread(target=lambda: others.add(torch.get_num_threads()))
        beside.start()
        beside.join()
        return trial(*given)

    monkeypatch.setattr(RMS_NORM, "_trial", watched)
    torch.set_num_threads(2)
    try:
        RMS_NORM.name_on(CPU)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(count)
    assert (alone, others) == ({1}, {2})


def only_torch(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let torch's variant be the only one that suits the CPU."""
    suiting = {**preferred_variants("cpu"), name: ("torch",)}
    monkeypatch.setattr(choice, "preferred_variants", lambda _kind: suiting)


def wrong_gradient(grad: Tensor, gate_up: Tensor) -> Tensor:
    return SWIGLU.variants["reference"].backward(grad, gate_up) * 1.2


def not_a_number(gate_up: Tensor) -> Tensor:
    return SWIGLU.variants["reference"].forward(gate_up) * torch.nan


def breaks(*_given: Any) -> Tensor:
    raise RuntimeError("no kernel for this card\nand more")


@pytest.mark.parametrize(
    ("passes", "reason"),
    [
        (
            lambda fine: SwigluPasses(fine.forward, wrong_gradient),
            "off by 0.2 of the largest in float32",
        ),
        (lambda fine: SwigluPasses(not_a_number, fine.backward), "off by nan"),
        (lambda fine: SwigluPasses(breaks, fine.backward), "RuntimeError: no kernel for this card"),
    ],
    ids=["gradient", "nan", "raises"],
)
def test_a_wrong_variant_is_switched_off_and_named(passes: Any, reason: str) -> None:
    wrong = passes(SWIGLU.variants["torch"])
    SWIGLU.variants |= {"native": wrong, "torch": wrong}
    table = ops.ops_table(CPU)
    assert table.chosen["swiglu"] == REFERENCE
    first, off = table.off
    assert first.startswith("swiglu=native: ")
    assert off.startswith("swiglu=torch: ")
    assert reason in off
    assert "and more" not in off
    assert any("swiglu=torch" in line for line in table.warn())
    # What is computed is right all the same.
    gate_up = torch.randn(3, 8)
    torch.testing.assert_close(ops.swiglu(gate_up), SWIGLU.variants[REFERENCE].forward(gate_up))


@pytest.mark.parametrize(("asked", "instead"), [("", "torch"), ("torch", REFERENCE)])
def test_one_that_breaks_the_device_ends_the_command_and_the_next_is_named(
    monkeypatch: pytest.MonkeyPatch, asked: str, instead: str
) -> None:
    broken = []

    def leaves_its_memory(*_given: Any) -> Tensor:
        broken.append(True)
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nand more")

    def ones(*_given: Any, **_named: Any) -> Tensor:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    ops.ops_table(CPU)
    SWIGLU._chosen.clear()
    wrong = SwigluPasses(leaves_its_memory, leaves_its_memory)
    SWIGLU.variants |= {"native": wrong, "torch": wrong}
    if asked:
        monkeypatch.setenv(choice.VARIABLE, f"swiglu={asked}")
    monkeypatch.setattr(torch, "ones", ones)
    with pytest.raises(EnvironmentFault) as fault:
        ops.ops_table(CPU)
    assert f"swiglu={asked or 'native'}" in str(fault.value)
    assert str(fault.value.why).endswith("an illegal memory access was encountered")
    assert fault.value.fix == f"export DANLU_OPS=swiglu={instead}"
    assert broken == [True]  # nothing else is tried on it


def test_an_optimizer_that_ignores_what_is_not_finite_is_switched_off() -> None:
    """As Ascend's fused AdamW does."""
    operation = choice._OPERATIONS["adamw"]
    right: Any = operation.variants["fused"]

    def careless(*given: Any) -> None:
        settings, vector, gradient, moments, _applied, *rest = given
        right(settings, vector, gradient, moments, torch.tensor(True), *rest)

    operation.variants["fused"] = careless
    table = ops.ops_table(CPU)
    assert table.chosen["adamw"] == "unfused"
    assert "adamw=fused" in table.off[0]


def test_what_a_device_does_not_have_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    only_torch(monkeypatch, "rms_norm")

    def trial(variant: str, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
        if variant != REFERENCE:
            raise NotHere("another processor's")
        return [torch.ones(1)]

    names = ("native", "torch", REFERENCE)
    operation = Operation("rms_norm", dict(zip(names, names, strict=True)), trial)
    try:
        assert operation.name_on(CPU) == REFERENCE
        assert operation.off["cpu"] == []
    finally:
        choice._OPERATIONS["rms_norm"] = RMS_NORM  # type: ignore[assignment]


def test_variants_are_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(choice.VARIABLE, " rms_norm=reference, adamw=unfused,")
    table = ops.ops_table(CPU)
    assert (table.chosen["rms_norm"], table.chosen["adamw"]) == (REFERENCE, "unfused")
    assert RMS_NORM.on(CPU) is RMS_NORM.variants[REFERENCE]
    assert table.as_text.startswith("accumulate=in_pieces,adamw=unfused,")


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("rms_nrom=reference", "accumulate, adamw"),
        ("rms_norm=fast", "native, reference, torch"),
        ("rms_norm", "native, reference, torch"),
    ],
)
def test_names_that_there_are_not_are_refused(
    text: str, known: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(choice.VARIABLE, text)
    with pytest.raises(UsageError) as refused:
        ops.ops_table(CPU)
    assert text in refused.value.what
    assert known in refused.value.why
    # What it proposes is taken.
    monkeypatch.setenv(choice.VARIABLE, refused.value.fix.partition("=")[2])
    ops.ops_table(CPU)


def test_a_variant_that_computes_wrongly_is_not_taken_on_demand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    SWIGLU.variants["torch"] = SwigluPasses(not_a_number, wrong_gradient)
    monkeypatch.setenv(choice.VARIABLE, "swiglu=torch")
    with pytest.raises(EnvironmentFault, match="swiglu=torch"):
        ops.ops_table(CPU)


@pytest.mark.parametrize(
    ("recorded", "others"),
    [
        ({}, ()),
        ({"adamw": "fused", "gone": "x"}, ()),
        ({"adamw": "unfused"}, ()),
        ({"adamw": "of_another_version"}, ("adamw: of_another_version -> fused",)),
    ],
)
def test_a_run_goes_on_with_what_it_has_recorded(
    recorded: Mapping[str, str], others: tuple[str, ...]
) -> None:
    assert ops.take_variants(CPU, recorded) == others
    usual = "fused" if others else recorded.get("adamw", "fused")
    assert ops.ops_table(CPU).chosen["adamw"] == usual


def test_a_wish_goes_before_what_was_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(choice.VARIABLE, "adamw=fused")
    assert ops.take_variants(CPU, {"adamw": "unfused"}) == ("adamw: unfused -> fused",)


def test_a_choice_may_come_first_without_gradients() -> None:
    with torch.inference_mode():
        table = ops.ops_table(CPU)
    assert table.off == ()
    q = torch.randn(3, 8, requires_grad=True)
    ops.swiglu(q).sum().backward()
    assert q.grad is not None
