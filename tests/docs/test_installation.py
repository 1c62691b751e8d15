"""docs/installation.md and its Chinese: the commands run on a made-up machine, the tables hold."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from danlu.cli.main import main
from danlu.device.ascend.versions import TORCH_NPU_IMAGE, USABLE_PAIRS
from danlu.language import _
from tests.helpers.bare_machine import Machine
from tests.helpers.source import ROOT
from tools.install.builds import BUILDS

PAGES = {
    language: (ROOT / "docs" / name).read_text(encoding="utf-8")
    for language, name in (("en", "installation.md"), ("zh", "installation.zh-CN.md"))
}
SCRIPT = (ROOT / "scripts" / "install.sh").read_text(encoding="utf-8")


def cells(page: str, head: str) -> list[list[str]]:
    """Return the rows of the table whose head begins so."""
    rows = page.partition(f"| {head} |")[2].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_both_pages_have_the_same_commands_names_and_versions() -> None:
    def said(page: str) -> tuple[list[str], set[str], int]:
        # What is said in the user's language differs.
        names = {name for name in re.findall(r"`([^`\n]+)`", page) if " " not in name}
        fenced = re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL)
        known = {name for name in names if name.isascii()}
        return fenced, known, len(re.findall(r"^\| ", page, flags=re.MULTILINE))

    assert said(PAGES["en"]) == said(PAGES["zh"])


@pytest.mark.parametrize("language", PAGES)
def test_commands_run(language: str, tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.add_python()
    machine.add_environment()
    blocks = re.findall(r"```bash\n(.*?)```", PAGES[language], flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    assert len(lines) == 4
    for line in lines:
        done = subprocess.run(
            ["bash", "-c", line], cwd=machine.clone, env=machine.variables, check=False,
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, line + done.stderr


@pytest.mark.parametrize("language", PAGES)
def test_the_bundles_command_takes_its_words(
    language: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (line,) = re.findall(r"```console\n(danlu .*)\n```", PAGES[language])
    assert main([*shlex.split(line)[1:], "--print_settings"]) == 0
    assert "aarch64" in capsys.readouterr().out


@pytest.mark.parametrize("language", PAGES)
def test_the_versions_are_those_of_the_data(language: str) -> None:
    data = [[pair.cann, pair.torch, pair.torch_npu] for pair in USABLE_PAIRS]
    assert cells(PAGES[language], "CANN") == data
    assert TORCH_NPU_IMAGE in PAGES[language]
    for build in BUILDS["cuda"]:
        assert f"{build['min_driver']} " in PAGES[language]
        assert f"CUDA {build['cuda']} " in PAGES[language]


@pytest.mark.parametrize("language", PAGES)
def test_the_faults_are_worded_as_they_are_shown(
    language: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DANLU_LANG", language)
    head = {"en": "what it says", "zh": "提示"}[language]
    source = "".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "tools" / "install").glob("*.py")
    )
    sentences = {_(text) for text in re.findall(r'_\("([^"\n]+)"\)', source)}
    for shown, _advice in cells(PAGES[language], head):
        assert shown.strip("`") in sentences or shown.strip("`") in SCRIPT, shown


def test_the_variables_are_read() -> None:
    named = {row[0].strip("`") for row in cells(PAGES["en"], "variable")}
    source = SCRIPT + (ROOT / "tools" / "install" / "__main__.py").read_text(encoding="utf-8")
    # The last is pip's own.
    assert {name for name in named if name in source} == named - {"PIP_INDEX_URL"}
