"""Why there is no NPU: each cause by a machine and by the words of torch_npu."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from danlu.device import detect
from danlu.device.ascend import torch_plugin
from danlu.device.ascend.causes import (
    NpuTrouble,
    Situation,
    loading_failed,
    no_device,
    not_installed,
)
from danlu.device.ascend.machine import AscendMachine
from danlu.device.ascend.torch_plugin import look_for_npu
from danlu.errors import EnvironmentFault
from tests.helpers.fake_ascend import (
    NO_SYMBOL,
    TWO_ACCELERATORS,
    machine,
    write_nnal,
    write_nodes,
    write_torch_npu,
)

PIP = r"(?:pip|\S+ -m pip)"
BOTH = rf"{PIP} install torch-npu==2.10.0.post4 torch==2.10.0\+cpu --extra-index-url https://\S+"


def missing(library: str) -> str:
    return f"ImportError: {library}: cannot open shared object file: No such file or directory"


def situation(folder: Path, said: str = "", **parts: Any) -> Situation:
    """A machine whose torch and torch_npu go with CANN 9.1, unless told otherwise."""
    versions = {"torch": "2.10.0+cpu", "torch_npu": "2.10.0.post4"}
    for name in (*versions, "is_cuda_build"):
        if name in parts:
            versions[name] = parts.pop(name)
    return Situation(machine=machine(folder, **parts), said=said, **versions)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("said", "parts", "cause", "reason", "fix"),
    [
        # CANN's set_env.sh
        (
            missing("libhccl.so"),
            {"is_sourced": False},
            "not_sourced",
            "libhccl.so is not found: CANN's set_env.sh was not read",
            r"source \S+/Ascend/cann/set_env.sh",
        ),
        (
            missing("libascendcl.so"),
            {"is_sourced": False, "cann": "8.3.RC1"},
            "not_sourced",
            "libascendcl.so",
            r"source \S+/Ascend/ascend-toolkit/set_env.sh",
        ),
        (
            missing("libhccl.so"),
            {"cann": ""},
            "no_cann",
            "the driver is not enough",
            r"Install CANN's toolkit, or .*quay.io/ascend/cann:9.1.0\S+",
        ),
        (
            missing("libhccl.so"),
            {},
            "cann_incomplete",
            "CANN is incomplete",
            r"Install CANN 9.1.0 again, .*",
        ),
        (
            missing("libhccl.so"),
            {"nodes": 0, "driver": "", "cann": ""},
            "no_cann",
            "neither driver nor CANN",
            f"{PIP} uninstall torch-npu",
        ),
        # the driver's library
        (
            missing("libascend_hal.so"),
            {},
            "driver_not_found",
            "the driver is in",
            r"export LD_LIBRARY_PATH=\S+/common:\S+/driver/lib64/driver:\$LD_LIBRARY_PATH",
        ),
        (
            missing("libascend_hal.so"),
            {"driver": ""},
            "no_driver",
            "is not here",
            r"Install the driver .*npu-smi info",
        ),
        (
            missing("libascend_hal.so"),
            {"driver": "", "is_container": True},
            "no_driver",
            "is not here",
            r"Start the container with docker run -v /usr/local/Ascend/driver:.*",
        ),
        # NNAL
        (
            "OSError: libatb.so: cannot open shared object file",
            {},
            "nnal",
            "NNAL is not installed",
            r"Install NNAL for CANN 9.1.0, .*",
        ),
        # versions
        (
            f"ImportError: {NO_SYMBOL}",
            {"torch": "2.12.0"},
            "versions",
            "torch_npu 2.10.0.post4 is for torch 2.10.0, and torch is 2.12.0",
            f"{PIP} install torch-npu==2.12.0",
        ),
        (
            f"ImportError: {NO_SYMBOL}",
            {"cann": "9.0.0"},
            "versions",
            "torch_npu 2.10.0.post4 is for CANN 9.1, and CANN is 9.0.0",
            f"{PIP} install torch-npu==2.10.0",
        ),
        (
            f"ImportError: {NO_SYMBOL}",
            {},
            "versions",
            "do not go together: .*undefined symbol",
            f"{PIP} install torch-npu==2.10.0.post4",
        ),
        (
            "ImportError: cannot import name '_C' from 'torch_npu'",
            {},
            "versions",
            "do not go together",
            f"{PIP} install .*",
        ),
        (
            "ModuleNotFoundError: No module named 'torch_npu._C'",
            {},
            "versions",
            "do not go together",
            f"{PIP} install .*",
        ),
        (
            missing("libtorch_cpu.so"),
            {"torch_npu": "2.9.0", "cann": "9.0.1"},
            "versions",
            "is for torch 2.9.0",
            f"{PIP} install torch-npu==2.10.0.post2",
        ),
        (
            "AttributeError: module 'torch_npu' has no attribute '_autoload'",
            {"cann": "8.0.0"},
            "versions",
            "is for CANN 9.1, and CANN is 8.0.0",
            r"Start from an image .*",
        ),
        # other builds and packages
        (
            f"RuntimeError: {TWO_ACCELERATORS}",
            {"is_cuda_build": True, "torch": "2.10.0"},
            "another_accelerator",
            "torch 2.10.0 is built for cuda",
            BOTH,
        ),
        (
            f"RuntimeError: {TWO_ACCELERATORS}",
            {"nodes": 0, "driver": "", "cann": ""},
            "another_accelerator",
            "built for cuda",
            f"{PIP} uninstall torch-npu",
        ),
        (
            "ModuleNotFoundError: No module named 'pkg_resources'",
            {},
            "pkg_resources",
            "setuptools 81",
            f"{PIP} install 'setuptools<81'",
        ),
        (
            "ModuleNotFoundError: No module named 'yaml'",
            {},
            "package_missing",
            "the package yaml",
            f"{PIP} install pyyaml",
        ),
        # what is not known is quoted
        (
            "[W] noise\nRuntimeError: the sky fell\n  in",
            {},
            "unknown",
            "torch_npu does not work: RuntimeError: the sky fell",
            "danlu doctor",
        ),
    ],
)
def test_why_torch_npu_cannot_be_loaded(
    said: str, parts: dict[str, Any], cause: str, reason: str, fix: str, tmp_path: Path
) -> None:
    trouble = loading_failed(situation(tmp_path, said, **parts))
    assert trouble.cause == cause
    assert re.search(reason, trouble.reason)
    assert re.fullmatch(fix, trouble.fix)
    assert trouble.is_expected
    assert trouble.said == said


def test_nnal_that_is_installed_is_sourced(tmp_path: Path) -> None:
    found = situation(tmp_path, "OSError: libatb.so: cannot open shared object file")
    write_nnal(found.machine.root)
    trouble = loading_failed(found)
    assert trouble.fix == f"source {found.machine.root}/nnal/atb/set_env.sh"


@pytest.mark.parametrize(
    ("said", "parts", "cause", "reason", "fix"),
    [
        ("", {"nodes": 0}, "no_node", "its driver is not loaded", r"Install the driver .*"),
        (
            "",
            {"nodes": 0, "is_container": True},
            "no_node",
            "This container has no chip",
            r"Start the container with docker run --device /dev/davinci0 --device .*",
        ),
        (
            "",
            {"environ": {"ASCEND_RT_VISIBLE_DEVICES": ""}},
            "hidden",
            "hides every chip; there are 1",
            "unset ASCEND_RT_VISIBLE_DEVICES",
        ),
        (
            "",
            {"environ": {"ASCEND_RT_VISIBLE_DEVICES": "-1"}},
            "hidden",
            "'-1'",
            "unset ASCEND_RT_VISIBLE_DEVICES",
        ),
        (
            "RuntimeError: error code is 207004",
            {"environ": {"ASCEND_RT_VISIBLE_DEVICES": "4"}, "nodes": 2},
            "hidden",
            "'4'.*there are 2",
            "unset ASCEND_RT_VISIBLE_DEVICES",
        ),
        (
            "RuntimeError: Resource_Busy(EL0005): The resources are busy.",
            {},
            "busy",
            "in use by another program or container: RuntimeError: Resource_Busy",
            r"See with npu-smi info .*: export ASCEND_RT_VISIBLE_DEVICES=1",
        ),
        (
            "RuntimeError: dcmi model initialized failed, because the device is used. ret is -8020",
            {},
            "busy",
            "in use",
            ".*",
        ),
        (
            "RuntimeError: aclInit: Operation not permitted",
            {"is_container": True},
            "permission",
            "This container may not use the chip",
            r"Start the container .* --privileged",
        ),
        (
            "",
            {"environ": {"ASCEND_RT_VISIBLE_DEVICES": "0"}},
            "unknown",
            "finds no chip",
            "npu-smi info",
        ),
        (
            "",
            {"cann": "9.0.0"},
            "versions",
            "is for CANN 9.1, and CANN is 9.0.0",
            f"{PIP} install torch-npu==2.10.0",
        ),
    ],
)
def test_why_there_is_no_device(
    said: str, parts: dict[str, Any], cause: str, reason: str, fix: str, tmp_path: Path
) -> None:
    trouble = no_device(situation(tmp_path, said, **parts))
    assert trouble.cause == cause
    assert re.search(reason, trouble.reason)
    assert re.fullmatch(fix, trouble.fix)


def test_a_chip_that_only_its_number_names_is_not_hidden(tmp_path: Path) -> None:
    """A container that is given the last of eight chips may call it 0 or 7."""
    for visible in ("0", "7"):
        folder = tmp_path / visible
        found = situation(folder, nodes=0, environ={"ASCEND_RT_VISIBLE_DEVICES": visible})
        write_nodes(found.machine.dev, 0)
        (found.machine.dev / "davinci7").touch()
        assert no_device(found).cause == "unknown"


@pytest.mark.parametrize("is_container", [True, False])
def test_a_chip_without_its_managers(is_container: bool, tmp_path: Path) -> None:
    found = situation(tmp_path, nodes=0, is_container=is_container)
    write_nodes(found.machine.dev, 1, managers=("davinci_manager",))
    trouble = no_device(found)
    assert trouble.cause == "no_manager"
    nodes = [str(found.machine.dev / name) for name in ("devmm_svm", "hisi_hdc")]
    assert all(node in trouble.reason for node in nodes)
    if is_container:
        words = " ".join(f"--device {node}" for node in nodes)
        assert trouble.fix == f"Start the container with docker run {words}"


def test_nodes_that_belong_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may open everything, and tests may run as root."""
    found = situation(tmp_path)
    closed = found.machine.dev / "davinci_manager"
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != closed)
    trouble = no_device(found)
    owner, group = closed.owner(), closed.group()
    assert trouble.cause == "permission"
    assert trouble.reason == f"You may not open {closed}: it belongs to {owner}, group {group}."
    assert trouble.fix.endswith(f"sudo usermod -aG {group} $USER")


