"""Builds the library of kernels for the CPU: `python native/build.py [--output FILE]`.

Only the standard library is here: it runs before danlu is installed, called by the wheel's hook
(hatch_build.py), by `make setup` and by the tests. A C++ compiler is all it needs: $CXX, g++ or clang++.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
OUTPUT = HERE.parent / "src" / "danlu" / "ops" / "native" / "libdanlu.so"
# Each file of kernels is compiled once for each of these, with these options.
INSTRUCTION_SETS = {
    "x86_64": {
        "avx2": ("-mavx2", "-mfma", "-mf16c"),
        "avx512": ("-march=skylake-avx512", "-mprefer-vector-width=512"),
        "avx512_bf16": ("-march=cooperlake", "-mprefer-vector-width=512"),
    },
    "aarch64": {
        "neon": ("-march=armv8-a",),
        "neon_bf16": ("-march=armv8.2-a+bf16+dotprod+i8mm",),
    },
}
FLAGS = (
    *("-std=c++17", "-O3", "-fPIC", "-Wall", "-Wextra"),
    *("-fvisibility=hidden", "-fno-exceptions", "-fno-rtti", "-fno-math-errno"),
    *("-fno-trapping-math", "-Wno-psabi", "-Wno-ignored-attributes"),
    # GCC 12 finds this in its own headers.
    *("-Wno-uninitialized", "-Wno-maybe-uninitialized"),
)


class CannotBuild(Exception):
    """Why there is no library."""


def build(output: Path = OUTPUT, *, machine: str | None = None, extra: Sequence[str] = ()) -> None:
    """Compile and link; raise CannotBuild where that fails.

    machine: for another one, with a compiler for it in $CXX. extra: more options for the compiler.
    """
    sets = INSTRUCTION_SETS.get(machine or platform.machine())
    if sets is None:
        raise CannotBuild(f"there are no kernels for {machine or platform.machine()}")
    compiler = _compiler()
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="danlu-native-") as place:
        jobs = [(source, ()) for source in sorted(HERE.glob("*.cpp"))]
        for name, options in sets.items():
            here = (*options, f"-DDANLU_ISA={name}")
            jobs += [(source, here) for source in sorted((HERE / "kernels").glob("*.cpp"))]

        def compiled(number: int) -> str:
            source, options = jobs[number]
            made = str(Path(place, f"{number}.o"))
            _run([*compiler, *FLAGS, *options, *extra, "-c", str(source), "-o", made])
            return made

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(compiled, range(len(jobs))))
        whole = Path(place, output.name)
        links = ("-shared", "-static-libgcc", "-Wl,-z,noexecstack", "-Wl,--gc-sections", "-s")
        _run([*compiler, *extra, *links, *objects, "-o", str(whole)])
        # At its place in one step: a process may have the old one loaded.
        beside = output.with_name(f".{output.name}.{os.getpid()}")
        shutil.copyfile(whole, beside)
        beside.replace(output)


def _compiler() -> list[str]:
    named = os.environ.get("CXX", "").split()
    if named:
        return named
    found = next((path for name in ("g++", "clang++") if (path := shutil.which(name))), None)
    if found is None:
        raise CannotBuild("there is no C++ compiler: g++ or clang++")
    return [found]


def _run(words: Sequence[str]) -> None:
    try:
        done = subprocess.run(words, capture_output=True, text=True, errors="replace")
    except OSError as fault:
        raise CannotBuild(f"{words[0]}: {fault.strerror}") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or [done.stderr[-300:]]
        raise CannotBuild(f"{Path(words[0]).name}: {lines[0].strip()}")


def main() -> None:
    """Build it, or say why not."""
    parser = argparse.ArgumentParser(description="Builds the kernels for the CPU.")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--machine", help="x86_64 or aarch64; the usual: this one")
    options, extra = parser.parse_known_args()
    try:
        build(options.output, machine=options.machine, extra=extra)
    except CannotBuild as fault:
        sys.exit(str(fault))


if __name__ == "__main__":
    main()
