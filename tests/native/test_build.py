"""native/build.py and the wheel's hook: what is built with which compiler, and what without one."""

from __future__ import annotations

import ctypes
import importlib.util
import platform
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from danlu.ops.native import library
from native import build
from tests.helpers.driver_tools import write_tool
from tests.helpers.native_sources import copy_native
from tests.helpers.source import ROOT

HERE = platform.machine()
COMPILER = shutil.which("g++") or shutil.which("clang++")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler")


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that alone is on PATH: there is no compiler but what a test puts there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CXX", raising=False)
    return folder


def module_of(script: Path) -> ModuleType:
    """Load a script of a tree as hatchling does."""
    spec = importlib.util.spec_from_file_location(script.stem, script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tree_in(folder: Path) -> Path:
    """Copy what a wheel with kernels is made of."""
    folder.mkdir(exist_ok=True)
    copy_native(folder)
    shutil.copy(ROOT / "hatch_build.py", folder)
    return folder


def version_of(file: Path) -> int:
    return int(ctypes.CDLL(str(file)).danlu_version())


def test_python_and_the_sources_have_the_same_number() -> None:
    text = (ROOT / "native" / "kernels.h").read_text("utf-8")
    assert re.findall(r"VERSION = (\d+);", text) == [str(library.VERSION)]


@pytest.mark.soak
@needs_compiler
def test_python_and_the_sources_have_the_same_kernels() -> None:
    header = (build.HERE / "kernels.h").read_text("utf-8")
    (names,) = re.findall(r"enum Kind : int32_t \{(.*?)NUM_KINDS", header, re.DOTALL)
    expected = [name.strip() for name in names.split(",") if name.strip()]
    assert [kind.name for kind in sorted(library.Kind)] == expected
    assert list(library.Kind) == list(range(len(expected)))


@pytest.mark.soak
@needs_compiler
def test_the_compiler_makes_a_library_that_says_its_version(tmp_path: Path) -> None:
    build.build(tmp_path / "lib.so")
    assert build.is_up_to_date(tmp_path / "lib.so")
    assert version_of(tmp_path / "lib.so") == library.VERSION


# Links as the real one does: the build ID it is told stands in what it makes.
LINKER = """
import pathlib, re, sys
words = sys.argv[1:]
(mark,) = re.findall("--build-id=0x([0-9a-f]+)", " ".join(words))
pathlib.Path(words[words.index("-o") + 1]).write_bytes(b"ELF" + bytes.fromhex(mark))
"""


def test_a_library_is_built_once_and_again_when_a_source_is_another(
    programs: Path, tmp_path: Path
) -> None:
    """With a compiler that is made up."""
    links = f'exec {sys.executable} -c {shlex.quote(LINKER)} "$@"'
    write_tool(programs, "g++", f'case "$*" in *-shared*) {links} ;; esac\n')
    tree = tree_in(tmp_path)
    native, file = module_of(tree / "native" / "build.py"), tmp_path / "here" / "lib.so"
    assert not native.is_up_to_date(file)
    native.build(file)
    assert native.is_up_to_date(file)
    assert [path.name for path in file.parent.iterdir()] == ["lib.so"]
    # Not its time counts, but what it is made of: a header as well, and the machine.
    assert not native.is_up_to_date(file, "riscv64")
    for name in ("kernels.h", "kernels/linear.cpp", "build.py"):
        source = tree / "native" / name
        text = source.read_text("utf-8")
        source.write_text(text + "\n", "utf-8")
        assert not native.is_up_to_date(file)
        source.write_text(text, "utf-8")
    assert native.is_up_to_date(file)


@pytest.mark.usefixtures("programs")
def test_without_a_compiler_the_reason_is_said(tmp_path: Path) -> None:
    with pytest.raises(build.CannotBuild, match=r"no C\+\+ compiler \(g\+\+ or clang\+\+\)"):
        build.build(tmp_path / "lib.so")
    with pytest.raises(build.CannotBuild, match="no kernels for riscv64"):
        build.build(tmp_path / "lib.so", machine="riscv64")
    assert not (tmp_path / "lib.so").exists()


@pytest.mark.parametrize(
    ("does", "says"),
    [
        ("echo 'x.cpp:1: error: the disk is full' >&2; exit 1", "g++: x.cpp:1: error: the disk"),
        ("echo 'cannot execute cc1plus' >&2; exit 1", "g++: cannot execute cc1plus"),
        pytest.param("exec sleep 60", "took longer than 1 seconds", marks=pytest.mark.soak),
    ],
)
def test_a_compiler_that_fails_or_hangs_leaves_the_old_library(
    does: str, says: str, programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (programs / "sleep").symlink_to("/bin/sleep")
    write_tool(programs, "g++", does + "\n")
    monkeypatch.setattr(build, "PATIENCE_S", 1.0)
    (tmp_path / "lib.so").write_text("old", "utf-8")
    with pytest.raises(build.CannotBuild) as fault:
        build.build(tmp_path / "lib.so")
    assert says in str(fault.value)
    assert (tmp_path / "lib.so").read_text("utf-8") == "old"


@pytest.mark.soak
@needs_compiler
@pytest.mark.skipif(HERE != "x86_64", reason="the option is for x86-64")
def test_a_compiler_that_does_not_know_the_newest_instructions_builds_the_others(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GCC 9, which Ubuntu 20.04 has, knows no cooperlake."""
    refuses = 'case "$*" in *cooperlake*) echo "error: bad value" >&2; exit 1 ;; esac\n'
    write_tool(programs, "old-g++", refuses + f'PATH=/usr/bin:/bin exec {COMPILER} "$@"\n')
    monkeypatch.setenv("CXX", "old-g++")
    build.build(tmp_path / "lib.so", extra=["-O0"])
    assert version_of(tmp_path / "lib.so") == library.VERSION
    with pytest.raises(library.NotHere, match="avx512_bf16"):
        library.Library(tmp_path / "lib.so", "avx512_bf16")


@pytest.mark.parametrize(
    ("names", "platform_of_wheel"),
    [
        (["libc.so.6", "libm.so.6", "GLIBC_2.2.5", "GLIBC_2.27"], "manylinux_2_27_x86_64"),
        (["libc.so.6", "ld-linux-x86-64.so.2", "GLIBC_2.9", "GLIBC_2.17"], "manylinux_2_17_x86_64"),
        (["libc.so.6", "libstdc++.so.6", "GLIBC_2.27"], "linux_x86_64"),
        (["libc.musl-x86_64.so.1"], "linux_x86_64"),
    ],
    ids=["math", "loader", "more than C", "another C library"],
)
def test_a_wheel_says_what_its_library_needs(
    names: list[str], platform_of_wheel: str, tmp_path: Path
) -> None:
    (tmp_path / "lib.so").write_bytes(b"\x7fELF\0" + "\0".join([*names, "free"]).encode() + b"\0")
    assert build.platform_tag(tmp_path / "lib.so", "x86_64") == platform_of_wheel


def test_what_the_linker_wrote_down_is_what_the_tag_says() -> None:
    if shutil.which("readelf") is None:
        pytest.skip("there is no readelf")
    if not build.is_up_to_date():
        pytest.skip("the kernels are not built: make native")
    said = subprocess.run(
        ["readelf", "-dVW", build.OUTPUT], capture_output=True, text=True, check=True
    ).stdout
    assert "libstdc++" not in said
    newest = max(tuple(map(int, found)) for found in re.findall(r"GLIBC_(\d+)\.(\d+)", said))
    assert build.platform_tag(build.OUTPUT) == f"manylinux_{newest[0]}_{newest[1]}_{HERE}"
    # What danlu itself needs is newer: pip refuses this wheel nowhere where danlu runs.
    assert newest <= (2, 31)


def test_the_hook_says_in_one_line_that_there_are_no_kernels(
    programs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = tree_in(tmp_path / "tree")
    hook = module_of(tree / "hatch_build.py")
    left_over = tree / hook.KERNELS
    left_over.parent.mkdir(parents=True)
    left_over.write_text("of other sources", "utf-8")
    assert hook.build_kernels(tree) is None
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert "no C++ compiler" in said
    assert "make native" in said


@needs_compiler
@pytest.mark.soak
def test_the_hook_builds_and_names_the_platform(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tree_in(tmp_path / "tree")
    hook = module_of(tree / "hatch_build.py")
    found = hook.build_kernels(tree)
    assert capsys.readouterr().out == "The kernels for the CPU are built.\n"
    assert found is not None
    assert found.endswith(HERE)
    assert version_of(tree / hook.KERNELS) == library.VERSION
    # A library that came along is taken where no compiler is.
    monkeypatch.setenv("PATH", str(tmp_path))
    assert hook.build_kernels(tree) == found
    assert capsys.readouterr().out == ""


def test_a_tree_without_the_sources_gets_no_kernels(tmp_path: Path) -> None:
    assert module_of(ROOT / "hatch_build.py").build_kernels(tmp_path) is None


@pytest.mark.soak
@needs_compiler
@pytest.mark.parametrize("has_compiler", [True, False], ids=["compiler", "no compiler"])
def test_a_wheel_from_an_sdist(has_compiler: bool, tmp_path: Path) -> None:
    """The real pip and hatchling; the wheel is installed, and says what it computes with."""
    made = tmp_path / "made"
    about = "import hatchling.build as b, sys; print(b.build_sdist(sys.argv[1]))"
    tools = tmp_path / "tools"
    got = subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--target", tools, "hatchling"],
        capture_output=True, text=True,
    )  # fmt: skip
    if got.returncode:
        pytest.skip("no package index can be reached")
    variables = {"PYTHONPATH": str(tools), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    subprocess.run([sys.executable, "-c", about, made], cwd=ROOT, env=variables, check=True)
    (sdist,) = made.iterdir()
    if not has_compiler:
        (tmp_path / "bin").mkdir()
        variables["PATH"] = str(tmp_path / "bin")
    pip = [sys.executable, "-m", "pip"]
    subprocess.run(
        [*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", made, sdist],
        env=variables, check=True,
    )  # fmt: skip
    (wheel,) = made.glob("*.whl")
    assert ("py3-none-any" in wheel.name) != has_compiler
    assert (f"_{HERE}.whl" in wheel.name) == has_compiler
    place = tmp_path / "site"
    subprocess.run([*pip, "install", "-q", "--no-deps", "--target", place, wheel], check=True)
    asked = "from danlu.ops.native.library import about_kernels, FILE; print(FILE, about_kernels())"
    variables |= {"PYTHONPATH": str(place), "DANLU_LANG": "en"}
    said = subprocess.run(
        [sys.executable, "-c", asked], cwd="/", env=variables, check=True, text=True,
        capture_output=True,
    ).stdout  # fmt: skip
    assert said.startswith(str(place))
    assert ("not built" in said) != has_compiler
    assert ("-m pip install --force-reinstall --no-deps git+https" in said) != has_compiler
