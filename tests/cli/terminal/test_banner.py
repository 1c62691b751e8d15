"""The login banner: facts of this machine within 80 columns, at once, without torch."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from danlu.cli.main import main
from danlu.files import home
from danlu.language import columns
from tests.helpers.driver_tools import write_cann, write_npu_smi, write_nvidia_smi
from tests.helpers.models.model_folder import write_model_folder

Screen = pytest.CaptureFixture[str]


@pytest.fixture(params=["en", "zh"])
def banner(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Screen,
) -> Callable[[], str]:
    """Print the banner in a language, on a machine with its own home and drivers' tools."""
    monkeypatch.setenv("DANLU_LANG", request.param)
    monkeypatch.setenv("DANLU_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'tools'}:/usr/bin:/bin")
    monkeypatch.setenv("ASCEND_HOME_PATH", str(tmp_path / "cann"))
    monkeypatch.delenv("COLUMNS", raising=False)

    def print_it() -> str:
        assert main(["info", "--banner"]) == 0
        return capsys.readouterr().out

    return print_it


def test_it_fits_80_columns_and_its_values_begin_in_one_column(
    banner: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_npu_smi(tmp_path / "tools")
    write_cann(tmp_path / "cann", "9.1.0")
    monkeypatch.setattr(home, "_RENTED_DISK", tmp_path)
    text = banner()
    # A path may be longer.
    lines = [line for line in text.splitlines() if not line.startswith(" alias danlu=")]
    assert max(columns(line) for line in lines) == 80
    facts = re.split(r"─+\n", text)[2].splitlines()
    starts = [re.match(r" (?:\S| (?! ))*  +(?=\S)| +(?=\S)", line) for line in facts]
    assert len({columns(start[0]) for start in starts if start}) == 1, text
    assert re.search("[\u4e00-\u9fff]", text) is None or not re.search(
        r"\b(free|driver|memory|default|models lists)\b", text
    )


def test_npus_are_shown_with_driver_cann_and_memory(
    banner: Callable[[], str], tmp_path: Path
) -> None:
    write_npu_smi(tmp_path / "tools")
    write_cann(tmp_path / "cann", "9.1.0")
    text = banner()
    for expected in ("2 x 910B3", "CANN 9.1.0", "60.8 GiB", "4.2 GiB", "64.0 GiB"):
        assert expected in text


def test_cuda_cards_are_shown_with_driver_and_cuda(
    banner: Callable[[], str], tmp_path: Path
) -> None:
    write_nvidia_smi(tmp_path / "tools", count=8)
    text = banner()
    for expected in ("8 x NVIDIA H100 80GB HBM3", "580.65.06", "CUDA 13.0", "79.6 GiB"):
        assert expected in text


def test_models_and_the_data_disk_are_shown(
    banner: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rented = tmp_path / "data-disk"
    rented.mkdir()
    monkeypatch.setattr(home, "_RENTED_DISK", rented)
    (tmp_path / "home" / "models" / ".Qwen3-8B.pulling").mkdir(parents=True)
    text = banner()
    assert str(rented) in re.sub(r"\s", "", text)
    assert re.search(r"starter\W{1,2}(default|默认)", text)
    assert re.search(r"Qwen3-8B\W{1,2}(not complete|不完整)", text)
    # Nothing is here yet: it says how to get something.
    assert "danlu pull Qwen3-8B" in text
    model = write_model_folder(tmp_path / "mine")
    assert main(["use", str(model)]) == 0
    assert str(model) in re.sub(r"\s", "", banner())


def test_a_damaged_default_does_not_hide_the_rest(
    banner: Callable[[], str], tmp_path: Path
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "default_model.json").write_text("{", encoding="utf-8")
    text = banner()
    assert "danlu use starter" in re.sub(r"\s+", " ", text)
    assert "danlu chat" in text


def test_it_loads_neither_torch_nor_numpy() -> None:
    code = (
        "import sys\nfrom danlu.cli.main import main\nmain(['info', '--banner'])\n"
        "heavy = ('torch', 'numpy', 'transformers', 'tokenizers', 'matplotlib', 'pyarrow')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("words", [["starter"], ["--json"]])
def test_what_it_cannot_show_is_refused(words: list[str], capsys: Screen) -> None:
    assert main(["info", "--banner", *words]) == 2
    said = capsys.readouterr()
    assert not said.out
    assert len(said.err.splitlines()) == 3


def test_where_danlu_is_not_on_path_a_line_makes_its_commands_run(
    banner: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = next(line for line in banner().splitlines() if line.startswith(" alias danlu="))
    script = f"shopt -s expand_aliases\n{line}\ncd {tmp_path}\ndanlu --version\n"
    done = subprocess.run(["bash"], input=script, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("danlu ")
    command = Path(sys.executable).with_name("danlu")
    monkeypatch.setenv("PATH", f"{command.parent}:/usr/bin:/bin")
    assert not command.exists() or "alias" not in banner()
