"""Keeps the Chinese catalogue in step with the sentences in src/danlu and its installer.

    python -m tools.translations           collect the templates, update danlu.po, compile danlu.mo
    python -m tools.translations --check   change nothing; fail when one of them is out of date

Knows where sentences stand in the source (read as syntax trees) and gettext's files, through Babel.
A template that is new or reworded gets an empty or `fuzzy` entry in danlu.po: write the Chinese
there, remove the word `fuzzy`, update again. Must not know what any sentence means.
"""

from __future__ import annotations

import argparse
import ast
import io
import string
import sys
from collections.abc import Iterator
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

from danlu.files.atomic import atomic_write, make_folder
from danlu.language import LOCALE_FOLDER

ROOT = Path(__file__).resolve().parents[1]
# The installer speaks before anything is installed, from the same catalogue.
FOLDERS = (ROOT / "src" / "danlu", ROOT / "tools" / "install")
PO_FILE = LOCALE_FOLDER / "zh_CN" / "LC_MESSAGES" / "danlu.po"
MO_FILE = PO_FILE.with_suffix(".mo")

HEADER_COMMENT = "# Chinese sentences of danlu. Kept by `python -m tools.translations`."
# Module-level dictionaries and lists whose values are looked up later.
TABLES = (
    "AXES", "CHECK_NAMES", "COMMANDS", "CURVES", "FACT_NAMES", "FACT_VALUES", "FINDING_KINDS",
    "LIBRARY_SENTENCES", "MEANINGLESS", "NAME_REASONS", "NEXT_COMMANDS", "NOT_SERVED",
    "NO_TOKENIZER", "PLACEHOLDERS", "REFUSED", "SAMPLERS", "SCORE_NAMES", "SKILLS",
    "SYSTEM_REASONS", "TEXT_ONLY", "VALUE_RULES",
)  # fmt: skip
# Keywords whose texts are looked up later, by the function that takes them.
_SPOKEN_KEYWORDS = {
    "foreign": ("note", "instead"),
    "_foreign": ("advice",),
    "Field": ("description",),
    "APIRouter": ("tags",),
}
# Babel would write dates and its own version: the files would differ without a reason.
HEADERS = [
    ("Project-Id-Version", "danlu"),
    ("Language", "zh_CN"),
    ("MIME-Version", "1.0"),
    ("Content-Type", "text/plain; charset=utf-8"),
    ("Content-Transfer-Encoding", "8bit"),
]


class StableCatalog(Catalog):
    """A catalogue whose header says only what never changes."""

    def __init__(self) -> None:
        super().__init__(locale="zh_CN", header_comment=HEADER_COMMENT, fuzzy=False)

    @property
    def mime_headers(self) -> list[tuple[str, str]]:
        """The lines of the header entry."""
        return HEADERS


def main() -> int:
    """Update the catalogue, or check it; return 1 when something is left to do."""
    parser = argparse.ArgumentParser(description="Keep the Chinese catalogue up to date.")
    parser.add_argument("--check", action="store_true", help="change nothing, fail when stale")
    check = parser.parse_args().check
    catalog = updated_catalog()
    problems = faults(catalog)
    if check:
        problems += stale_files(catalog)
    else:
        make_folder(PO_FILE.parent)
        atomic_write(PO_FILE, po_bytes(catalog))
        atomic_write(MO_FILE, mo_bytes(catalog))
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{len(catalog)} templates, {len(problems)} problems")
    return 1 if problems else 0


def updated_catalog() -> Catalog:
    """Join the templates in the source with the translations in danlu.po."""
    catalog = StableCatalog()
    if PO_FILE.exists():
        with PO_FILE.open("rb") as file:
            for message in read_po(file, locale="zh_CN"):
                if message.id:
                    catalog[message.id] = message
    catalog.update(source_catalog())
    catalog.obsolete.clear()  # git remembers them
    return catalog


def source_catalog() -> Catalog:
    """Collect every template of FOLDERS, in the order of files and lines."""
    catalog = Catalog()
    for path in sorted(file for folder in FOLDERS for file in folder.rglob("*.py")):
        where = path.relative_to(ROOT).as_posix()
        tree = ast.parse(path.read_text(encoding="utf-8"), where)
        for line, template in sorted(templates(tree, where)):
            # The header of a catalogue is the translation of the empty text.
            if not template:
                raise SystemExit(f"{where}:{line}: an empty text is looked up or shown as help")
            catalog.add(template, locations=[(where, line)])
    return catalog


