"""One word per concept, and one concept per word: ARCHITECTURE.md's tables hold for every name.

The table of words says where each concept lives and what it is not called; the table of shared
names lists the file names that several rooms use for the same thing.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator

from tests.helpers.source import PACKAGE, ROOT, danlu_modules

MAX_FILES_SIDE_BY_SIDE = 15
PAGE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")


def table(heading: str) -> list[list[str]]:
    """Read the cells of the first table below a heading of ARCHITECTURE.md, its head left out."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def in_code(cell: str) -> list[str]:
    """List what stands between backticks."""
    return re.findall(r"`([^`]+)`", cell)


def files_by_name() -> dict[str, set[str]]:
    """Map each file name, without .py, to the folders that hold one."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in PACKAGE.rglob("*.py"):
        if path.name != "__init__.py":
            found[path.stem].add(path.parent.relative_to(PACKAGE).as_posix())
    return found


def classes() -> Iterator[tuple[str, str]]:
    """Give (name, place) of every class."""
    for module in danlu_modules().values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef):
                yield node.name, module.at(node)


def words_of(name: str) -> set[str]:
    """Take a file's or a class's name apart, in lower case: {"request", "id"} of RequestId."""
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


def test_a_file_name_in_two_rooms_means_one_thing() -> None:
    shared = {in_code(row[0])[0]: set(in_code(row[2])) for row in table("Names that rooms share")}
    twice = {name: rooms for name, rooms in files_by_name().items() if len(rooms) > 1}
    assert twice == shared


def test_no_class_name_is_defined_twice() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for name, place in classes():
        places[name].append(place)
    assert not {name: found for name, found in places.items() if len(found) > 1}


def test_every_word_lives_where_the_table_says() -> None:
    known = {name for name, _place in classes()}
    missing = [
        place
        for row in table("Words")
        for place in in_code(row[2])
        if place not in known and not (PACKAGE / place).exists()
    ]
    assert not missing


def test_no_name_uses_another_word_for_it() -> None:
    others = {other: row[0] for row in table("Words") for other in in_code(row[3])}
    names = {*files_by_name(), *(name for name, _place in classes())}
    wrong = {
        name: f"{word}: say {others[word]}"
        for name in names
        for word in words_of(name) & others.keys()
    }
    assert not wrong


def test_no_folder_is_a_corridor() -> None:
    sizes: dict[str, int] = defaultdict(int)
    for path in PACKAGE.rglob("*.py"):
        sizes[path.parent.relative_to(PACKAGE).as_posix()] += path.name != "__init__.py"
    assert not {folder: size for folder, size in sizes.items() if size > MAX_FILES_SIDE_BY_SIDE}