@pytest.mark.parametrize(
    ("parts", "fix"),
    [
        ({}, f"{PIP} install torch-npu==2.10.0.post4"),
        ({"cann": "9.0.1"}, f"{PIP} install torch-npu==2.10.0.post2"),
        ({"torch": "2.13.0+cpu"}, BOTH),
        ({"torch": "2.10.0", "is_cuda_build": True}, BOTH),
        (
            {"cann": ""},
            "Start from an image .*quay.io/ascend/torch-npu:2.10.0-910b-ubuntu22.04-py3.11",
        ),
    ],
)
def test_a_chip_without_torch_npu(parts: dict[str, Any], fix: str, tmp_path: Path) -> None:
    trouble = not_installed(replace(situation(tmp_path, **parts), torch_npu=""))
    assert trouble.cause == "torch_npu_missing"
    assert trouble.is_expected
    assert re.fullmatch(fix, trouble.fix)


def test_nobody_expects_an_npu_where_there_is_neither_chip_nor_torch_npu(tmp_path: Path) -> None:
    found = situation(tmp_path, nodes=0, driver="", cann="")
    assert not not_installed(found).is_expected


@pytest.fixture
def working(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A torch_npu that works, for the time of a test; its chip's name can be changed."""
    chip = SimpleNamespace(name="Ascend910B3", total_memory=64 * 2**30)
    npu = ModuleType("torch.npu")
    npu.is_available = lambda: True  # type: ignore[attr-defined]
    npu.get_device_properties = lambda number: chip  # type: ignore[attr-defined]
    npu.is_bf16_supported = lambda: "910B" in chip.name  # type: ignore[attr-defined]
    monkeypatch.setattr(torch, "npu", npu, raising=False)
    monkeypatch.syspath_prepend(write_torch_npu(tmp_path / "site", ""))
    monkeypatch.delitem(sys.modules, "torch_npu", raising=False)
    torch_plugin.npu_trouble.cache_clear()
    yield chip
    monkeypatch.undo()
    sys.modules.pop("torch_npu", None)
    torch_plugin.npu_trouble.cache_clear()


def look(folder: Path) -> NpuTrouble | None:
    return look_for_npu(machine(folder))


def test_a_910b_is_fine(working: SimpleNamespace, tmp_path: Path) -> None:
    assert look(tmp_path) is None
    found = detect.select("npu")
    assert (found.description, found.no_training) == ("Ascend910B3", "")
    assert found.preferred_dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["Ascend910A", "Ascend910ProB", "Ascend910PremiumA", "Ascend910B"])
