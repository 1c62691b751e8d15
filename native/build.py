"""Builds the library of kernels for the CPU: `python native/build.py [--output FILE]`.

Only the standard library is here: it runs before danlu is installed, called by the wheel's hook
(hatch_build.py), by the installation (tools/install), by `make native` and by the tests. A C++
compiler is all it needs: $CXX, g++ or clang++; for another machine, that one's g++. A library is up
to date when its build ID is the digest of the sources: times change with a copy or a checkout.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
OUTPUT = HERE.parent / "src" / "danlu" / "ops" / "native" / "libdanlu.so"
# Compiled once, and once for each instruction set.
ONCE = tuple(sorted(HERE.glob("*.cpp")))
BY_SET = tuple(sorted((HERE / "kernels").rglob("*.cpp")))
# The instruction sets, and the options for each.
INSTRUCTION_SETS = {
    "x86_64": {
        "avx2": ("-mavx2", "-mfma", "-mf16c"),
        "avx512": ("-march=skylake-avx512", "-mprefer-vector-width=512"),
        "avx512_bf16": ("-march=cooperlake", "-mprefer-vector-width=512"),
        "amx": ("-march=cooperlake", "-mprefer-vector-width=512", "-mamx-tile", "-mamx-bf16"),
    },
    "aarch64": {
        "neon": ("-march=armv8-a",),
        "neon_dot": ("-march=armv8.2-a+dotprod",),
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
LINKS = ("-static-libgcc", "-Wl,--as-needed", "-Wl,-z,noexecstack", "-Wl,--gc-sections")
# A compiler that takes longer hangs.
PATIENCE_S = 240.0
# Which libraries each Linux has that a wheel for `manylinux` may be for. Source: PEP 600.
_EVERYWHERE = re.compile(rb"(libc|libm|ld-linux-x86-64|ld-linux-aarch64)\.so\.\d+")
_GLIBC = re.compile(rb"GLIBC_(\d+)\.(\d+)(?:\.\d+)?")


class CannotBuild(Exception):
    """Why there is no library."""


def build(output: Path = OUTPUT, *, machine: str | None = None, extra: Sequence[str] = ()) -> None:
    """Compile and link; raise CannotBuild where that fails.

    machine: for another one. extra: more options for the compiler.
    """
    machine = machine or platform.machine()
    mark = f"-Wl,--build-id=0x{digest_of_sources(machine)}"
    links = ("-shared", "-s", mark)
    _make(output, machine, once=ONCE, by_set=BY_SET, links=links, extra=extra)


def build_check(output: Path, *, machine: str | None = None, extra: Sequence[str] = ()) -> None:
    """Build the program that compares every kernel with plain code (tests/); as `build`."""
    once = (*ONCE, *sorted((HERE / "tests").glob("*.cpp")))
    by_set = (*BY_SET, *sorted((HERE / "tests" / "by_set").glob("*.cpp")))
    machine = machine or platform.machine()
    _make(output, machine, once=once, by_set=by_set, links=("-pthread",), extra=extra)


def is_up_to_date(output: Path = OUTPUT, machine: str | None = None) -> bool:
    """Whether a library was made for a machine from the sources as they are."""
    mark = bytes.fromhex(digest_of_sources(machine or platform.machine()))
    try:
        return mark in output.read_bytes()
    except OSError:
        return False


def digest_of_sources(machine: str) -> str:
    """Return the sha256 of all that a library for a machine is made of."""
    digest = hashlib.sha256(machine.encode())
    headers = (*HERE.glob("*.h"), *(HERE / "kernels").rglob("*.h"))
    for file in sorted((Path(__file__).resolve(), *headers, *ONCE, *BY_SET)):
        digest.update(b"\0%s\0" % file.name.encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def platform_tag(library: Path, machine: str | None = None) -> str:
    """Return the platform of a wheel with this library, as in `py3-none-PLATFORM`.

    What it needs of other libraries stands in it by name: GLIBC_2.27 and libm.so.6. Where it needs
    more than the C library of every Linux, the platform is this machine's own.
    """
    names = library.read_bytes().split(b"\0")
    needed = [name for name in names if re.fullmatch(rb"[\w+.-]+\.so[.\d]*", name)]
    others = [name for name in needed if not _EVERYWHERE.fullmatch(name)]
    versions = [
        tuple(map(int, found.groups())) for name in names if (found := _GLIBC.fullmatch(name))
    ]
    machine = machine or platform.machine()
    if others or not versions:
        return f"linux_{machine}"
    major, minor = max(versions)
    return f"manylinux_{major}_{minor}_{machine}"


def _make(
    output: Path,
    machine: str,
    *,
    once: Sequence[Path],
    by_set: Sequence[Path],
    links: Sequence[str],
    extra: Sequence[str],
) -> None:
    """Compile, and link all to a file that appears at once."""
    if machine not in INSTRUCTION_SETS:
        raise CannotBuild(f"there are no kernels for {machine}")
    compiler = _compiler(machine)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="danlu-native-") as place:
        sets = _known_sets(compiler, machine)
        has = [f"-DDANLU_HAS_{name}" for name in sets]
        jobs = [(source, has) for source in once]
        for name, options in sets.items():
            here = [*options, f"-DDANLU_ISA={name}"]
            jobs += [(source, here) for source in by_set]

        def compiled(number: int) -> str:
            source, options = jobs[number]
            made = str(Path(place, f"{number}.o"))
            _run([*compiler, *FLAGS, *options, *extra, "-c", str(source), "-o", made])
            return made

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(compiled, range(len(jobs))))
        whole = Path(place, output.name)
        _run([*compiler, *extra, *LINKS, *links, *objects, "-o", str(whole)])
        # At its place in one step: a process may have the old one loaded.
        beside = output.with_name(f".{output.name}.{os.getpid()}")
        shutil.copy(whole, beside)
        beside.replace(output)


def _known_sets(compiler: Sequence[str], machine: str) -> dict[str, tuple[str, ...]]:
    """Return the instruction sets that this compiler knows: older ones lack the newest."""
    known, fault = {}, None
    for name, options in INSTRUCTION_SETS[machine].items():
        try:
            _run([*compiler, *options, "-fsyntax-only", "-x", "c++", os.devnull])
            known[name] = options
        except CannotBuild as unknown:
            fault = unknown
    if fault is not None and not known:
        raise fault
    return known


def _compiler(machine: str) -> list[str]:
    named = os.environ.get("CXX", "").split()
    if named:
        return named
    there = machine != platform.machine()
    names = (f"{machine}-linux-gnu-g++",) if there else ("g++", "clang++")
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        raise CannotBuild(f"there is no C++ compiler ({' or '.join(names)})")
    return [found]


def _run(words: Sequence[str]) -> None:
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, errors="replace", timeout=PATIENCE_S
        )
    except OSError as fault:
        raise CannotBuild(f"{words[0]}: {fault.strerror}") from None
    except subprocess.TimeoutExpired:
        raise CannotBuild(f"{words[0]} took longer than {PATIENCE_S:.0f} seconds") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line]
        said = lines[0] if lines else done.stderr[-300:]
        raise CannotBuild(f"{Path(words[0]).name}: {said.strip()}")


def main() -> None:
    """Build it where it is missing or old, or say why not."""
    parser = argparse.ArgumentParser(description="Builds the kernels for the CPU.")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--machine", help="x86_64 or aarch64; the usual: this one")
    options, extra = parser.parse_known_args()
    try:
        if extra or not is_up_to_date(options.output, options.machine):
            build(options.output, machine=options.machine, extra=extra)
    except CannotBuild as fault:
        sys.exit(f"The kernels for the CPU are not built: {fault}.")
    print(f"The kernels for the CPU are built: {options.output}")


if __name__ == "__main__":
    main()
