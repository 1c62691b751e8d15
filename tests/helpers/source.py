"""Reads danlu's own source as syntax trees, for the rules in tests/architecture.

Imports count wherever they stand: at the top, under TYPE_CHECKING or inside a function.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "danlu"


@dataclass(frozen=True, kw_only=True)
class Module:
    """One source file. `name` is its dotted name, for example danlu.files.atomic."""

    name: str
    where: str
    text: str
    is_package: bool = False

    @cached_property
    def tree(self) -> ast.Module:
        """The syntax tree."""
        return ast.parse(self.text, self.where)

    @property
    def room(self) -> str:
        """The room it belongs to; empty for danlu/__init__.py and for code outside danlu."""
        return room_of(self.name)

    @cached_property
    def imports(self) -> dict[str, int]:
        """Map each dotted name that is imported to its line; `from a import b` gives a.b."""
        found: dict[str, int] = {}
        for node in ast.walk(self.tree):
            for name in self._imported(node):
                found.setdefault(name, node.lineno)  # type: ignore[attr-defined]
        return found

    def _imported(self, node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{self._base(node)}.{alias.name}" for alias in node.names)

    def _base(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = self.name.split(".")
        kept = parts[: len(parts) - node.level + self.is_package]
        return ".".join([*kept, *([node.module] if node.module else [])])

    @cached_property
    def _names(self) -> dict[str, str]:
        """Map local names to what they were imported from: {"np": "numpy"}."""
        names: dict[str, str] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    first = alias.name.split(".")[0]
                    names[alias.asname or first] = alias.name if alias.asname else first
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    names[alias.asname or alias.name] = f"{self._base(node)}.{alias.name}"
        return names

    def dotted(self, node: ast.expr) -> str | None:
        """Name an expression in full: with `import numpy as np`, np.load is numpy.load."""
        if isinstance(node, ast.Name):
            return self._names.get(node.id, node.id)
        if isinstance(node, ast.Attribute):
            owner = self.dotted(node.value)
            return owner and f"{owner}.{node.attr}"
        return None

    def calls(self) -> Iterator[ast.Call]:
        """Give every call in the file."""
        return (node for node in ast.walk(self.tree) if isinstance(node, ast.Call))

    def at(self, node: ast.AST) -> str:
        """Say where a node stands, as file:line."""
        return f"{self.where}:{node.lineno}"  # type: ignore[attr-defined]


def room_of(name: str) -> str:
    """Name the room of a dotted name: danlu.files.atomic is in files."""
    parts = name.split(".")
    return parts[1] if parts[0] == "danlu" and len(parts) > 1 else ""


@lru_cache(maxsize=1)
def danlu_modules() -> dict[str, Module]:
    """Read all of src/danlu, by dotted name."""
    return {module.name: module for module in _read(PACKAGE, PACKAGE.parent)}


@lru_cache(maxsize=1)
def all_modules() -> tuple[Module, ...]:
    """Read every Python file of the project."""
    others = (_read(ROOT / folder, ROOT) for folder in ("tests", "tools", "benchmarks", "native"))
    return (*danlu_modules().values(), *(module for folder in others for module in folder))


def snippet(text: str, name: str = "danlu.chat.example") -> Module:
    """Make a module of a few lines, to show that a rule finds what it should."""
    return Module(name=name, where="example.py", text=text)


def _read(folder: Path, base: Path) -> Iterator[Module]:
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(base).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        yield Module(
            name=".".join(parts[:-1] if is_package else parts),
            where=path.relative_to(ROOT).as_posix(),
            text=path.read_text(encoding="utf-8"),
            is_package=is_package,
        )
