"""The studio's page is built on the way into a wheel; whatever fails there, the wheel is made."""

from __future__ import annotations

import importlib.util
import os
import shutil
import stat
from pathlib import Path
from types import ModuleType

import pytest

from tests.helpers.source import ROOT

# What npm is asked stands in a file beside it.
NPM = """#!/bin/sh
echo "$*" >> "{asked}"
[ "$1" != "{fails}" ] || {{ echo "npm error code E{fails}"; exit 1; }}
[ "$1" != ci ] || {{ mkdir -p node_modules && touch node_modules/.package-lock.json; }}
page=../src/danlu/web/page
[ "$1" != run ] || {{ mkdir -p $page && echo page > $page/index.html; }}
"""


def hook() -> ModuleType:
    """Load hatch_build.py, as hatchling does."""
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Tree:
    """A source tree with a frontend, and a path with the programs that a test puts there."""

    def __init__(self, folder: Path) -> None:
        self.root, self.programs = folder / "tree", folder / "bin"
        self.asked = folder / "asked"
        self.page = self.root / "src" / "danlu" / "web" / "page" / "index.html"
        self.programs.mkdir()
        (self.root / "frontend" / "src").mkdir(parents=True)
        for name in ("package.json", "package-lock.json", "index.html", "src/main.ts"):
            (self.root / "frontend" / name).write_text("{}", "utf-8")
        for name in ("sh", "mkdir", "touch", "echo", "sleep"):
            (self.programs / name).symlink_to(shutil.which(name) or name)

    def program(self, name: str, text: str) -> None:
        file = self.programs / name
        file.write_text(text, "utf-8")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)

    def node(self, version: str = "v22.12.0", fails: str = "nothing") -> None:
        self.program("node", f"#!/bin/sh\necho {version}\n")
        self.program("npm", NPM.format(asked=self.asked, fails=fails))

    @property
    def words(self) -> list[str]:
        """What npm was asked, a call each."""
        return self.asked.read_text("utf-8").splitlines() if self.asked.exists() else []

    def age(self, file: Path, seconds: float) -> None:
        """Say that a file is so much older than now."""
        when = file.stat().st_mtime - seconds
        os.utime(file, (when, when))


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    made = Tree(tmp_path)
    monkeypatch.setenv("PATH", str(made.programs))
    # pip asks nobody, however it is set up here.
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return made


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that was printed, or nothing."""
    out = capsys.readouterr().out
    assert out.count("\n") <= 1
    return out


def test_the_page_is_built_once_and_again_when_its_sources_change(
    tree: Tree, capsys: pytest.CaptureFixture[str]
) -> None:
    tree.node()
    hook().build_page(tree.root)
    assert tree.page.read_text("utf-8") == "page\n"
    assert [words.split()[0] for words in tree.words] == ["ci", "run"]
    hook().build_page(tree.root)
    assert len(tree.words) == 2
    # The packages are there: only the page is made again.
    for file in (tree.page, *(tree.root / "frontend").glob("package*.json")):
        tree.age(file, 100)
    hook().build_page(tree.root)
    assert tree.words[2:] == ["run build"]
    assert said(capsys) == ""


def test_a_page_that_came_along_needs_no_node(
    tree: Tree, capsys: pytest.CaptureFixture[str]
) -> None:
    """An sdist has it, with one time for all files."""
    tree.page.parent.mkdir(parents=True)
    tree.page.write_text("came along", "utf-8")
    for file in (tree.page, *(tree.root / "frontend").rglob("*")):
        os.utime(file, (1_600_000_000, 1_600_000_000))
    hook().build_page(tree.root)
    assert said(capsys) == ""
    assert tree.page.read_text("utf-8") == "came along"


def test_without_node_and_network_the_installation_goes_on(
    tree: Tree, capsys: pytest.CaptureFixture[str]
) -> None:
    hook().build_page(tree.root)
    line = said(capsys)
    assert "Node.js is missing" in line
    assert "make studio" in line
    assert not tree.page.exists()


def test_an_old_node_is_as_good_as_none(tree: Tree, capsys: pytest.CaptureFixture[str]) -> None:
    tree.node("v12.22.9")
    hook().build_page(tree.root)
    assert "Node.js is missing" in said(capsys)
    assert tree.words == []


@pytest.mark.parametrize(("step", "tries"), [("ci", 2), ("run", 2)])
def test_an_npm_that_fails_stops_nothing(
    tree: Tree, capsys: pytest.CaptureFixture[str], step: str, tries: int
) -> None:
    tree.node(fails=step)
    hook().build_page(tree.root)
    assert f"npm error code E{step}" in said(capsys)
    assert len(tree.words) == tries
    # A registry that fails is tried elsewhere; what comes is held to the digests of the lock.
    assert ("--registry https" in tree.words[1]) is (step == "ci")


def test_an_npm_that_hangs_is_ended(
    tree: Tree, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.node()
    tree.program("npm", "#!/bin/sh\nsleep 600\n")
    module = hook()
    monkeypatch.setattr(module, "PATIENCE_S", 1.0)
    module.build_page(tree.root)
    assert "took longer" in said(capsys)


def test_a_tree_without_the_sources_is_left_alone(
    tree: Tree, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(tree.root / "frontend")
    hook().build_page(tree.root)
    assert said(capsys) == ""