def test_a_910a_is_refused_with_the_reason(
    name: str, working: SimpleNamespace, tmp_path: Path
) -> None:
    working.name = name
    trouble = look(tmp_path)
    assert trouble is not None
    assert trouble.cause == "chip_refused"
    assert f"{name} (910A): it has no bfloat16, and an overflow is never seen" in trouble.reason
    with pytest.raises(EnvironmentFault, match="npu cannot be used") as caught:
        detect.select("npu")
    assert caught.value.why == trouble.reason
    assert detect.select("auto").kind != "npu"


def test_a_310p_answers_in_fp16_and_does_not_train(working: SimpleNamespace) -> None:
    from danlu.hub.choosing import training_device

    working.name = "Ascend310P3"
    found = detect.select("npu")
    assert found.preferred_dtype == torch.float16
    with pytest.raises(EnvironmentFault, match="Ascend310P3 cannot train") as caught:
        training_device("npu")
    assert "a chip for inference" in caught.value.why


def test_a_chip_that_cannot_be_asked(working: SimpleNamespace, tmp_path: Path) -> None:
    def fail(number: int) -> None:
        raise RuntimeError("NPU function error, Resource_Busy(EL0005): The resources are busy.")

    torch.npu.get_device_properties = fail  # type: ignore[attr-defined]
    trouble = look(tmp_path)
    assert trouble is not None
    assert trouble.cause == "busy"


