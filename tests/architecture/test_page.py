"""The rules of the studio's page: small components, nothing from elsewhere, HTML in one place."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from tests.architecture.test_size import MAX_FILE_LINES, NAMES_THAT_SAY_NOTHING
from tests.helpers.source import ROOT

SOURCE = ROOT / "frontend" / "src"
# The one component that writes HTML: made by parts/markdown.ts, and harmless there.
WRITES_HTML = {"parts/Markdown.svelte"}


def files() -> Iterator[tuple[str, str]]:
    """Give (name, text) of every component and module."""
    for path in sorted(SOURCE.rglob("*")):
        if path.suffix in (".svelte", ".ts", ".css"):
            yield path.relative_to(SOURCE).as_posix(), path.read_text("utf-8")


def places(pattern: str) -> set[str]:
    """Name the files in which a pattern stands."""
    return {name for name, text in files() if re.search(pattern, text)}


def test_no_component_is_too_long() -> None:
    assert not {name for name, text in files() if text.count("\n") > MAX_FILE_LINES}


def test_names_say_something() -> None:
    assert not [name for name, _text in files() if Path(name).stem in NAMES_THAT_SAY_NOTHING]


def test_html_is_written_in_one_place() -> None:
    assert places(r"\{@html|innerHTML|outerHTML|insertAdjacentHTML|document\.write") == WRITES_HTML


def test_no_markup_holds_a_style_or_a_script() -> None:
    """The page's policy would block them: styles are in classes, or set by `style:name`."""
    assert places(r"<[a-z][^>]*\sstyle=|javascript:|\bon[a-z]+=\"") == set()


def test_nothing_comes_from_elsewhere() -> None:
    foreign = r"(?:src|href|import|url\(|fetch\(|EventSource\()\s*=?\s*['\"`(]*(?:https?:)?//"
    assert places(foreign) == set()
    assert places(r"\beval\(|new Function\(|importScripts|WebSocket\(") == set()


def test_addresses_are_relative() -> None:
    """A path that begins with a slash would leave the prefix of a proxy in front."""
    assert places(r"(?:fetch|EventSource|open)\(\s*['\"`]/") == set()
    assert places(r"(?:href|src)=['\"{`]+/") == set()


def test_every_page_has_its_sentences_in_both_languages() -> None:
    pages = {path.name for path in (SOURCE / "pages").iterdir()}
    for language in ("en", "zh"):
        names = {path.stem for path in (SOURCE / "language" / language).glob("*.ts")}
        assert names == pages | {"index", "shell"}


def test_what_it_is_built_with_is_pinned() -> None:
    lock = json.loads((SOURCE.parent / "package-lock.json").read_text("utf-8"))
    for name, package in lock["packages"].items():
        if name:
            assert package["integrity"].startswith("sha512-"), name
