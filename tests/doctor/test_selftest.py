"""The self-test, whole on the CPU, and what it says of an operation or a training that is wrong."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import Tensor

from danlu.cli.main import main
from danlu.doctor import selftest
from danlu.doctor.selftest import SelfTest, _operations, _own_home, _resuming
from danlu.files import committed
from danlu.ops.choice import _OPERATIONS
from danlu.ops.swiglu import SWIGLU, SwigluPasses
from danlu.runs.registry import registered_folders


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DANLU_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_it_proves_this_machine_within_a_minute(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = time.monotonic()
    code = main(["doctor", "--selftest", "--device", "cpu"])
    # 11 s alone on two cores; tests beside it may take both of them.
    assert time.monotonic() - begun < 60 * (2 if "PYTEST_XDIST_WORKER" in os.environ else 1)
    printed = capsys.readouterr().out
    assert code == (3 if " ✗ " in printed else 0)
    tested = printed.partition("Self-test, with the starter model:")[2]
    assert " ✗ " not in tested, tested
    assert {name for name in _OPERATIONS if name in tested} == _OPERATIONS.keys() - {
        # accelerators only
        *("add_norm", "draw", "expert_bits", "fp8_linear"),
    }
    assert "steps 6 to 10 again: the same losses to the last bit" in tested
    assert "a changed bit is found" in tested
    report = (home / "selftest.md").read_text(encoding="utf-8")
    assert report.count("| green | training | 10 steps in ") == 1
    assert registered_folders() == []


def test_as_json_it_is_english(home: Path, capsys: pytest.CaptureFixture[str],
                               monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setenv("DANLU_LANG", "zh")
    monkeypatch.setattr(selftest, "_PARTS", (_operations,))
    main(["doctor", "--selftest", "--device", "cpu", "--json"])
    record = json.loads(capsys.readouterr().out)
    checks = [check for check in record["checks"] if check["name"] == "swiglu"]
    assert any("torch: right, " in check["found"] for check in checks)


def test_an_operation_that_computes_wrongly_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(gate_up: Tensor) -> Tensor:
        return SWIGLU.variants["reference"].forward(gate_up) * 1.1

    passes = SwigluPasses(wrong, SWIGLU.variants["torch"].backward)
    for name in ("native", "torch"):
        monkeypatch.setitem(SWIGLU.variants, name, passes)
    monkeypatch.setattr(SWIGLU, "_chosen", {})
    monkeypatch.setattr(SWIGLU, "off", {})
    *_native, found = [check for check in _operations(SelfTest("cpu")) if check.name == "swiglu"]
    assert found.state == "hint"
    assert found.found.startswith("torch is switched off: its numbers are off by 0.1 of the")
    assert SWIGLU.name_on(torch.device("cpu")) == "reference"


def test_what_lacks_for_kernels_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SWIGLU.not_built, "cpu", "no kernels. This helps: apt-get install gcc")
    *_others, found = _operations(SelfTest("cpu"))
    assert (found.state, found.found) == ("hint", SWIGLU.not_built["cpu"])


def test_a_part_that_fails_is_red_and_does_not_end_the_others(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def training(_test: SelfTest) -> None:
        raise RuntimeError("EZ9999: Inner Error!")

    monkeypatch.setattr(selftest, "_PARTS", (training, _operations))
    checks = list(SelfTest("cpu").run())
    (red,) = [check for check in checks if check.state == "red"]
    assert (red.name, "EZ9999: Inner Error!" in red.found) == ("training", True)
    assert "danlu doctor --selftest --json" in red.repair
    assert any(check.name == "rms_norm" for check in checks)


def test_a_resumed_training_with_other_losses_is_red(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = SelfTest("cpu")
    test._losses = [1.0] * 10

    class Step:
        loss = 1.0 + 1e-6

    monkeypatch.setattr(test, "steps", lambda resume: [Step()] * 5)
    (check,) = _resuming(test)
    assert (check.state, "1e-06" in check.found) == ("red", True)


def test_a_changed_bit_that_is_not_found_is_red(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committed, "_check", lambda *_words: None)
    monkeypatch.setattr(selftest, "_PARTS", (selftest._training, selftest._integrity))
    checks = {check.name: check.state for check in SelfTest("cpu").run()}
    assert checks == {"device": "green", "training": "green", "integrity": "red"}


def test_the_home_comes_back(home: Path) -> None:
    with suppress(KeyError), _own_home() as other:
        assert os.environ["DANLU_HOME"] == str(other) != str(home)
        raise KeyError
    assert os.environ["DANLU_HOME"] == str(home)
    assert not other.exists()


def test_a_device_without_the_self_test_is_not_ignored(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--device", "cpu"]) == 2
    assert "danlu doctor --selftest --device cpu" in capsys.readouterr().err
