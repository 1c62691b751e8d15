"""Size as a symptom: a long file holds two ideas, a long function several steps."""

from __future__ import annotations

import ast

from tests.helpers.source import Module, all_modules, danlu_modules

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60
# module:function -> why it is easier to read in one piece.
LONG_FUNCTIONS: dict[str, str] = {}
ANNOTATED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.AnnAssign)
NAMES_THAT_SAY_NOTHING = {"utils", "util", "helpers", "common", "misc", "tools"}


def function_lines(module: Module) -> dict[str, int]:
    """Map each function's `module:name` to its number of lines, decorators left out."""
    return {
        f"{module.name}:{node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_no_file_is_too_long() -> None:
    sizes = {module.where: module.text.count("\n") for module in all_modules()}
    too_long = {where: lines for where, lines in sizes.items() if lines > MAX_FILE_LINES}
    assert not too_long


def test_no_function_is_too_long() -> None:
    too_long = {
        name: lines
        for module in danlu_modules().values()
        for name, lines in function_lines(module).items()
        if lines > MAX_FUNCTION_LINES
    }
    assert too_long.keys() == LONG_FUNCTIONS.keys(), too_long


def test_every_file_says_what_it_is_for() -> None:
    silent = [
        module.where
        for module in danlu_modules().values()
        if module.text.strip() and not ast.get_docstring(module.tree)
    ]
    assert not silent


def test_every_file_has_lazy_annotations() -> None:
    """On Python 3.10 an annotation is evaluated otherwise, and newer names in it fail."""
    eager = [
        module.where
        for module in all_modules()
        if any(isinstance(node, ANNOTATED) for node in ast.walk(module.tree))
        and "__future__.annotations" not in module.imports
    ]
    assert not eager


def test_names_say_something() -> None:
    vague = [name for name in danlu_modules() if set(name.split(".")) & NAMES_THAT_SAY_NOTHING]
    assert not vague
