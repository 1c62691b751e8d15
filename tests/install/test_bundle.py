"""An offline bundle: what is gathered for which machine, what is written, and installing from it.

The packages are stand-ins, except in the soak test, which makes a whole bundle for this machine and
installs from it while no index can be reached.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from danlu.cli.main import main
from danlu.errors import CapacityError, DanluError, DataError, EnvironmentFault, UsageError
from danlu.export import bundle
from danlu.export.bundle import BundleTarget, write_bundle
from danlu.files import disk
from danlu.files.committed import MANIFEST, committed_folder, verify
from danlu.moving_line import no_progress
from native import build
from tests.helpers.bare_machine import BASE_PYTHON, Machine
from tests.helpers.faulty_disk import HastyDisk, RefusingDisk
from tests.helpers.source import ROOT
from tools.install import gather
from tools.install.gather import RECORD, WHEELS

HERE = platform.machine()
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
TARGET = BundleTarget(device="cpu", machine=HERE, python=PYTHON, cann="9.1")
COMMAND = f"/home/me/danlu/.venv/bin/danlu bundle b --device cpu --machine {HERE}"
NO_WHEEL = "ERROR: No matching distribution found for x==1"
NO_NAME = "WARNING: Failed to establish a new connection: [Errno -2] Name or service not known"


def asked(folder: Path, **changes: str) -> argparse.Namespace:
    words = {"device": "cpu", "machine": HERE, "python": PYTHON, "cann": "9.1", "command": COMMAND}
    return argparse.Namespace(folder=folder, **(words | changes))


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A pip that downloads nothing; gives the words of its last call. Every index answers."""
    called: list[str] = []

    def run(words: list[str]) -> None:
        called[:] = words
        Path(words[words.index("--dest") + 1]).mkdir()

    monkeypatch.setattr(gather, "run_pip", run)
    monkeypatch.setattr(
        gather, "first_listing", lambda urls, *_words, **_more: next(iter(urls), None)
    )
    return called


def test_wheels_for_another_machine_are_asked_for_by_name_and_version(
    pip: list[str], tmp_path: Path
) -> None:
    gather.gather(asked(tmp_path, device="npu", machine="aarch64", python="3.12"))
    assert {"--platform=manylinux_2_28_aarch64", "--platform=manylinux2014_aarch64"} <= set(pip)
    assert not [word for word in pip if "x86_64" in word]
    assert pip[pip.index("--python-version") + 1] == "3.12"
    assert "--only-binary=:all:" in pip
    # torch's pair for CANN 9.1, what CANN asks of a Python, and what builds danlu from its folder.
    assert {"torch==2.10.0+cpu", "torch-npu==2.10.0.post4", "protobuf==3.20.3"} <= set(pip)
    assert {"scipy", "decorator", "attrs"} <= {word.partition("==")[0] for word in pip}
    assert {"hatchling", "editables", "numpy"} <= {word.partition("==")[0] for word in pip}
    record = json.loads((tmp_path / RECORD).read_text("utf-8"))
    assert (record["machine"], record["python"], record["command"]) == ("aarch64", "3.12", COMMAND)
    assert record["pins"]["torch"] == "2.10.0+cpu"
    assert "torch-npu==2.10.0.post4" in record["requirements"]


def test_for_another_processor_nothing_is_added_that_only_this_one_needs(
    pip: list[str], tmp_path: Path
) -> None:
    """Read for x86-64, torch's package asks for 3 GB of CUDA's libraries on aarch64 too."""
    other = "aarch64" if HERE == "x86_64" else "x86_64"
    for machine, is_alone in ((other, True), (HERE, False)):
        place = tmp_path / machine
        place.mkdir()
        gather.gather(asked(place, machine=machine))
        assert ("--no-deps" in pip) == is_alone
    with pytest.raises(EnvironmentFault, match="CUDA"):
        gather.gather(asked(tmp_path, device="cuda", machine=other))