def test_what_torch_npu_says_while_it_is_loaded_well_is_passed_on(
    working: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "import sys\nsys.stderr.write('a warning of its own')\n"
    (tmp_path / "site" / "torch_npu" / "__init__.py").write_text(text, encoding="utf-8")
    assert look(tmp_path) is None
    assert "a warning of its own" in capsys.readouterr().err


def test_where_nothing_is_installed_the_machine_has_no_versions(tmp_path: Path) -> None:
    empty = AscendMachine(root=tmp_path / "none", dev=tmp_path / "dev", environ={})
    assert not empty.is_ascend
    assert (empty.driver, empty.firmware, empty.cann, empty.nnal) == ("", "", "", "")
    assert (empty.cann_home, empty.set_env, empty.firmware_range) == (None, None, None)
    assert empty.closed_nodes == ()


@pytest.mark.parametrize(
    ("version", "place"), [("9.1.0", "cann"), ("8.3.RC1", "ascend-toolkit/latest")]
)
def test_both_spellings_of_cann(version: str, place: str, tmp_path: Path) -> None:
    found = machine(tmp_path, cann=version, is_sourced=False)
    assert found.cann_home == found.root / place
    assert found.cann == version
    assert (found.driver, found.firmware) == ("25.5.1", "7.8.0.2.212")
    assert found.firmware_range == ("7.0.0", "7.9.99")
    write_nnal(found.root)
    assert found.nnal == "9.1.0"


def test_cann_of_another_user_in_his_home(tmp_path: Path) -> None:
    """Whoever is not root installs it into his home; its folder may bear the version."""
    home = tmp_path / "home"
    for version in ("8.5.0", "9.0.0"):
        folder = home / "Ascend" / f"cann-{version}"
        folder.mkdir(parents=True)
        (folder / "set_env.sh").touch()
    found = AscendMachine(root=tmp_path, dev=tmp_path, environ={"HOME": str(home)})
    assert found.set_env == home / "Ascend" / "cann-9.0.0" / "set_env.sh"
