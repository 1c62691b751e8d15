"""scripts/install.sh on machines that are made up of a folder of programs; no network anywhere."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.helpers.bare_machine import BASE_PYTHON, Machine
from tests.helpers.driver_tools import write_cann, write_npu_smi, write_nvidia_smi, write_tool
from tests.helpers.native_sources import copy_native
from tests.helpers.source import ROOT
from tests.helpers.torch_index import serving_index


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine with a Python and an environment."""
    made = Machine(tmp_path)
    made.add_python()
    made.add_environment()
    return made


def test_a_machine_without_a_card_again_and_again(machine: Machine) -> None:
    for _ in range(2):
        done = machine.install()
        assert done.returncode == 0, done.stderr
        assert not done.stderr
        assert "no NVIDIA card and no NPU found" in done.stdout
        # Without an answer from PyTorch's index pip's own is used, and that is said.
        assert "pip's own index is used" in done.stdout
        assert "--extra-index-url" not in machine.pip_words
        assert machine.pip_words[-3:] == ["-e", ".", ""]
        assert "torch==2.13.0\n" in machine.pins
        assert "I am the starter." in done.stdout
    assert f"source '{machine.clone}/.venv/bin/activate'" in done.stdout
    assert (machine.clone / ".venv" / "installed").exists()
    assert not list(machine.home.iterdir()), "nothing is done to the user's files unasked"


@pytest.mark.soak
def test_kernels_are_built_and_without_a_compiler_that_is_said(machine: Machine) -> None:
    """The clone's own sources and place, so that nothing here is touched."""
    for name in ("native", "src"):
        (machine.clone / name).unlink()
    copy_native(machine.clone)
    place = machine.clone / "src" / "danlu"
    shutil.copytree(
        ROOT / "src" / "danlu", place, ignore=lambda _folder, names: {"libdanlu.so"} & set(names)
    )
    done = machine.install()
    assert done.returncode == 0, done.stderr
    assert "kernels for the CPU: not built: there is no C++ compiler" in done.stdout
    assert f"later: bash '{machine.clone}/scripts/install.sh'" in done.stdout
    if shutil.which("g++") is None:
        return
    done = machine.install(CXX="/usr/bin/env g++", PATH=f"{machine.tools}:{os.environ['PATH']}")
    assert "kernels for the CPU: built\n" in done.stdout
    assert (place / "ops" / "native" / "libdanlu.so").is_file()
    assert "kernels for the CPU: built\n" in machine.install().stdout, "it stays"


def test_models_that_lie_in_a_clone_are_left_alone(machine: Machine) -> None:
    """Only those of a bundle are put where danlu finds them by name."""
    (machine.clone / "models" / "mine").mkdir(parents=True)
    assert machine.install().returncode == 0
    assert not list(machine.home.iterdir())


def test_it_speaks_chinese_under_a_chinese_locale(machine: Machine) -> None:
    done = machine.install(DANLU_LANG="", LANG="zh_CN.UTF-8")
    assert done.returncode == 0
    assert "没有找到 NVIDIA 显卡或 NPU" in done.stdout
    assert "丹炉已安装到" in done.stdout


def test_a_cuda_card_gets_the_build_for_its_driver(machine: Machine) -> None:
    write_nvidia_smi(machine.tools, count=2)
    done = machine.install(FAKE_DEVICE="cuda")
    assert done.returncode == 0, done.stderr
    assert "2 x NVIDIA H100" in done.stdout
    assert "CUDA 13.0" in done.stdout
    write_nvidia_smi(machine.tools, driver="470.82.01", cuda="11.4")
    refused = machine.install()
    assert refused.returncode == 3
    assert len(refused.stderr.splitlines()) == 3
    assert "470.82.01" in refused.stderr


def test_a_torch_that_does_not_see_the_card_is_told(machine: Machine) -> None:
    write_nvidia_smi(machine.tools)
    done = machine.install(FAKE_DEVICE="cpu")
    assert "ATTENTION: the driver shows NVIDIA H100" in done.stdout


