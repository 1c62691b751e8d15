"""Every user guide has a Chinese twin with the same headings, commands, tables and names.

The pages' own tests run the commands and compare the words; what stands in both needs one run.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
# What was measured, and how it is made: for whoever wants the figures or changes it, not for use.
NO_GUIDES = {"performance.md", "starter.md", "native.md"}
GUIDES = sorted(
    path for path in DOCS.glob("*.md") if path.name not in NO_GUIDES and ".zh-CN." not in path.name
)
CHINESE = re.compile("[\u4e00-\u9fff]")


def twin(page: Path) -> Path:
    """Name the Chinese page of an English one."""
    return page.with_suffix(".zh-CN.md")


def prose(page: Path) -> str:
    """Return a page without its blocks of code."""
    return re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_no_guide_is_in_one_language_only() -> None:
    assert len(GUIDES) >= 8
    assert {twin(page) for page in GUIDES} == set(DOCS.glob("*.zh-CN.md"))


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_a_twin_has_the_same_structure(page: Path) -> None:
    other = twin(page)
    for mine, its in ((page, other), (other, page)):
        assert f"]({its.name})" in mine.read_text(encoding="utf-8").splitlines()[2]
    levels = [re.findall(r"^(#+) ", prose(each), re.MULTILINE) for each in (page, other)]
    assert levels[0] == levels[1]
    headings = re.findall(r"^#+ (.*)", prose(other), re.MULTILINE)
    names = [name for name in headings if not CHINESE.search(name)]
    assert all(f" {name}\n" in page.read_text(encoding="utf-8") for name in names)
    cells = [
        [line.count("|") for line in prose(each).splitlines() if line.startswith("|")]
        for each in (page, other)
    ]
    assert cells[0] == cells[1]


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_a_twin_has_the_same_commands(page: Path) -> None:
    pages = [each.read_text(encoding="utf-8") for each in (page, twin(page))]
    # What is asked in them may be in the page's language.
    blocks = [
        re.findall(r"```bash\n(.*?)```", re.sub(r'"[^"\n]*"', '""', text), flags=re.DOTALL)
        for text in pages
    ]
    assert blocks[0] == blocks[1]
    flags = [set(re.findall(r"(?<![\w-])--[a-z]\w+", text)) for text in pages]
    assert flags[0] == flags[1]
