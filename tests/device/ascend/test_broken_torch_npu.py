"""A broken torch_npu costs nothing but the NPU: every command goes on, and says why there is none.

The packages are fakes that fail as real ones do. torch would load each by itself and die of it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from danlu.environment import AUTOLOAD, users_environment
from tests.helpers.fake_ascend import BROKEN_TORCH_NPU, write_torch_npu
from tests.helpers.program import write_rows
from tests.helpers.terminal import Terminal

# One process for all commands: loading torch once is most of what they cost.
PROGRAM = """
import json, sys
from danlu.cli.main import main
for words in json.loads(sys.argv[1]):
    print("@@", *words, flush=True)
    print("@@", *words, file=sys.stderr, flush=True)
    print("@=", main(words), flush=True)
"""
SAYS = {
    "a library is missing": "libhccl.so is not found",
    "a symbol is missing": "do not go together",
    "beside CUDA": "is built for cuda",
    "no device": "here is no /dev/davinci0",
    "NNAL is missing": "libatb.so is not found: NNAL is not installed. To repair: Install NNAL",
    "it ends the process": "libhccl.so is not found",
}


def start(
    site: Path, program: str, *words: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run Python with a torch_npu, as a user has it: danlu's own variables are not set."""
    environment = {
        **users_environment(), "PYTHONPATH": f"{site}:{':'.join(sys.path)}", "OMP_NUM_THREADS": "1",
        "PATH": "/usr/bin:/bin", **variables,
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "-c", program, *words], env=environment, capture_output=True, text=True
    )


# Each takes seconds: all but one run before merging.
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[pytest.mark.soak] * (number > 0))
        for number, kind in enumerate(BROKEN_TORCH_NPU)
    ],
)
def test_every_command_goes_on_and_says_it_once(kind: str, tmp_path: Path) -> None:
    site = write_torch_npu(tmp_path / "site", BROKEN_TORCH_NPU[kind])
    rows = str(write_rows(tmp_path / "rows.jsonl", 4))
    answer = ["--max_new_tokens", "1"]
    commands = [
        ["--help"],
        ["generate", "Hi", "--device", "cpu", *answer],
        ["data", "check", rows],
        ["info", "--json"],
        ["info"],
        ["plan", "--dataset", rows],
        ["generate", "Hi", *answer],
    ]
    done = start(site, PROGRAM, json.dumps(commands))
    assert done.stdout.count("@= 0") == len(commands), done.stdout + done.stderr
    facts = json.loads(done.stdout.split("@@ info --json\n")[1].splitlines()[0])
    assert facts["device"].startswith("cpu")
    assert SAYS[kind] in facts["npu"]
    assert " To repair: " in facts["npu"]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("npu ")]
    assert facts["npu"] in line
    assert re.search(f"^environment +.*{AUTOLOAD} 0", done.stdout, re.MULTILINE)
    # On the CPU nobody asked for an NPU; where the best device is taken, it is said, once.
    parts = done.stderr.split("@@ ")
    loud = [part.splitlines()[0] for part in parts if "ATTENTION: no NPU is used" in part]
    assert loud == [f"plan --dataset {rows}"], done.stderr
    assert "Traceback" not in done.stderr


def test_without_danlu_torch_itself_dies_of_it(tmp_path: Path) -> None:
    """The fakes do what the real ones do; else the tests above would show nothing."""
    site = write_torch_npu(tmp_path / "site", BROKEN_TORCH_NPU["a library is missing"])
    done = start(site, "import torch")
    assert done.returncode == 1
    assert "Failed to load the backend extension" in done.stderr
    assert start(site, "import danlu, torch").returncode == 0


@pytest.mark.soak
def test_whoever_switches_the_loading_on_has_it(tmp_path: Path) -> None:
    site = write_torch_npu(tmp_path / "site", BROKEN_TORCH_NPU["a library is missing"])
    done = start(site, "import danlu, torch", **{AUTOLOAD: "1"})
    assert "Failed to load the backend extension" in done.stderr


@pytest.mark.parametrize(
    "kind", ["a library is missing", pytest.param("no device", marks=pytest.mark.soak)]
)
def test_asking_for_the_npu_names_cause_and_repair(kind: str, tmp_path: Path) -> None:
    site = write_torch_npu(tmp_path / "site", BROKEN_TORCH_NPU[kind])
    ask = "import sys\nfrom danlu.cli.main import main\nsys.exit(main(sys.argv[1:]))"
    done = start(site, ask, "generate", "Hi", "--device", "npu")
    what, why, fix = done.stderr.splitlines()
    assert done.returncode == 3
    assert what == "The device npu cannot be used."
    assert SAYS[kind] in why
    assert fix


def test_on_the_cpu_torch_npu_is_never_loaded(tmp_path: Path) -> None:
    """A driver that hangs would be waited for."""
    site = write_torch_npu(tmp_path / "site", "import time\ntime.sleep(600)\n")
    rows = str(write_rows(tmp_path / "rows.jsonl", 4))
    words = [
        ["generate", "Hi", "--device", "cpu", "--max_new_tokens", "1"],
        ["plan", "--dataset", rows, "--device", "cpu"],
        ["plan", "--dataset", rows, "--model", "Qwen3-8B", "--device", "ascend-910b-64g"],
    ]
    done = start(site, PROGRAM, json.dumps(words))
    assert done.stdout.count("@= 0") == len(words), done.stderr


def test_where_nobody_expects_an_npu_nothing_is_said() -> None:
    done = start(Path("/nowhere"), PROGRAM, json.dumps([["info", "--json"], ["models"]]))
    assert done.stdout.count("@= 0") == 2
    assert '"npu"' not in done.stdout
    assert "ATTENTION" not in done.stderr


@pytest.mark.parametrize("language", [pytest.param("en", marks=pytest.mark.soak), "zh"])
def test_in_a_terminal_the_line_stands_alone(language: str, tmp_path: Path) -> None:
    """Beside the line that moves, whole, and before the answer."""
    site = write_torch_npu(tmp_path / "site", BROKEN_TORCH_NPU["a library is missing"])
    terminal = Terminal(
        ["generate", "Hi", "--max_new_tokens", "1"],
        DANLU_LANG=language, PYTHONPATH=f"{site}:{':'.join(sys.path)}",
    )  # fmt: skip
    with closing(terminal):
        assert terminal.exit_code() == 0
        text = terminal.text
    begin = {"en": "ATTENTION: no NPU is used, but the CPU. ", "zh": "注意：没有使用 NPU"}
    lines = text.splitlines()
    assert [line.startswith(begin[language].strip()) for line in lines].count(True) == 1, text
    assert re.search("[⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏]", text) is None
    assert "libhccl.so" in text