def test_a_bundle_for_the_cpu_brings_nothing_of_cann(pip: list[str], tmp_path: Path) -> None:
    gather.gather(asked(tmp_path))
    assert "torch==2.13.0+cpu" in pip
    assert not {"scipy", "torch-npu"} & {word.partition("==")[0] for word in pip}


def test_the_conditions_of_the_other_python_count(pip: list[str], tmp_path: Path) -> None:
    """pip reads them as for the Python that it runs with."""
    for python, has_it in (("3.10", True), ("3.11", False)):
        place = tmp_path / python
        place.mkdir()
        gather.gather(asked(place, python=python))
        assert any(word.startswith("exceptiongroup==") for word in pip) == has_it


@pytest.mark.parametrize(
    ("device", "machine", "refused"),
    [
        *(("cpu", HERE, False), ("cuda", HERE, False)),
        *(("npu", "aarch64", False), ("npu", "x86_64", True), ("cpu", "riscv64", True)),
    ],
)
def test_a_torch_that_would_not_be_loaded_there_is_not_taken(
    device: str, machine: str, refused: bool, pip: list[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """pip's own index has torch for CUDA, but for 2.10 on aarch64."""
    monkeypatch.setattr(gather, "first_listing", lambda *_words, **_more: None)
    if not refused:
        gather.gather(asked(tmp_path, device=device, machine=machine))
        assert pip
        return
    with pytest.raises(EnvironmentFault, match="CPU builds"):
        gather.gather(asked(tmp_path, device=device, machine=machine))
    assert not pip


@pytest.mark.parametrize(
    ("said", "kind", "says"),
    [
        ("/usr/bin/python: No module named pip", EnvironmentFault, ["has no pip", "-m ensurepip"]),
        (NO_WHEEL, EnvironmentFault, ["lists no x==1 for", "--python 3.11"]),
        ("ERROR: [Errno 28] No space left on device", CapacityError, ["No space", "install.sh"]),
        (f"{NO_NAME}\n{NO_WHEEL}", EnvironmentFault, ["service not known", "PIP_INDEX_URL="]),
    ],
    ids=["no pip", "no wheel", "disk", "network"],
)
def test_what_pip_says_is_put_into_words(
    said: str,
    kind: type[DanluError],
    says: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gather, "run_pip", lambda _words: said)
    monkeypatch.setattr(gather, "first_listing", lambda *_words, **_more: None)
    with pytest.raises(kind) as caught:
        gather.gather(asked(tmp_path))
    for text, line in zip(says, str(caught.value).splitlines()[1:], strict=True):
        assert text in line


@pytest.fixture
def wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a stand-in in the place of the installer's program, and of the disk's patience."""

    def put(folder: Path, target: BundleTarget, command: str) -> None:
        (folder / WHEELS).mkdir()
        (folder / WHEELS / "one.whl").write_bytes(b"a wheel")
        record = {
            "device": target.device, "machine": target.machine, "python": target.python,
            "requirements": ["numpy"], "pins": {"torch": "2.13.0+cpu"}, "command": command,
        }  # fmt: skip
        (folder / RECORD).write_text(json.dumps(record, indent=1), "utf-8")

    monkeypatch.setattr(bundle, "_gather", put)
    monkeypatch.setattr(disk, "DISK", HastyDisk())


def model_in(folder: Path) -> Path:
    """Write what danlu takes for a pulled model."""
    with committed_folder(folder / "Qwen3-0.6B") as draft:
        draft.write("config.json", "{}")
        draft.write("model.safetensors", b"weights")
    return folder / "Qwen3-0.6B"


def write(folder: Path, models: list[Path], target: BundleTarget = TARGET) -> None:
    scripts = {"1-8B推理-命令行.sh": ROOT / "scripts" / "oneclick" / "1-8B推理-命令行.sh"}
    write_bundle(
        folder, target, models=models, scripts=scripts, command=COMMAND, progress=no_progress
    )


@pytest.mark.usefixtures("wheels")
def test_it_holds_everything_with_its_checksum_and_nothing_of_the_clones(tmp_path: Path) -> None:
    write(tmp_path / "b", [model_in(tmp_path)])
    names = set(verify(tmp_path / "b"))
    assert {
        "scripts/install.sh", "tools/install/__main__.py", "src/danlu/program.py", "pyproject.toml",
        "constraints.txt", "wheels/one.whl", "bundle.json", "READ-ME-FIRST.md",
        "scripts/oneclick/1-8B推理-命令行.sh", "models/Qwen3-0.6B/model.safetensors",
        "models/Qwen3-0.6B/manifest.json", "src/danlu/locale/zh_CN/LC_MESSAGES/danlu.mo",
    } <= names  # fmt: skip
    assert not [name for name in names if "__pycache__" in name or name.startswith((".venv", "."))]
    written = {
        str(p.relative_to(tmp_path / "b")) for p in (tmp_path / "b").rglob("*") if p.is_file()
    }
    assert written == names | {MANIFEST}
    text = (tmp_path / "b" / "READ-ME-FIRST.md").read_text("utf-8")
    assert "Qwen3-0.6B" in text
    assert f"Python {PYTHON}" in text
    assert "离线" in text


@pytest.mark.usefixtures("wheels")
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_kernels_go_along_to_a_machine_of_this_kind_and_their_sources_to_all(
    machine: str, tmp_path: Path
) -> None:
    if not build.OUTPUT.is_file():
        pytest.skip("the kernels are not built: make native")
    target = BundleTarget(device="cpu", machine=machine, python=PYTHON, cann="9.1")
    write(tmp_path / "b", [], target)
    names = set(verify(tmp_path / "b"))
    assert {"native/build.py", "native/simd.h", "native/kernels/table.cpp"} <= names
    assert ("src/danlu/ops/native/libdanlu.so" in names) == (machine == HERE)


@pytest.mark.usefixtures("wheels")
@pytest.mark.parametrize("case", ["there already", "no clone", "damaged model", "full disk"])
def test_what_cannot_be_written_is_told_and_leaves_nothing(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, folder = model_in(tmp_path), tmp_path / "b"
    kind: type[DanluError] = EnvironmentFault
    if case == "there already":
        folder.mkdir()
        kind = UsageError
    elif case == "no clone":
        monkeypatch.setattr(bundle, "_CLONE", tmp_path)
    elif case == "damaged model":
        (model / "model.safetensors").write_bytes(b"weightz")
        kind = DataError
    else:
        monkeypatch.setattr(disk, "DISK", RefusingDisk(errno.ENOSPC, "write"))
        kind = CapacityError
    with pytest.raises(kind):
        write(folder, [model])
    assert {path.name for path in tmp_path.iterdir()} <= {"Qwen3-0.6B", "b"}
    assert not folder.exists() or not any(folder.iterdir())


@pytest.mark.parametrize(
    ("name", "says"), [("Qwen3-0.6B", "danlu pull Qwen3-0.6B"), ("Qwen3-9B", "danlu pull Qwen3-8B")]
)
def test_a_model_that_is_not_here_is_named(
    name: str,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DANLU_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DANLU_LANG", "en")
    assert main(["bundle", str(tmp_path / "b"), "--models", name]) == 2
    assert says.partition(" ")[2] in capsys.readouterr().err.splitlines()[2]
    assert not (tmp_path / "b").exists()


def test_the_installers_program_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real one, which refuses: there is no torch_npu for this CANN."""
    monkeypatch.setenv("DANLU_LANG", "en")
    with pytest.raises(EnvironmentFault, match="no torch_npu") as caught:
        write(tmp_path / "b", [], BundleTarget(device="npu", machine=HERE, python=PYTHON, cann="7"))
    assert "CANN 7" in caught.value.why
    assert not list(tmp_path.iterdir())


@pytest.fixture
def machine(tmp_path: Path, wheels: None) -> Machine:
    """A machine without network, and a bundle on it."""
    made = Machine(tmp_path)
    made.add_python()
    shutil.rmtree(made.clone)
    write(made.clone, [model_in(tmp_path)])
    made.add_environment()
    return made


def test_installing_asks_no_network_and_brings_the_models(machine: Machine) -> None:
    for _ in range(2):
        done = machine.install()
        assert done.returncode == 0, done.stderr
    assert "from this bundle" in done.stdout
    words = machine.pip_words
    assert words[words.index("--no-index") + 1 :][:2] == [
        "--find-links", str(machine.clone / WHEELS),
    ]  # fmt: skip
    assert "torch==2.13.0+cpu\n" in machine.pins
    model = machine.home / ".danlu" / "models" / "Qwen3-0.6B"
    assert set(verify(model)) == {"config.json", "model.safetensors"}
    # It takes no space twice.
    assert (model / "model.safetensors").samefile(
        machine.clone / "models" / "Qwen3-0.6B" / "model.safetensors"
    )


def spoil(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(b"spoiled")


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        (spoil("wheels/one.whl"), "wheels/one.whl"),
        (remove("models/Qwen3-0.6B/model.safetensors"), "model.safetensors"),
        (spoil("manifest.json"), "manifest.json"),
        (spoil("bundle.json"), "bundle.json"),
    ],
    ids=["wheel", "model", "checksums", "record"],
)
def test_a_damaged_or_missing_file_is_named_before_anything_is_installed(
    machine: Machine, harm: Callable[[Path], None], named: str
) -> None:
    harm(machine.clone)
    done = machine.install()
    assert done.returncode == 5
    lines = done.stderr.splitlines()
    assert len(lines) == 3
    assert named in lines[0]
    assert "opy" in lines[2]
    if named != "bundle.json":  # which says the command
        assert lines[2].endswith(COMMAND)
    assert not machine.log.exists() or "-m|pip|" not in machine.log.read_text("utf-8")


def change_record(folder: Path, **changes: str) -> None:
    record = json.loads((folder / RECORD).read_text("utf-8"))
    (folder / RECORD).write_text(json.dumps(record | changes, indent=1), "utf-8")


def test_a_bundle_for_other_processors_says_how_to_make_the_right_one(machine: Machine) -> None:
    change_record(machine.clone, machine="riscv64", command=COMMAND.replace(HERE, "riscv64"))
    done = machine.install()
    assert done.returncode == 3
    assert "riscv64" in done.stderr.splitlines()[1]
    assert done.stderr.splitlines()[2].endswith(f"--machine {HERE}")


def test_a_bundle_for_another_python_says_which(machine: Machine) -> None:
    change_record(machine.clone, python="3.9")
    done = machine.install()
    assert done.returncode == 3
    first, found, how = done.stderr.splitlines()
    assert first == "This bundle is for Python 3.9."
    assert PYTHON in found
    assert "PYTHON=/path/to/python3 bash " in how


@pytest.mark.soak
def test_the_whole_way_without_a_network(tmp_path: Path) -> None:
    """Real packages: a bundle for this machine, then a Python environment from nothing else."""
    folder = tmp_path / "离线 bundle"
    danlu = str(Path(sys.executable).with_name("danlu"))
    home = {"DANLU_HOME": str(tmp_path / "home"), "DANLU_LANG": "en"}
    made = subprocess.run(
        [danlu, "bundle", str(folder)], env=os.environ | home, capture_output=True, text=True
    )
    if "could not be downloaded" in made.stderr:
        pytest.skip("no package index can be reached")
    assert made.returncode == 0, made.stderr
    nobody = "http://127.0.0.1:9"
    cut = {"PIP_INDEX_URL": nobody, "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""}
    cut |= dict.fromkeys(("http_proxy", "https_proxy"), nobody)
    done = subprocess.run(
        ["bash", str(folder / "scripts" / "install.sh")],
        env=os.environ | home | cut | {"PYTHON": BASE_PYTHON},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    installed = folder / ".venv" / "bin" / "danlu"
    for words in ("--version", "info --json", 'generate --model starter "Who are you?"'):
        said = subprocess.run(
            [installed, *shlex.split(words)], env=os.environ | home | cut, capture_output=True,
            text=True, check=True, cwd=tmp_path,
        )  # fmt: skip
        assert said.stdout.strip()
