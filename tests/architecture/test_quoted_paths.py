"""What an error advises can be typed as it is printed: a path in a command stands in quotes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.helpers.source import ROOT

# A field behind a flag, or behind the name of a program.
IN_A_COMMAND = re.compile(r"(?:--\w+[ =]|\bchmod \d+ |\b(?:mv|rm|cp) |\bdanlu [\w -]*)\{(\w+)")
PATHS = re.compile(r"\b\w*(?:path|folder|file|adapter|base_of|recorded_base)\b")


def fields_of(fix: ast.expr) -> Iterator[tuple[str, dict[str, ast.expr]]]:
    """Give the templates inside an advice, each with what stands in its fields."""
    for node in ast.walk(fix):
        if isinstance(node, ast.JoinedStr):
            values = {
                f"field{number}": part.value
                for number, part in enumerate(node.values)
                if isinstance(part, ast.FormattedValue)
            }
            yield (
                "".join(
                    str(part.value) if isinstance(part, ast.Constant) else f"{{field{number}}}"
                    for number, part in enumerate(node.values)
                ),
                values,
            )
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "format"
        ):
            texts = [
                part.value
                for part in ast.walk(node.func.value)
                if isinstance(part, ast.Constant) and isinstance(part.value, str)
            ]
            yield " ".join(texts), {word.arg: word.value for word in node.keywords if word.arg}


def unquoted(source: str) -> list[str]:
    """Return what stands in a command that is advised, is a path, and is not quoted."""
    return [
        ast.unparse(values[name])
        for call in ast.walk(ast.parse(source))
        if isinstance(call, ast.Call)
        for word in call.keywords
        if word.arg == "fix"
        for template, values in fields_of(word.value)
        for name in IN_A_COMMAND.findall(template)
        if name in values
        and PATHS.search(ast.unparse(values[name]))
        and "shlex" not in ast.unparse(values[name])
    ]


def test_paths_in_commands_are_quoted() -> None:
    files = sorted((ROOT / "src" / "danlu").rglob("*.py"))
    found = {str(file): unquoted(file.read_text(encoding="utf-8")) for file in files}
    assert {file: paths for file, paths in found.items() if paths} == {}


def test_a_path_that_is_not_quoted_is_found() -> None:
    assert unquoted('E(fix=f"chmod 600 {path}")') == ["path"]
    assert unquoted('E(fix=_("Use --adapter {it}").format(it=run.path))') == ["run.path"]
    assert unquoted('E(fix=_("Use --adapter {it}").format(it=shlex.quote(str(path))))') == []
    assert unquoted('E(fix=_("Copy the file {it} again.").format(it=path))') == []
