"""The doctor with a torch that is missing, fails, crashes or hangs, and with a broken torch_npu.

The program itself is run. What it says of each part is in test_machines.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from danlu.environment import users_environment
from tests.helpers.driver_tools import NPU_A2, npu_table, write_npu_smi, write_tool
from tests.helpers.fake_ascend import (
    BROKEN_TORCH_NPU,
    write_driver,
    write_nodes,
    write_toolkit,
    write_torch_npu,
)

# Puts a machine of files in the place of this one.
PROGRAM = """
import sys
from pathlib import Path
from danlu.device.ascend import machine
from danlu.doctor import surroundings
folder = Path(sys.argv[1])
if (folder / "Ascend").is_dir():
    machine.ROOT, machine.DEV = folder / "Ascend", folder / "dev"
machine._CONTAINER_FILES = ()
surroundings.PATIENCE_S, surroundings._TOOL_PATIENCE_S = map(float, sys.argv[2:])
from danlu.cli.main import main
code = main(["doctor", "--json"])
assert "torch" not in sys.modules
sys.exit(code)
"""


def diagnosed(
    folder: Path,
    *,
    patience_s: float = 60.0,
    tool_patience_s: float = 4.0,
    torch: str | None = None,
    torch_npu: str | None = None,
    **variables: str,
) -> tuple[int, dict[str, Any]]:
    """Run the doctor with packages of these texts; return the exit code and the checks by name."""
    site = folder / "site"
    if torch is not None:
        (site / "torch").mkdir(parents=True)
        (site / "torch" / "__init__.py").write_text(torch, encoding="utf-8")
    if torch_npu is not None:
        write_torch_npu(site, torch_npu)
    environment = {
        **users_environment(), "PYTHONPATH": f"{site}:{':'.join(sys.path)}",
        "PATH": f"{folder / 'tools'}:/usr/bin:/bin", "DANLU_LANG": "zh", **variables,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), str(patience_s), str(tool_patience_s)],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout, done.stderr
    record = json.loads(done.stdout)
    return done.returncode, {check["name"]: check for check in record["checks"]}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("raise ImportError('libtorch.so: cannot open shared object file')", "libtorch.so: cannot"),
        ("import os; os.abort()", "Whoever loads it crashes: SIGABRT."),
        ("import sys; sys.exit(4)", "SystemExit: 4"),
        ("print('a word of its own'); import os; os._exit(9)", "exit code 9"),
    ],
)
def test_a_torch_that_cannot_be_loaded(text: str, says: str, tmp_path: Path) -> None:
    code, checks = diagnosed(tmp_path, torch=text)
    assert code == 3
    assert says in checks["torch"]["found"]
    assert "--force-reinstall torch==" in checks["torch"]["repair"]
    assert [name for name, check in checks.items() if check["state"] == "red"] == ["torch"]


def test_a_torch_that_hangs_is_not_waited_for(tmp_path: Path) -> None:
    begun = time.monotonic()
    code, checks = diagnosed(tmp_path, torch="import time; time.sleep(600)", patience_s=0.5)
    assert time.monotonic() - begun < 60
    assert code == 3
    assert "It did not answer within 0 s." in checks["torch"]["found"]


# Each takes a process: all but two run before merging.
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[pytest.mark.soak] * (number > 1))
        for number, kind in enumerate(BROKEN_TORCH_NPU)
    ],
)
def test_a_broken_torch_npu_on_a_machine_with_ascend(kind: str, tmp_path: Path) -> None:
    root = tmp_path / "Ascend"
    write_driver(root)
    home = write_toolkit(root, "9.1.0")
    write_nodes(tmp_path / "dev", 2)
    write_npu_smi(tmp_path / "tools", NPU_A2)
    code, checks = diagnosed(tmp_path, torch_npu=BROKEN_TORCH_NPU[kind])
    assert code == 3
    assert checks["chip"]["found"] == "2 x 910B3"
    assert checks["torch"]["state"] == "green"
    assert checks["npu"]["state"] == "red"
    if kind in ("a library is missing", "it ends the process"):
        assert checks["npu"]["repair"] == f"source {home}/set_env.sh"


def test_whoever_lets_torch_load_it_is_told_to_stop(tmp_path: Path) -> None:
    broken = BROKEN_TORCH_NPU["a library is missing"]
    code, checks = diagnosed(tmp_path, torch_npu=broken, TORCH_DEVICE_BACKEND_AUTOLOAD="1")
    assert code == 3
    assert "Failed to load the backend extension" in checks["torch"]["found"]
    assert checks["torch"]["repair"] == "unset TORCH_DEVICE_BACKEND_AUTOLOAD"


def test_a_tool_that_hangs_is_not_waited_for(tmp_path: Path) -> None:
    write_nodes(tmp_path / "dev", 1)
    (tmp_path / "Ascend").mkdir()
    write_tool(tmp_path / "tools", "npu-smi", "sleep 300\n")
    begun = time.monotonic()
    _code, checks = diagnosed(tmp_path, tool_patience_s=0.5)
    assert time.monotonic() - begun < 60
    assert "npu-smi does not answer" in checks["chip"]["found"]


def test_npu_smi_that_may_not_ask_the_driver(tmp_path: Path) -> None:
    write_nodes(tmp_path / "dev", 1)
    (tmp_path / "Ascend").mkdir()
    write_tool(tmp_path / "tools", "npu-smi", "echo 'Permission denied' >&2; exit 1\n")
    _code, checks = diagnosed(tmp_path)
    assert "npu-smi says: Permission denied" in checks["chip"]["found"]


def test_the_first_generation_is_seen_without_torch_npu(tmp_path: Path) -> None:
    write_nodes(tmp_path / "dev", 1)
    write_driver(tmp_path / "Ascend")
    write_npu_smi(tmp_path / "tools", npu_table("910A", total=32768))
    code, checks = diagnosed(tmp_path)
    assert code == 3
    assert "it has no bfloat16" in checks["chip"]["found"]
