"""The self-test on the simulated card, with the kernels that a card would compute with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from danlu.doctor import selftest
from danlu.doctor.selftest import SelfTest
from tests.sim import formulas


def test_it_proves_the_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fused: None) -> None:
    monkeypatch.setenv("DANLU_HOME", str(tmp_path))
    test = SelfTest("npu")
    # The simulated one has a name of its own; what others measured is told of cards that are known.
    test.device = replace(test.device, description="Ascend910B3")
    checks = list(test.run())
    assert not [check for check in checks if check.state == "red"]
    right = {check.name for check in checks if check.found.startswith("ascend: right, ")}
    assert right == {
        *(
            "attention",
            "cache",
            "draw",
            "expert_bits",
            "expert_linear",
            "graph",
            "grouped_linear",
            "int4_linear",
            "int8_linear",
        ),
        *("add_norm", "low_rank", "rms_norm", "rotated_qkv", "swiglu"),
    }
    assert {"training", "resuming", "answering", "integrity"} <= {check.name for check in checks}
    assert any("vllm-ascend" in check.found for check in checks if check.name == "published")


def test_a_kernel_that_drifts_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fused: None
) -> None:
    right = formulas.COMPUTES["npu_rotary_mul"]
    monkeypatch.setitem(formulas.COMPUTES, "npu_rotary_mul", lambda **named: right(**named) + 1)
    monkeypatch.setenv("DANLU_HOME", str(tmp_path))
    monkeypatch.setattr(selftest, "_PARTS", (selftest._operations,))
    (found,) = [
        check
        for check in SelfTest("npu").run()
        if check.name == "rotated_qkv" and check.state == "hint"
    ]
    assert found.found.startswith("ascend is switched off: its numbers are off by ")
