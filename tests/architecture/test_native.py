"""native/: the sizes and names of the house hold for C++ too, and what it must not include."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from tests.architecture.test_size import (
    MAX_FILE_LINES,
    MAX_FUNCTION_LINES,
    NAMES_THAT_SAY_NOTHING,
)
from tests.architecture.test_words import MAX_FILES_SIDE_BY_SIDE
from tests.helpers.source import ROOT

FOLDER = ROOT / "native"
SOURCES = sorted([*FOLDER.rglob("*.cpp"), *FOLDER.rglob("*.h")])
# The library does without C++'s own: what is here is compiled away, or belongs to C and the system.
HEADERS = {
    "atomic", "cmath", "cstddef", "cstdint", "cstdlib", "cstring", "initializer_list",
    "type_traits", "immintrin.h", "arm_neon.h", "asm/hwcap.h", "sys/auxv.h",
    "cpuid.h", "sys/syscall.h", "unistd.h",
}  # fmt: skip


def is_test(path: Path) -> bool:
    return "tests" in path.relative_to(FOLDER).parts


def functions(text: str) -> Iterator[tuple[str, int]]:
    """Give the first line and the length of each function that stands at the margin."""
    begun, first, is_open = 0, "", False
    for number, line in enumerate(text.splitlines()):
        if not is_open and line and line[0] not in " }#/" and not line.startswith("namespace"):
            begun, first = number, line
        is_open |= bool(first) and line.endswith("{")
        if is_open and line in ("}", "};"):
            if not first.startswith(("struct", "class", "enum")):
                yield first, number - begun + 1
            first, is_open = "", False


def test_functions_are_found() -> None:
    text = (
        "namespace a {\n\nstruct S {\n    int a;\n};\n\n// Of a.\nint g() {\n    return 1;\n}\n\n"
        "template <typename A>\nvoid f(A a,\n       int b) {\n    if (a) {\n    }\n}\n\n"
        "}  // namespace a\n"
    )
    assert list(functions(text)) == [("int g() {", 3), ("void f(A a,", 5)]


def test_no_file_and_no_function_is_too_long() -> None:
    assert SOURCES
    texts = {path: path.read_text("utf-8") for path in SOURCES}
    assert not [path.name for path, text in texts.items() if text.count("\n") > MAX_FILE_LINES]
    assert not [
        f"{path.name}: {first}"
        for path, text in texts.items()
        for first, lines in functions(text)
        if lines > MAX_FUNCTION_LINES
    ]


def test_every_file_says_what_it_is_for() -> None:
    """The header speaks for the file that it belongs to."""
    silent = [
        path.relative_to(ROOT).as_posix()
        for path in SOURCES
        if not path.read_text("utf-8").startswith("// ")
        and not (path.suffix == ".cpp" and path.with_suffix(".h").exists())
    ]
    assert not silent


def test_names_say_something_and_stand_once() -> None:
    names = Counter(path.name for path in SOURCES if not is_test(path))
    assert not [name for name, count in names.items() if count > 1]
    assert not [path for path in SOURCES if path.stem in NAMES_THAT_SAY_NOTHING]
    sizes: dict[Path, int] = defaultdict(int)
    for path in SOURCES:
        sizes[path.parent] += path.suffix == ".cpp"
    assert not [folder for folder, size in sizes.items() if size > MAX_FILES_SIDE_BY_SIDE]


def test_the_library_needs_nothing_of_the_library_of_cpp() -> None:
    """One copy of a template, made for one instruction set, would serve all of them."""
    found = {
        f"{path.name}: <{name}>"
        for path in SOURCES
        if not is_test(path)
        for name in re.findall(r"#include <(.+)>", path.read_text("utf-8"))
        if name not in HEADERS
    }
    assert not found
