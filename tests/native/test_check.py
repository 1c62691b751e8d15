"""native/tests: every kernel against plain code, here, for aarch64 in qemu, and under sanitizers.

The program itself compares; these tests build it, and look at which instruction sets it ran with.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from native import build

HERE = platform.machine()
# What a processor must have, as /proc/cpuinfo names it.
NEEDED = {
    "avx2": "avx2",
    "avx512": "avx512bw",
    "avx512_bf16": "avx512_bf16",
    "amx": "amx_bf16",
    "neon_dot": "asimddp",
    "neon_bf16": "bf16",
}
SANITIZERS = {
    "plain": (),
    "memory": ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    "threads": ("-O1", "-g", "-fsanitize=thread"),
}

# Most of it is compiling.
pytestmark = [pytest.mark.soak, pytest.mark.timeout(1200)]


def sets_here() -> list[str]:
    """List the instruction sets that this processor has."""
    words = set(Path("/proc/cpuinfo").read_text("utf-8").split())
    known = build.INSTRUCTION_SETS[HERE]
    return [name for name in known if name == "neon" or NEEDED[name] in words]


def run(words: Sequence[str | Path]) -> str:
    """Run the program and return its last line; its faults are the test's."""
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout.splitlines()[-1]


@pytest.mark.skipif(not shutil.which("g++"), reason="there is no g++")
@pytest.mark.parametrize("watched", SANITIZERS)
def test_every_kernel_computes_rightly_here(watched: str, tmp_path: Path) -> None:
    options = SANITIZERS[watched]
    empty = tmp_path / "empty.cpp"
    empty.write_text("int main() {}", "utf-8")
    probe = ["g++", *options, empty, "-o", tmp_path / "empty"]
    if subprocess.run(probe, capture_output=True).returncode:
        pytest.skip(f"this g++ has no sanitizer of {watched}")
    build.build_check(tmp_path / "check", extra=options)
    assert run([tmp_path / "check"]) == f"right with: {' '.join(sets_here())}"


@pytest.mark.skipif("avx512_bf16" not in sets_here(), reason="this processor lacks AVX512-BF16")
@pytest.mark.skipif(not shutil.which("g++"), reason="there is no g++")
def test_what_is_asked_of_tiles_is_right(tmp_path: Path) -> None:
    """Plain code stands for the instructions of AMX."""
    build.build_check(tmp_path / "check", extra=["-O1", "-DDANLU_EMULATES_AMX"])
    assert run([tmp_path / "check", "amx"]) == "right with: amx"


@pytest.mark.skipif(not shutil.which("g++"), reason="there is no g++")
def test_no_function_of_one_instruction_set_serves_the_others(tmp_path: Path) -> None:
    """The linker keeps one copy of a template; what it is made for must stand in its name."""
    kept = tmp_path / "map"
    # Less is compiled away than in the library itself.
    build.build(tmp_path / "lib.so", extra=["-O1", f"-Wl,-Map={kept}"])
    names = re.findall(r"^ \.text\.(_Z\w+)", kept.read_text("utf-8"), re.MULTILINE)
    assert names
    sets = "|".join(build.INSTRUCTION_SETS[HERE])
    assert not [name for name in names if not re.search(rf"\d(?:{sets})", name)]


@pytest.mark.skipif(HERE == "aarch64", reason="aarch64 is here")
@pytest.mark.skipif(
    not shutil.which("aarch64-linux-gnu-g++"), reason="there is no compiler for aarch64"
)
@pytest.mark.skipif(not shutil.which("qemu-aarch64"), reason="there is no qemu-aarch64")
def test_every_kernel_computes_rightly_on_aarch64(tmp_path: Path) -> None:
    """Processors with bf16 and matrices of bytes, with dot products of bytes, with neither."""
    program = tmp_path / "check"
    build.build_check(program, machine="aarch64", extra=["-static"])
    runs = {"max": "neon neon_dot neon_bf16", "neoverse-n1": "neon neon_dot", "cortex-a72": "neon"}
    for processor, sets in runs.items():
        assert run(["qemu-aarch64", "-cpu", processor, program]) == f"right with: {sets}"
