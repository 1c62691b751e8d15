"""Who waits sees a line that moves; who reads a pipe sees nothing of it."""

from __future__ import annotations

import io
import logging
import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from rich.console import Console

from danlu import moving_line
from danlu.cli.main import main
from danlu.language import columns
from danlu.moving_line import MovingLine
from danlu.server.edge.logs import log_to_stderr
from tests.helpers.models.model_folder import write_model_folder
from tests.helpers.program import free_port, start, train_words, write_rows
from tests.helpers.terminal import Terminal

MIB = 2**20
# Weights from a slow disk.
SLOW = (
    "import time\n"
    "from danlu.weights.sharded import WeightFolder as _Folder\n"
    "_read = _Folder.read_into\n"
    "_Folder.read_into = lambda *words: (time.sleep(0.1), _read(*words))[1]\n"
)
# Each takes a process of seconds: those that are long run before merging.
long = pytest.mark.soak
FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


def frames(raw: bytes) -> set[str]:
    """The spinner's pictures that were drawn."""
    return set(raw.decode(errors="replace")) & set(FRAMES)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, rows, and a run on them."""
    folder = tmp_path_factory.mktemp("slow")
    write_model_folder(folder / "model")
    write_rows(folder / "rows.jsonl", 8)
    words = train_words(folder / "model", folder / "rows.jsonl", folder / "run", max_steps=1)
    assert main(words) == 0
    return folder


def words_of(command: str, place: Path, out: Path) -> list[str]:
    model, rows, run = place / "model", place / "rows.jsonl", place / "run"
    return {
        "chat": ["chat", f"{model}"],
        "generate": ["generate", "--model", f"{model}", "--max_new_tokens", "2", "hello"],
        "serve": ["serve", f"{model}", "--port", free_port()],
        "eval": ["eval", "--model", f"{model}", "--dataset", f"{rows}", "--output_dir", f"{out}",
                 "--max_new_tokens", "2"],
        "train": train_words(model, rows, out, max_steps=1),
        "merge": ["merge", "--adapter", f"{run}", "--export_dir", f"{out}"],
        "report": ["eval", f"{run}"],
    }[command]  # fmt: skip


@pytest.mark.parametrize(
    "command",
    [
        "chat",
        "train",
        *(
            pytest.param(name, marks=long)
            for name in ("generate", "serve", "eval", "merge", "report")
        ),
    ],
)
def test_loading_is_shown_in_bytes_with_time_left(
    command: str, place: Path, tmp_path: Path
) -> None:
    words = words_of(command, place, tmp_path / "out")
    home = str(tmp_path / "home")
    with closing(Terminal(words, before=SLOW, DANLU_HOME=home)) as terminal:
        terminal.wait_for_match(r"[\d.]+ KiB of [\d.]+ KiB, [\d.]+ KiB/s, \d:\d\d left\n?")
        terminal.wait_until(lambda: len(frames(terminal.raw)) > 2, "movement")


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["info"], marks=long),
        ["info", "starter"],
        pytest.param(["models"], marks=long),
        pytest.param(["plan", "--dataset", "rows.jsonl"], marks=long),
        ["data", "check", "rows.jsonl"],
    ],
    ids=" ".join,
)
def test_no_command_begins_in_silence_or_leaves_the_line_behind(
    words: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(tmp_path / "rows.jsonl")
    monkeypatch.chdir(tmp_path)
    with closing(Terminal(words, DANLU_HOME=str(tmp_path / "home"))) as terminal:
        assert terminal.exit_code() == 0
        assert frames(terminal.raw)
        assert not frames(terminal.text.encode())
        assert terminal.raw.rstrip().count(b"\x1b[?25l") == terminal.raw.count(b"\x1b[?25h")


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["info"], marks=long),
        ["generate", "--max_new_tokens", "2", "--do_sample", "false", "hello"],
        pytest.param(["chat", "starter", "hello", "--max_new_tokens", "2"], marks=long),
        ["data", "check", "rows.jsonl"],
    ],
    ids=" ".join,
)
def test_in_a_pipe_nothing_moves(
    words: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(tmp_path / "rows.jsonl")
    monkeypatch.chdir(tmp_path)
    pipe = subprocess.PIPE
    with start(words, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True) as process:
        out, err = process.communicate()
    assert process.returncode == 0
    assert not re.search("[\x1b\r]", out + err)
    assert not frames((out + err).encode())
    assert "Loading" not in out + err
    assert "Reading" not in out + err


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_figures_stay_where_the_words_are_too_long(
    width: int, language: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DANLU_LANG", language)
    now = 100.0
    monkeypatch.setattr(moving_line.time, "monotonic", lambda: now)
    line = MovingLine()
    name = "正在读取一个名字很长的模型文件夹 with-many-words-in-its-name-" * 2
    line.show(name, 0, 100 * MIB)
    now += 4
    line.show(name, 20 * MIB, 100 * MIB)
    now += 2
    drawn = line.picture(width).plain
    assert columns(drawn) <= width
    for figure in ("20.0 MiB", "100.0 MiB", "5.0 MiB", "0:14"):
        assert figure in drawn


def test_where_wanted_a_pipe_gets_a_line_for_each_tenth(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with MovingLine(in_lines=True) as line:
        line.show("looking")
        line.show("looking")
        for done in range(101):
            line.count("counting", done, 100)
    said = capsys.readouterr()
    assert said.err == ""
    first, *rest = said.out.splitlines()
    assert first == "looking ..."
    assert [text.split(",")[0] for text in rest] == [
        f"counting: {done} of 100" for done in range(0, 101, 10)
    ]


def test_a_line_of_the_log_stands_above_the_one_that_moves(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(logging.getLogger("danlu"), "level", logging.INFO)
    log_to_stderr()
    screen, line = io.StringIO(), MovingLine("Loading starter")
    assert line._live is not None
    line._live.console = Console(file=screen, force_terminal=True, width=80)
    with line:
        logging.getLogger("danlu.test").info("GET /ready 503 [bold]")
    written = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue()).replace("\r", "\n")
    (said,) = [each for each in written.split("\n") if "GET /ready" in each]
    assert re.fullmatch(r"[\d-]+ [\d:]+ INFO GET /ready 503 \[bold\]", said)
    logging.getLogger("danlu.test").info("later")
    assert capsys.readouterr().err.endswith(" INFO later\n")