def test_why_torch_does_not_see_the_npu_is_told(machine: Machine) -> None:
    write_npu_smi(machine.tools)
    why = "libhccl.so is not found. To repair: source set_env.sh"
    done = machine.install(
        FAKE_DEVICE="cpu", FAKE_FACTS=f', "npu": "{why}"', PIP_ARGS="--index-url http://127.0.0.1:9"
    )
    assert f"ATTENTION: the driver shows 910B3, but torch computes on cpu: a device.\n  {why}" in (
        done.stdout
    ), done.stdout + done.stderr


def test_an_index_of_cpu_builds_that_answers_is_taken(machine: Machine) -> None:
    data = machine.clone / "tools" / "install" / "torch_builds.json"
    with serving_index("2.13.0", "cpu") as address:
        text = data.read_text(encoding="utf-8")
        data.write_text(text.replace("https://download.pytorch.org/whl/cpu", address), "utf-8")
        done = machine.install(no_proxy="127.0.0.1")
    assert done.returncode == 0, done.stderr
    assert f"the CPU build from {address}" in done.stdout
    assert f"--extra-index-url|{address}" in "|".join(machine.pip_words)
    assert "torch==2.13.0+cpu\n" in machine.pins


def test_it_runs_while_its_own_environment_is_active(machine: Machine) -> None:
    programs = machine.clone / ".venv" / "bin"
    (programs / "python3").symlink_to(programs / "python")
    done = machine.install(PATH=f"{programs}:{machine.tools}")
    assert done.returncode == 0, done.stderr


def test_the_users_words_for_pip_win(machine: Machine) -> None:
    words = "--index-url https://example.com/a,b --no-cache-dir"
    done = machine.install(PIP_ARGS=words)
    assert done.returncode == 0, done.stderr
    assert "|".join(words.split()) in "|".join(machine.pip_words)
    assert "torch==2.13.0\n" in machine.pins


def test_a_pair_of_torch_and_torch_npu_is_protected(machine: Machine, tmp_path: Path) -> None:
    site = tmp_path / "site"
    pair = {"torch": "2.10.0+cpu", "torch_npu": "2.10.0.post4", "numpy": "1.26.4"}
    for name, version in pair.items():
        (site / name).mkdir(parents=True)
        (site / name / "__init__.py").write_text("raise ImportError('CANN is missing')", "utf-8")
        about = site / f"{name}-{version}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n", encoding="utf-8")
    write_npu_smi(machine.tools)
    cann = write_cann(tmp_path / "cann", "9.1.0")
    done = machine.install(FAKE_DEVICE="npu", PYTHONPATH=str(site), ASCEND_HOME_PATH=str(cann))
    assert done.returncode == 0, done.stderr
    assert "which are here and stay" in done.stdout
    kept = {"torch==2.10.0+cpu", "torch-npu==2.10.0.post4", "numpy==1.26.4"}
    assert kept <= set(machine.pins.splitlines())
    assert "torch==2.13.0" not in machine.pins
    assert not [word for word in machine.pip_words if word.startswith("torch")]
    assert f"source {cann}/set_env.sh" in done.stdout


@pytest.mark.soak
def test_a_pair_in_an_environment_is_seen_in_the_one_that_is_made_from_it(tmp_path: Path) -> None:
    """venv by itself shows only what belongs to the Python below. All is real but the packages."""
    image = tmp_path / "image"
    subprocess.run([BASE_PYTHON, "-m", "venv", "--without-pip", str(image)], check=True)
    (site,) = image.glob("lib/python*/site-packages")
    for name, version in (("torch", "2.10.0+cpu"), ("torch_npu", "2.10.0.post4")):
        (site / name).mkdir()
        (site / name / "__init__.py").touch()
        about = site / f"{name}-{version}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n", encoding="utf-8")
    machine = Machine(tmp_path)
    done = machine.install(
        PYTHON=str(image / "bin" / "python"), PIP_NO_INDEX="1", PIP_CONFIG_FILE=os.devnull
    )
    assert "which are here and stay" in done.stdout
    # It came as far as pip, which may ask nobody.
    assert "could not be downloaded" in done.stderr
    assert "torch==2.10.0+cpu\n" in machine.pins


