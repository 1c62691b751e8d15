"""The doctor on machines as they were recorded: what is red, and the command that repairs it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from danlu.cli.machine import doctor as command
from danlu.cli.main import main
from danlu.device.ascend import causes
from danlu.device.cards import Card, Cards, ToolAnswer
from danlu.doctor import examination
from danlu.doctor.examination import OF_ALL, OF_ASCEND, examine
from danlu.doctor.surroundings import Surroundings, TorchFacts
from danlu.doctor.verdicts import Check, green
from danlu.language import columns
from tests.helpers.driver_tools import NO_NPU, NPU_A2, NPU_A3, NPU_DDR, npu_table
from tests.helpers.fake_ascend import NO_LIBRARY, machine, write_nnal
from tests.helpers.terminal import Terminal

GIB = 2**30
Machine = Callable[[Path], Surroundings]


def surroundings(folder: Path, **changes: Any) -> Surroundings:
    """A machine without an accelerator, on which all is well."""
    fields: dict[str, Any] = {
        "torch": TorchFacts(version="2.13.0+cpu", capability="AVX512"),
        "machine": machine(folder, nodes=0, driver="", cann=""),
        "torch_version": "2.13.0+cpu", "torch_npu_version": "", "encoding": "utf-8",
        "python": (3, 11, 9), "architecture": "x86_64", "home": folder / "home", "rented": None,
        "space": lambda _folder: (100 * GIB, 200 * GIB), "memory": lambda: (20 * GIB, 24 * GIB),
        "is_port_free": lambda _port: True,
    }  # fmt: skip
    return Surroundings(**fields | changes)


def ascend(folder: Path, *, smi: str = NPU_A2, chip: str = "Ascend910B3", **changes: Any) -> Any:
    """A 910B with CANN 9.1 on which all is well; `parts` changes the machine's files."""
    parts = changes.pop("parts", {})
    facts = TorchFacts(
        version="2.10.0+cpu", capability="DEFAULT", npu=chip, npu_memory=(60 * GIB, 64 * GIB)
    )
    fields: dict[str, Any] = {
        "torch": facts, "machine": machine(folder, **parts), "npu_smi": ToolAnswer(text=smi),
        "torch_version": "2.10.0+cpu", "torch_npu_version": "2.10.0.post4",
        "architecture": "aarch64",
    }  # fmt: skip
    return surroundings(folder / "rest", **fields | changes)


def broken(folder: Path, said: str, look: Any = causes.loading_failed, **changes: Any) -> Any:
    """A 910B on which torch_npu fails: what is found of it is what the loading finds."""
    found = ascend(folder, **changes)
    facts = replace(found.torch, npu="", npu_memory=(0, 0))
    situation = replace(replace(found, torch=facts).situation, said=said)
    return replace(found, torch=replace(facts, trouble=look(situation)))


