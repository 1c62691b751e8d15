"""examples/quickstart.ipynb: its cells run in order, and show what the text beside them says.

A kernel of Jupyter would bring forty packages for this one test. The notebook uses little of one,
so it is done here: the code of all cells in one process, `!` lines by the shell, the last
expression ignored. Instead of IPython a module says whether a picture is there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.source import ROOT

EXAMPLES = ROOT / "examples"
NOTEBOOK: dict[str, Any] = json.loads((EXAMPLES / "quickstart.ipynb").read_text("utf-8"))
CODE = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
KERNEL = """
import pathlib, subprocess, sys, types
def run_line(line):
    sys.stdout.flush()
    done = subprocess.run(["sh", "-c", line])
    if done.returncode:
        raise SystemExit(f"{line} ended with {done.returncode}")
ipython = types.ModuleType("IPython")
ipython.display = types.ModuleType("IPython.display")
is_picture = lambda file: pathlib.Path(file).read_bytes()[1:4] == b"PNG"
ipython.display.Image = lambda file: is_picture(file) or sys.exit(file)
sys.modules |= {"IPython": ipython, "IPython.display": ipython.display}
"""


def program() -> str:
    """Write the cells as one program, with a line on standard output before each."""
    lines = [KERNEL]
    for number, cell in enumerate(CODE):
        lines.append(f"print('=== cell {number}', flush=True)")
        for line in cell.splitlines():
            lines.append(f"run_line({line[1:]!r})" if line.startswith("!") else line)
    return "\n".join(lines)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Run the notebook where it lies, as Jupyter does; what each cell of code prints."""
    folder = tmp_path_factory.mktemp("notebook")
    danlu = folder / "danlu"
    danlu.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m danlu.cli.main "$@"\n', "utf-8")
    danlu.chmod(0o755)
    # A copy outside of the clone: the notebook then takes the danlu that is on PATH.
    for name in ("quickstart.ipynb", "identity.jsonl"):
        (folder / name).write_bytes((EXAMPLES / name).read_bytes())
    done = subprocess.run(
        [sys.executable, "-c", program()],
        cwd=folder,
        env={
            **os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "DANLU_LANG": "en",
            "TMPDIR": str(folder), "DANLU_HOME": str(folder / "home"),
            # What a kernel sets.
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        },
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout.split("=== cell ")[1:]


# A minute on an idle machine; many on a busy one.
@pytest.mark.soak
@pytest.mark.timeout(1500)
def test_the_cells_show_what_the_tutorial_promises(shown: list[str]) -> None:
    def of(words: str) -> str:
        return next(text for text, cell in zip(shown, CODE, strict=True) if words in cell)

    assert "starter" in of("info --banner")
    assert "Paris" in of("danlu chat -")
    assert "Nothing was found." in of("data check")
    assert "Done: " in of("danlu train")
    assert "answers exactly as in the data, 6 of 6 rows: 0/6 -> 6/6" in of("danlu eval")
    before, after = of("danlu generate").splitlines()[1:3]
    assert "小雪" not in before
    assert "小雪" in after
    assert "The merge is right" in of("danlu merge")
    assert "Ember" in of("/v1/chat/completions")
    assert ".gguf" in of("danlu export").splitlines()[-1]


def test_nothing_is_stored_that_a_run_makes() -> None:
    for cell in NOTEBOOK["cells"]:
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
    assert NOTEBOOK["nbformat"] == 4
    ids = [cell["id"] for cell in NOTEBOOK["cells"]]
    assert len(set(ids)) == len(ids)


def test_every_text_is_in_both_languages() -> None:
    for cell in NOTEBOOK["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            assert any("\u4e00" <= character <= "\u9fff" for character in text), text
            assert any(word in text for word in (" the ", " a ", "An ", " / ")), text


def test_the_walk_is_that_of_the_readme() -> None:
    """The long command of training stands in both; they change together."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (training,) = [line[1:] for cell in CODE for line in cell.splitlines() if "danlu train" in line]
    assert training.replace(" --report false", "") in readme.replace("examples/", "")


def test_it_says_how_to_install_where_danlu_is_missing(tmp_path: Path) -> None:
    (tmp_path / "identity.jsonl").touch()
    done = subprocess.run(
        [sys.executable, "-c", KERNEL + CODE[0]],
        cwd=tmp_path, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "bash scripts/install.sh" in done.stderr