def test_without_a_pair_cann_decides_which_is_installed(machine: Machine, tmp_path: Path) -> None:
    write_npu_smi(machine.tools)
    cann = write_cann(tmp_path / "cann", "9.1.0")
    done = machine.install(FAKE_DEVICE="npu", ASCEND_HOME_PATH=str(cann))
    assert done.returncode == 0, done.stderr
    assert "torch-npu==2.10.0.post4" in machine.pip_words
    assert "torch==2.10.0\n" in machine.pins
    refused = machine.install(FAKE_DEVICE="npu")  # no CANN
    assert refused.returncode == 3
    assert len(refused.stderr.splitlines()) == 3


NO_NAME = "WARNING: Retrying after NewConnectionError([Errno -2] Name or service not known)"
NO_SPACE = "ERROR: Could not install packages: [Errno 28] No space left on device"


@pytest.mark.parametrize(
    ("pip", "code", "says"),
    [
        (NO_NAME, 3, ["packages could not be downloaded", "service not known", "PIP_INDEX_URL="]),
        (NO_SPACE, 4, ["The disk became full", "No space left", "install.sh"]),
    ],
    ids=["network", "disk"],
)
def test_pip_that_fails_is_three_lines_and_done_again(
    machine: Machine, pip: str, code: int, says: list[str]
) -> None:
    done = machine.install(FAKE_PIP=f"echo '{pip}' >&2; exit 1")
    assert done.returncode == code
    lines = done.stderr.splitlines()
    assert len(lines) == 3
    assert all(expected in line for expected, line in zip(says, lines, strict=True))
    assert not (machine.clone / ".venv" / "installed").exists()
    assert machine.install().returncode == 0


def test_what_else_pip_says_is_shown(machine: Machine) -> None:
    done = machine.install(FAKE_PIP="echo 'ERROR: the wheel is cursed' >&2; exit 1")
    assert done.returncode == 3
    *above, what, why, _fix = done.stderr.splitlines()
    assert "ERROR: the wheel is cursed" in above
    assert (what, why) == ("pip could not install danlu.", "the wheel is cursed")


def test_the_environment_is_made_and_an_unreachable_index_is_put_into_words(
    tmp_path: Path,
) -> None:
    """The real venv and the real pip, which may ask nobody."""
    machine = Machine(tmp_path)
    machine.add_python()
    done = machine.install(PIP_NO_INDEX="1", PIP_CONFIG_FILE=os.devnull)
    assert (machine.clone / ".venv" / "bin" / "python").exists()
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 3
    assert "could not be downloaded" in done.stderr


def test_an_environment_that_is_broken_is_told_with_what_removes_it(machine: Machine) -> None:
    python = machine.clone / ".venv" / "bin" / "python"
    write_tool(python.parent, "python", "echo 'no such interpreter' >&2; exit 127\n")
    done = machine.install()
    assert done.returncode == 3
    lines = done.stderr.splitlines()
    assert len(lines) == 3
    assert "no such interpreter" in lines[1]
    assert lines[2].startswith(f"rm -r '{machine.clone}/.venv'; bash ")