# Each with what is red there, by the start of its repair.
MACHINES: dict[str, tuple[Machine, dict[str, str]]] = {
    "a CPU": (surroundings, {}),
    "a 910B of eight": (lambda at: ascend(at, parts={"nodes": 8}), {}),
    "CANN 8.3 in its old place": (
        lambda at: ascend(
            at, parts={"cann": "8.3.RC1"}, torch_version="2.8.0", torch_npu_version="2.8.0",
            torch=TorchFacts(version="2.8.0", npu="Ascend910B3"),
        ),
        {"torch": "Start from an image with a newer pair"},
    ),
    "a 910C": (lambda at: ascend(at, smi=NPU_A3, chip="Ascend910_9391"), {}),
    "a 910B4-1": (lambda at: ascend(at, smi=npu_table("910B4-1"), chip="Ascend910B4-1"), {}),
    "a 310P": (lambda at: ascend(at, smi=NPU_DDR, chip="Ascend310P3"), {}),
    "a 910A": (
        lambda at: broken(
            at, "", lambda s: causes.chip_refused(s, causes_chip(), "Ascend910A"),
            smi=npu_table("910A", total=32768),
        ),
        {"chip": "Rent a 910B or 910C", "npu": "Rent a 910B or 910C"},
    ),
    "a sick chip": (
        lambda at: ascend(at, smi=npu_table("910B3", health="Alarm")),
        {"chip": "npu-smi info -t health -i 0"},
    ),
    "set_env.sh was not read": (
        lambda at: broken(at, f"ImportError: {NO_LIBRARY}", parts={"is_sourced": False}),
        {"cann": "source AT/Ascend/cann/set_env.sh", "npu": "source AT/Ascend/cann/set_env.sh"},
    ),
    "a driver without CANN": (
        lambda at: broken(at, f"ImportError: {NO_LIBRARY}", parts={"cann": ""}),
        {"cann": "Install CANN's toolkit", "npu": "Install CANN's toolkit"},
    ),
    "CANN and torch_npu do not go together": (
        lambda at: broken(at, "ImportError: x.so: undefined symbol: y", parts={"cann": "9.0.0"}),
        {"torch_npu": "PIP install torch-npu==2.10.0", "npu": "PIP install torch-npu==2.10.0"},
    ),
    "no torch_npu": (
        lambda at: broken(at, "", causes.not_installed, torch_npu_version=""),
        {
            "torch_npu": "PIP install torch-npu==2.10.0.post4",
            "npu": "PIP install torch-npu==2.10.0.post4",
        },
    ),
    "a container without the chip": (
        lambda at: broken(
            at, "", causes.no_device, smi=NO_NPU, parts={"nodes": 0, "is_container": True}
        ),
        {"chip": "Start the container with docker run --device /dev/davinci0",
         "npu": "Start the container with docker run --device /dev/davinci0"},
    ),
    "a container without the driver": (
        lambda at: broken(
            at, "ImportError: libascend_hal.so: cannot open shared object file",
            parts={"driver": "", "is_container": True},
        ),
        {"driver": "Start the container with docker run -v /usr/local/Ascend/driver",
         "npu": "Start the container with docker run -v /usr/local/Ascend/driver"},
    ),
    "hidden chips": (
        lambda at: broken(
            at, "", causes.no_device, parts={"environ": {"ASCEND_RT_VISIBLE_DEVICES": ""}}
        ),
        {"chip": "unset ASCEND_RT_VISIBLE_DEVICES", "npu": "unset ASCEND_RT_VISIBLE_DEVICES"},
    ),
    "a busy chip": (
        lambda at: broken(at, "RuntimeError: Resource_Busy(EL0005)", causes.no_device),
        {"npu": "See with npu-smi info who uses it"},
    ),
    "an old driver": (
        lambda at: ascend(at, parts={"driver": "25.0.3"}), {"driver": "Update the driver"}
    ),
    "a firmware of another time": (
        lambda at: ascend(at, parts={"firmware": "6.4.12.1.241"}),
        {"firmware": "Install the firmware"},
    ),
    "a driver that hangs": (
        lambda at: broken(at, "", causes.no_device, npu_smi=ToolAnswer(hangs=True)),
        {"chip": "sudo dmesg", "npu": "npu-smi info"},
    ),
    "two allocators": (
        lambda at: ascend(
            at,
            parts={"environ": {"PYTORCH_ALLOC_CONF": "a", "PYTORCH_NPU_ALLOC_CONF": "b"}},
        ),
        {"settings": "unset PYTORCH_NPU_ALLOC_CONF"},
    ),
    "an H100 with the CPU's torch": (
        lambda at: surroundings(
            at, gpus=Cards(kind="cuda", driver="580.65", cards=(
                Card(name="NVIDIA H100", memory_bytes=80 * GIB, used_bytes=0),
            )),
        ),
        {"gpu": "bash scripts/install.sh"},
    ),
    "a V100 with the build for CUDA 13": (
        lambda at: surroundings(
            at, torch_version="2.13.0+cu130",
            torch=TorchFacts(
                version="2.13.0+cu130", capability="AVX512", cuda=("Tesla V100",),
                without_kernels=("Tesla V100",),
            ),
            gpus=Cards(kind="cuda", driver="580.65", cards=(
                Card(name="Tesla V100", memory_bytes=32 * GIB, used_bytes=0),
            )),
        ),
        {"gpu": "bash scripts/install.sh"},
    ),
    "an H100 that the environment hides": (
        lambda at: surroundings(
            at, gpus=Cards(kind="cuda", driver="580.65", cards=(
                Card(name="NVIDIA H100", memory_bytes=80 * GIB, used_bytes=0),
            )),
            torch=TorchFacts(version="2.13.0", capability="AVX512", is_cuda_build=True),
            machine=machine(
                at / "own", nodes=0, driver="", cann="", environ={"CUDA_VISIBLE_DEVICES": "-1"}
            ),
        ),
        {"gpu": "unset CUDA_VISIBLE_DEVICES"},
    ),
    "no torch": (
        lambda at: surroundings(
            at, torch_version="", torch=TorchFacts(problem="No module named 'torch'")
        ),
        {"torch": "PIP install 'torch>=2.10' --extra-index-url"},
    ),
    "a torch that crashes": (
        lambda at: surroundings(at, torch=TorchFacts(problem="Whoever loads it crashes")),
        {"torch": "PIP install --force-reinstall torch==2.13.0+cpu --extra-index-url"},
    ),
    "an old torch": (
        lambda at: surroundings(at, torch_version="2.9.1"), {"torch": "PIP install 'torch>=2.10'"}
    ),
    "an old Python": (
        lambda at: surroundings(at, python=(3, 9, 7)), {"python": "PYTHON=python3.11"}
    ),
    "a RISC-V": (lambda at: surroundings(at, architecture="riscv64"), {"architecture": "Take"}),
    "a full disk": (
        lambda at: surroundings(at, space=lambda _folder: (GIB, 30 * GIB)), {"disk": "du -sh "}
    ),
    "no memory": (
        lambda at: surroundings(at, memory=lambda: (GIB // 2, 8 * GIB)), {"memory": "ps aux"}
    ),
    "a terminal in GBK": (
        lambda at: surroundings(at, encoding="gbk"), {"locale": "export LC_ALL=C.UTF-8"}
    ),
}  # fmt: skip


def causes_chip() -> Any:
    from danlu.device.ascend.chips import chip_named

    return chip_named("Ascend910A")


@pytest.mark.parametrize("name", MACHINES)
def test_what_is_red_on_each_machine(name: str, tmp_path: Path) -> None:
    make, expected = MACHINES[name]
    checks = examine(make(tmp_path))
    found = {check.name: check.repair for check in checks if check.state == "red"}
    assert found.keys() == expected.keys(), checks
    for check, begin in expected.items():
        pattern = re.escape(begin).replace("PIP", r"(?:pip|\S+ -m pip)")
        assert re.match(pattern.replace("AT", re.escape(str(tmp_path))), found[check])
    # Without anything of Ascend nobody speaks of it.
    names = {check.name for check in checks}
    of_ascend = {look.__name__ for look in OF_ASCEND}
    assert not names & of_ascend if not examine_ascend(name) else names >= {"chip", "npu", "cann"}


def examine_ascend(name: str) -> bool:
    return any(word in name for word in (
        "910", "310P", "CANN", "chip", "driver", "firmware", "set_env", "torch_npu", "allocators"
    ))  # fmt: skip


def states(found: Surroundings) -> dict[str, Check]:
    return {check.name: check for check in examine(found)}


def test_what_is_worth_knowing_is_no_fault(tmp_path: Path) -> None:
    """A container with little shared memory, taken ports, a data disk that is not used."""
    rented = tmp_path / "autodl-tmp"
    small = 64 * 2**20
    found = states(
        surroundings(
            tmp_path / "at", rented=rented, is_port_free=lambda port: port != 6006,
            space=lambda folder: (small, small) if folder == Path("/dev/shm")
            else (10 * GIB, 30 * GIB),
        )
    )  # fmt: skip
    hints = {name: check.repair for name, check in found.items() if check.state == "hint"}
    assert hints["shared_memory"] == "Start the container with docker run --shm-size=16g"
    assert hints["ports"] == "ss -ltnp 'sport = :6006'"
    assert hints["data_disk"] == f"export DANLU_HOME={rented}/danlu"
    assert hints["disk"].startswith("du -sh ")
    assert not [check for check in found.values() if check.state == "red"]


def test_the_parts_of_a_910b_are_named(tmp_path: Path) -> None:
    found = ascend(tmp_path)
    write_nnal(found.machine.root)
    said = {name: check.found for name, check in states(found).items()}
    assert said["chip"] == "2 x 910B3"
    assert said["hbm"] == "60.0 GiB free of 64.0 GiB"
    assert (said["driver"], said["firmware"]) == ("25.5.1", "7.8.0.2.212")
    assert said["cann"].startswith("9.1.0 in ")
    assert (said["nnal"], said["torch_npu"], said["torch"]) == (
        "9.1.0", "2.10.0.post4", "2.10.0+cpu",
    )  # fmt: skip
    assert said["npu"] == "danlu computes on Ascend910B3"


def test_a_310p_is_said_to_answer_only(tmp_path: Path) -> None:
    check = states(ascend(tmp_path, smi=NPU_DDR, chip="Ascend310P3"))["chip"]
    assert check.state == "hint"
    assert "a chip for inference" in check.found


def test_versions_that_work_all_the_same_are_a_hint(tmp_path: Path) -> None:
    check = states(ascend(tmp_path, parts={"cann": "9.0.0"}))["torch_npu"]
    assert check.state == "hint"


@pytest.mark.parametrize(
    ("smi", "says"),
    [
        (ToolAnswer(is_there=False), "npu-smi is not here"),
        (ToolAnswer(text=NO_NPU), "npu-smi says: dcmi module initialize failed. ret is -8005"),
        (ToolAnswer(problem="Permission denied"), "npu-smi says: Permission denied"),
    ],
)
def test_why_npu_smi_names_no_chip(smi: ToolAnswer, says: str, tmp_path: Path) -> None:
    found = broken(tmp_path, "", causes.no_device, npu_smi=smi)
    assert says in states(found)["chip"].found


@pytest.mark.parametrize(
    ("variable", "value", "state"),
    [
        ("INF_NAN_MODE_ENABLE", "0", "red"),
        ("ASCEND_LAUNCH_BLOCKING", "1", "hint"),
        ("TASK_QUEUE_ENABLE", "2", "hint"),
        ("TASK_QUEUE_ENABLE", "1", ""),
    ],
)
def test_variables_that_do_harm(variable: str, value: str, state: str, tmp_path: Path) -> None:
    check = states(ascend(tmp_path, parts={"environ": {variable: value}})).get("settings")
    assert (check.state if check else "") == state
    assert check is None or check.repair == f"unset {variable}"


def test_a_chip_that_others_use_is_worth_knowing(tmp_path: Path) -> None:
    full = npu_table("910B3", used=61258)
    found = ascend(tmp_path, smi=full, torch=TorchFacts(version="2.10.0", npu="Ascend910B3"))
    check = states(found)["hbm"]
    assert (check.state, check.found) == ("hint", "4.2 GiB free of 64.0 GiB")


def test_torch_npu_on_a_machine_without_ascend_is_no_fault(tmp_path: Path) -> None:
    trouble = causes.NpuTrouble(cause="no_cann", reason="It fails.", fix="pip uninstall torch-npu")
    facts = TorchFacts(version="2.13.0+cpu", trouble=trouble)
    found = states(surroundings(tmp_path, torch=facts, torch_npu_version="2.13.0"))
    check = found["torch_npu_alone"]
    assert (check.state, check.repair) == ("hint", "pip uninstall torch-npu")


def test_a_check_that_fails_is_red_and_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unlucky(_found: Surroundings) -> Check:
        raise ValueError("no such thing")

    def lucky(_found: Surroundings) -> Check:
        return green("well")

    monkeypatch.setattr(examination, "OF_ALL", (unlucky, lucky))
    first, second = examine(surroundings(tmp_path))
    assert (first.name, first.state) == ("unlucky", "red")
    assert "ValueError: no such thing" in first.found
    assert first.repair
    assert second == Check(name="lucky", state="green", found="well")


def test_every_check_can_be_named_in_both_languages(monkeypatch: pytest.MonkeyPatch) -> None:
    for language in ("en", "zh"):
        monkeypatch.setenv("DANLU_LANG", language)
        for look in (*OF_ASCEND, *OF_ALL):
            check = Check(name=look.__name__, state="green", found="")
            assert examination.shown_name(check)


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("name", ["a CPU", "set_env.sh was not read", "a 910A"])
def test_it_is_printed_in_80_columns(
    name: str, language: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    make, expected = MACHINES[name]
    monkeypatch.setenv("DANLU_LANG", language)
    monkeypatch.setattr(command, "look_around", lambda: make(tmp_path))
    assert main(["doctor"]) == (3 if expected else 0)
    lines = capsys.readouterr().out.splitlines()
    first = [line for line in lines if re.match(" [✓!✗] ", line)]
    assert len([line for line in first if line[1] == "✗"]) == len(expected)
    # A command stays whole, however long: it is copied.
    assert max(columns(line) for line in lines if str(tmp_path) not in line) <= 80
    # What was found begins in one column, and so does what repairs it.
    starts = {columns(found[0]) for line in first if (found := re.match(r" \S .*?  +(?=\S)", line))}
    others = {len(line) - len(line.lstrip()) for line in lines[:-1] if line and line not in first}
    assert len(starts | others) == 1, lines
    has_chinese = [re.search("[\u4e00-\u9fff]", line) for line in lines if line.strip()]
    assert any(has_chinese) == (language == "zh")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_json_is_for_programs_in_every_language(
    language: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    make, _expected = MACHINES["set_env.sh was not read"]
    monkeypatch.setenv("DANLU_LANG", language)
    monkeypatch.setattr(command, "look_around", lambda: make(tmp_path))
    assert main(["doctor", "--json"]) == 3
    record = json.loads(capsys.readouterr().out)
    assert record["red"] == 2
    check = next(check for check in record["checks"] if check["name"] == "npu")
    assert check.keys() == {"name", "state", "found", "repair"}
    assert check["found"].startswith("libhccl.so is not found: CANN's set_env.sh")
    assert check["repair"] == f"source {tmp_path}/Ascend/cann/set_env.sh"
    # What follows in this process is in its user's language again.
    monkeypatch.setattr(command, "look_around", lambda: surroundings(tmp_path / "another"))
    assert main(["doctor"]) == 0
    assert ("一切正常" in capsys.readouterr().out) == (language == "zh")


def test_a_terminal_shows_colours() -> None:
    with closing(Terminal(["doctor"], DANLU_LANG="zh")) as terminal:
        assert terminal.exit_code() in (0, 3)
        raw, text = terminal.raw.decode(), terminal.text
    assert re.search(r"\x1b\[[\d;]*32m✓", raw)
    assert "架构" in text
    assert max(map(columns, text.splitlines())) <= 80


def test_a_terminal_that_knows_only_ascii_gets_other_marks() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "danlu.cli.main", "doctor"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 3
    assert re.search(r"^ x encoding +ascii; danlu reads and writes UTF-8\.$", done.stdout, re.M)
    assert re.search(r"^ \+ torch ", done.stdout, re.M)
    assert "export LC_ALL=C.UTF-8" in done.stdout