def templates(tree: ast.Module, where: str) -> Iterator[tuple[int, str]]:
    """Give the line and text of each template of one file.

    Besides `_("...")` these are the texts that danlu looks up later: the help of `option(...)`,
    the texts of `_SPOKEN_KEYWORDS`, the docstrings of settings classes and of the server's routes,
    and the values of TABLES.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id == "_":
                yield from _looked_up(node.args[0], where)
            elif node.func.id == "option":
                yield from _literal(_help_of(node))
            elif node.func.id in _SPOKEN_KEYWORDS:
                for keyword in node.keywords:
                    if keyword.arg in _SPOKEN_KEYWORDS[node.func.id]:
                        yield from _literal(keyword.value)
                        for part in getattr(keyword.value, "elts", []):
                            yield from _literal(part)
        elif isinstance(node, ast.ClassDef | ast.AsyncFunctionDef) and _is_spoken(node):
            # The studio's routes stand in no document: its page alone asks them.
            if isinstance(node, ast.ClassDef) or not where.startswith("src/danlu/web/"):
                yield node.lineno, _docstring(node, where)
        elif isinstance(node, ast.Assign) and _assigns(node, TABLES):
            yield from _literal(node.value)
            for value in getattr(node.value, "values", getattr(node.value, "elts", [])):
                yield from _literal(value)


def _literal(node: ast.expr | None) -> Iterator[tuple[int, str]]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.lineno, node.value


def _looked_up(node: ast.expr, where: str) -> Iterator[tuple[int, str]]:
    found = list(_literal(node))
    # A variable is fine: its text is collected where it is written.
    is_made_up = any(
        isinstance(part, ast.JoinedStr) or list(_literal(part)) not in ([], [(part.lineno, "")])
        for part in ast.walk(node)
        if isinstance(part, ast.expr)
    )
    if is_made_up and not found:
        raise SystemExit(f"{where}:{node.lineno}: _() needs one plain text; fill it in afterwards")
    yield from found


def _help_of(call: ast.Call) -> ast.expr | None:
    named = [keyword.value for keyword in call.keywords if keyword.arg == "help"]
    return next(iter([*call.args[1:2], *named]), None)


def _is_spoken(node: ast.ClassDef | ast.AsyncFunctionDef) -> bool:
    """Tell whether the docstring is for users: of settings, and of the server's routes."""
    if isinstance(node, ast.AsyncFunctionDef):
        return _is_route(node)
    return any(isinstance(base, ast.Name) and base.id.endswith("Settings") for base in node.bases)


def _is_route(node: ast.AsyncFunctionDef) -> bool:
    return any(
        isinstance(one, ast.Call)
        and isinstance(one.func, ast.Attribute)
        and isinstance(one.func.value, ast.Name)
        and one.func.value.id == "router"
        for one in node.decorator_list
    )


def _docstring(node: ast.ClassDef | ast.AsyncFunctionDef, where: str) -> str:
    text = ast.get_docstring(node, clean=False) or ""
    # Python 3.13 removes the indentation of further lines, older ones keep it: no lookup would fit.
    if "\n" in text.strip():
        raise SystemExit(f"{where}:{node.lineno}: the docstring is the help; keep it to one line")
    return text.strip()


def _assigns(node: ast.Assign, names: tuple[str, ...]) -> bool:
    return any(isinstance(target, ast.Name) and target.id in names for target in node.targets)


def faults(catalog: Catalog) -> list[str]:
    """Say which templates lack a translation, or have one with other named fields."""
    found = []
    for message in catalog:
        if not message.id:
            continue
        template, translation = str(message.id), str(message.string or "")
        if not translation or message.fuzzy:
            found.append(f"not translated: {template!r}")
        elif fields(template) != fields(translation):
            found.append(f"other fields than in English: {template!r} -> {translation!r}")
    return found


def fields(template: str) -> list[str] | None:
    """List the fields of a template with their formats, sorted; None if it cannot be filled in."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError:
        return None
    return sorted(
        f"{name}!{conversion}:{spec}" for _text, name, spec, conversion in parts if name is not None
    )


def stale_files(catalog: Catalog) -> list[str]:
    """Say which file is not what an update would write."""
    wanted = {PO_FILE: po_bytes(catalog), MO_FILE: mo_bytes(catalog)}
    return [
        f"out of date, run python -m tools.translations: {path.relative_to(ROOT).as_posix()}"
        for path, content in wanted.items()
        if not path.exists() or path.read_bytes() != content
    ]


def po_bytes(catalog: Catalog) -> bytes:
    """Write danlu.po: files are named without lines, which change with every edit."""
    buffer = io.BytesIO()
    write_po(buffer, catalog, width=100, include_lineno=False)
    return buffer.getvalue()


def mo_bytes(catalog: Catalog) -> bytes:
    """Compile danlu.mo."""
    buffer = io.BytesIO()
    write_mo(buffer, catalog)
    return buffer.getvalue()


if __name__ == "__main__":
    sys.exit(main())