def test_the_banner_comes_to_the_login_only_when_asked_and_once(machine: Machine) -> None:
    file = machine.home / ".bashrc"
    file.write_text("alias ll='ls -l'\n", encoding="utf-8")
    for _ in range(2):
        assert machine.install("--banner").returncode == 0
    lines = file.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "alias ll='ls -l'"
    assert len(lines) == 3
    danlu = machine.clone / ".venv" / "bin" / "danlu"
    write_tool(danlu.parent, "danlu", 'echo "shown: $*"\n')
    for options, shown in (("-i", "shown: info --banner\n"), ("", "")):
        command = ["bash", "--norc", *options.split(), "-c", f". '{file}'"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert said == shown


@pytest.fixture
def bare(tmp_path: Path) -> Machine:
    """A machine with Debian's installer of packages, which writes down that it was called."""
    made = Machine(tmp_path)
    for name in ("apt-get", "sudo"):
        write_tool(made.tools, name, f'echo "{name} $*" >> "$FAKE_LOG"\n')
    return made


OLD = 'case "$1" in --version) echo "Python 3.8.10" ;; *) exit 1 ;; esac\n'
WITHOUT_VENV = f'case "$2" in *ensurepip*) exit 1 ;; *) exec "{BASE_PYTHON}" "$@" ;; esac\n'


@pytest.mark.parametrize(
    ("python", "says"),
    [
        (None, "apt-get install -y python3 python3-venv"),
        (WITHOUT_VENV, f"apt-get install -y python3.{sys.version_info[1]}-venv"),
        (OLD, "PYTHON=/path/to/python3 bash "),
    ],
    ids=["no Python", "no venv", "an old Python"],
)
@pytest.mark.parametrize("user", ["0", "1000"])
def test_what_python_lacks_is_told_with_the_command_and_not_done(
    bare: Machine, python: str | None, says: str, user: str
) -> None:
    (bare.tools / "id").unlink()
    write_tool(bare.tools, "id", f"echo {user}\n")
    if python is not None:
        write_tool(bare.tools, "python3", python)
    done = bare.install()
    assert done.returncode == 3
    lines = done.stderr.splitlines()
    assert len(lines) == 3
    assert says in lines[2]
    assert lines[2].startswith("sudo ") == (user != "0" and python is not OLD)
    assert not bare.log.exists(), "nothing was run"
    assert not done.stdout


def test_another_installer_of_packages_is_named(bare: Machine) -> None:
    (bare.tools / "apt-get").unlink()
    write_tool(bare.tools, "dnf", "")
    assert "dnf install -y python3 python3-pip" in bare.install().stderr
    (bare.tools / "dnf").unlink()
    assert "PYTHON=/path/to/python3 bash " in bare.install().stderr


@pytest.mark.parametrize(("answer", "is_run"), [("n\n", False), ("\n", False), ("y\n", True)])
def test_in_a_terminal_it_asks(bare: Machine, answer: str, is_run: bool) -> None:
    outer, inner = pty.openpty()
    os.write(outer, answer.encode())
    with subprocess.Popen(
        ["bash", str(bare.clone / "scripts" / "install.sh")],
        env=bare.variables, stdin=inner, stdout=inner, stderr=inner,
    ) as process:  # fmt: skip
        assert process.wait(60) == 3  # still no Python: apt-get is a stand-in
    os.close(inner)
    said = b""
    with suppress(OSError):  # its end
        while part := os.read(outer, 65536):
            said += part
    os.close(outer)
    assert b"[y/N]" in said
    assert bare.log.exists() == is_run


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_setup_decides_the_same_and_leaves_it_to_the_users_words(machine: Machine) -> None:
    (machine.clone / "Makefile").symlink_to(ROOT / "Makefile")
    (machine.clone / "scripts").mkdir(exist_ok=True)
    (machine.clone / "scripts" / "on-path.sh").symlink_to(ROOT / "scripts" / "on-path.sh")

    def make(*words: str) -> str:
        command = ["make", "--no-print-directory", "-C", str(machine.clone), "setup", *words]
        variables = machine.variables | {"PATH": f"{machine.tools}:{os.environ['PATH']}"}
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
        return done.stdout

    write_nvidia_smi(machine.tools)
    assert "torch: the build for CUDA 13.0" in make()
    assert "torch:" not in make()  # it is installed
    (machine.clone / ".venv" / "installed").unlink()
    said = make("PIP_ARGS=--extra-index-url https://example.com/cpu")
    assert "as PIP_ARGS says" in said
    assert "--extra-index-url|https://example.com/cpu" in "|".join(machine.pip_words)
