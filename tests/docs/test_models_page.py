"""docs/models.md and its Chinese: the commands run, in order, against a hub on this machine."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from danlu.cli.main import main
from danlu.hub.catalogue import sites
from tests.helpers.hub_server import serving_hub
from tests.helpers.models.model_folder import write_model_folder

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = {
    name: (DOCS / name).read_text(encoding="utf-8") for name in ("models.md", "models.zh-CN.md")
}


def commands(name: str) -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", PAGES[name], flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def test_commands_run_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What differs in the Chinese page, the questions, is run behind what the English one has."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DANLU_HOME", str(tmp_path / "home"))
    pairs = list(zip(*map(commands, PAGES), strict=True))
    assert len(pairs) == 8
    with serving_hub(write_model_folder(tmp_path / "published")) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        for line in (line for pair in pairs for line in dict.fromkeys(pair)):
            assert main(shlex.split(line)[1:]) == 0, line
        assert hub.asked
    assert not (tmp_path / "home" / "models" / "Qwen3-0.6B").exists()


@pytest.mark.parametrize("name", PAGES)
def test_the_variables_are_those_that_are_read(name: str) -> None:
    table = PAGES[name].split("\n|---|---|\n")[1].split("\n\n")[0]
    named = set(re.findall(r"`([A-Z_]+)(?:=1)?`", table)) - {"DANLU_HOME"}
    source = Path(sites.__file__).read_text(encoding="utf-8")
    read = set(re.findall(r'get\("([A-Z_]+)"', source))
    assert named == read
