"""The chat as a person sees it: keys typed in a terminal, screens compared, in both languages."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from rich.cells import cell_len

from danlu.cli.main import main
from tests.helpers.models.model_folder import write_model_folder
from tests.helpers.program import free_port, serving, train_words, write_rows
from tests.helpers.terminal import Terminal

CHINESE = re.compile("[\u4e00-\u9fff]")
GREEDY = ("--do_sample", "false", "--max_new_tokens", "24")

FIGURES = {
    "en": r"first token \d+\.\d\d s · \d+\.\d tokens/s · context \d+ of 4,096 tokens \(\d%\)",
    "zh": r"首个 token \d+\.\d\d 秒 · 每秒 \d+\.\d 个 token · 上下文 \d+ / 4,096 个 token（\d%）",
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    home = tmp_path_factory.mktemp("opened") / "home"
    with closing(Terminal(["chat", *GREEDY], DANLU_HOME=str(home))) as terminal:
        terminal.wait_for("User:")
        yield terminal


@pytest.fixture
def terminal(opened: Terminal) -> Terminal:
    """A terminal whose screen is empty, at the beginning of a chat; tests leave no half a line."""
    opened.ask("/new\r")
    opened.clear()
    return opened


@pytest.mark.parametrize("columns", [80, pytest.param(120, marks=pytest.mark.soak)])
@pytest.mark.parametrize("language", [pytest.param("en", marks=pytest.mark.soak), "zh"])
def test_an_answer_and_the_help_on_the_screen(home: Path, language: str, columns: int) -> None:
    words = ["chat", *GREEDY]
    variables = {"DANLU_HOME": str(home), "DANLU_LANG": language}
    with closing(Terminal(words, columns=columns, lines=40, **variables)) as terminal:
        terminal.wait_for("User:")
        lines = terminal.ask("你好\r").splitlines()
        start = lines.index("User: 你好")
        assert lines[start + 1]
        assert re.fullmatch(FIGURES[language], lines[start + 2])
        assert lines[start + 3] == "User:"
        listing = terminal.ask("/help\r").rpartition("User: /help\n")[2].splitlines()
        commands = [line for line in listing if line.startswith("  /")]
        assert {"/think", "/retry", "/save"} <= {line.split()[0] for line in commands}
        assert all(cell_len(line) <= columns for line in listing)
        texts = [re.split(r"\s{2,}", line.strip(), maxsplit=1)[1] for line in commands]
        assert all(bool(CHINESE.search(text)) == (language == "zh") for text in texts)
        begins = {
            cell_len(line[: line.index(text)]) for line, text in zip(commands, texts, strict=True)
        }
        assert len(begins) == 1  # aligned, wide characters or not
        terminal.type("\x04")
        assert terminal.exit_code() == 0


def test_wide_characters_are_edited_one_at_a_time(terminal: Terminal) -> None:
    """Left twice, one deleted before the cursor: the middle one is gone, whole."""
    screen = terminal.ask("你好世界\x1b[D\x1b[D\x7f\r")
    assert "User: 你世界\n" in screen


@pytest.mark.parametrize("new_line", ["\n", "\x1b\r"], ids=["Ctrl-J", "Alt-Enter"])
def test_several_lines(terminal: Terminal, new_line: str) -> None:
    terminal.ask(f"one{new_line}two\r")
    assert "User: one\n      two\n" in terminal.text
    terminal.ask('"""three\rfour"""\r')
    assert 'User: """three\n      four"""\n' in terminal.text
    terminal.ask("\x1b[200~five\rsix\x1b[201~\r")
    assert "User: five\n      six\n" in terminal.text
    assert terminal.ask("/undo\r").count("2 questions are left") == 1


def test_an_earlier_question_is_edited_with_escape(terminal: Terminal) -> None:
    terminal.ask("你好\r")
    terminal.ask("hello\r")
    terminal.type("\x1b\x1b")
    terminal.wait_for("User (instead of question 2 of 2): hello")
    terminal.type("\x1b\x1b")
    terminal.wait_for("User (instead of question 1 of 2): 你好")
    terminal.type("吗\r")
    terminal.wait_for("context", times=3)
    assert "0 questions are left" in terminal.ask("/undo\r")


def test_history_is_kept_and_searched_across_sessions(home: Path) -> None:
    with closing(Terminal(["chat", *GREEDY], DANLU_HOME=str(home))) as terminal:
        terminal.ask("first\r")
    assert mode_of(home / "chat_history.jsonl") == 0o600
    with closing(Terminal(["chat", *GREEDY], DANLU_HOME=str(home))) as terminal:
        terminal.wait_for("User:")
        terminal.type("\x1b[A")
        terminal.wait_for("User: first")
        terminal.type("\x03")  # takes the line away
        terminal.wait_until(lambda: "first" not in terminal.text, "empty line")
        terminal.type("\x12fir")
        terminal.wait_for("first")


def test_commands_are_completed(terminal: Terminal) -> None:
    terminal.type("/sta")
    terminal.wait_for("/stats")  # the menu
    terminal.type("\t")
    terminal.wait_for("User: /stats")
    terminal.type("\x03")  # takes the line away
    terminal.wait_until(lambda: terminal.text == "User:", "empty line")


def test_ctrl_c_keeps_the_partial_answer_and_twice_leaves(tmp_path: Path, home: Path) -> None:
    """A model with random weights never ends by itself where the likeliest token is taken."""
    model = write_model_folder(tmp_path / "model")
    words = ["chat", str(model), "--do_sample", "false", "--max_new_tokens", "3000"]
    with closing(Terminal(words, DANLU_HOME=str(home))) as terminal:
        terminal.wait_for("User:")
        terminal.type("hello\r")
        terminal.wait_for("hello\n", more=40)
        terminal.type("\x03")
        terminal.wait_for("Stopped; /continue goes on.\nUser:")
        terminal.ask("/set max_new_tokens 8\r")
        assert "Cut at the limit" in terminal.ask("/continue\r")
        terminal.type("half a line\x03")
        terminal.type("\x03")
        terminal.wait_for("Ctrl-C again leaves")
        terminal.type("\x03")
        assert terminal.exit_code() == 0


def test_base_and_adapter_stand_side_by_side(tmp_path: Path, home: Path) -> None:
    model = write_model_folder(tmp_path / "model")
    rows = write_rows(tmp_path / "rows.jsonl")
    assert main(train_words(model, rows, tmp_path / "run", max_steps=1)) == 0
    words = ["chat", str(model), *GREEDY, "--adapter", f"fox={tmp_path / 'run'}"]
    with closing(Terminal(words, DANLU_HOME=str(home))) as terminal:
        lines = terminal.ask("/compare hello\r").splitlines()
        head = next(line for line in lines if "base" in line and "fox" in line)
        assert "┃" in head
        assert terminal.ask("/undo\r").endswith("0 questions are left.\nUser:")


@pytest.fixture
def editor(tmp_path: Path) -> str:
    """An editor that needs nobody: it writes down what it was given, and leaves its own text."""
    path = tmp_path / "editor"
    path.write_text(
        f'#!/bin/sh\ncat "$1" >> "{tmp_path}/given"\nprintf "Fox\nis my name." > "$1"\n'
    )
    path.chmod(0o755)
    return str(path)


def test_edit_and_teach_go_through_the_users_editor(
    tmp_path: Path, home: Path, editor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with closing(Terminal(["chat", *GREEDY], DANLU_HOME=str(home), EDITOR=editor)) as terminal:
        terminal.wait_for("User:")
        terminal.ask("/edit Who\r")
        assert (tmp_path / "given").read_text() == "Who"
        assert "Fox\nis my name.\n" in terminal.text
        answer = terminal.text.partition("is my name.\n")[2].splitlines()[0]
        terminal.ask("/teach\r")
        assert (tmp_path / "given").read_text().removeprefix("Who").strip().startswith(answer)
        terminal.type("\x04")
        assert terminal.exit_code() == 0
        assert "1 corrected answers are in corrections.jsonl" in terminal.text
        # In one piece, however long: it is copied.
        command = re.search(rb"danlu train [^\r\n]* --num_train_epochs \d+", terminal.raw)
        assert command
        assert len(command[0]) > 80
    row = json.loads((tmp_path / "corrections.jsonl").read_text(encoding="utf-8"))
    assert [message["content"] for message in row["messages"]] == ["Fox\nis my name."] * 2


@pytest.mark.soak
def test_an_editor_that_fails_changes_nothing(tmp_path: Path, home: Path) -> None:
    with closing(Terminal(["chat", *GREEDY], DANLU_HOME=str(home), EDITOR="false")) as terminal:
        terminal.ask("/edit hello\r")
        assert "false ended with 1." in terminal.text
        assert "There is nothing yet." in terminal.ask("/undo\r")


def test_a_context_that_is_nearly_full_is_said_before_it_is(tmp_path: Path, home: Path) -> None:
    """A model with random weights writes as much as it may."""
    model = write_model_folder(tmp_path / "model", max_position_embeddings=256)
    words = ["chat", str(model), "--do_sample", "false", "--max_new_tokens", "60"]
    with closing(Terminal(words, DANLU_HOME=str(home))) as terminal:
        terminal.wait_for("User:")
        said = "tokens of the context are left; /new begins another one."
        questions = 0
        while said not in terminal.text:
            assert questions < 6
            terminal.ask("hello\r")
            questions += 1
        assert questions > 1  # not before it is true
        left = re.search(r"(\d+) tokens of the context are left", terminal.text)
        assert left
        assert int(left[1]) < 52
        terminal.ask("/new\r")
        assert terminal.ask("hello\r").count(said) == 1


def test_a_thought_is_folded_when_it_is_done(home: Path) -> None:
    words = ["chat", "--do_sample", "false", "--max_new_tokens", "60"]
    with closing(Terminal(words, DANLU_HOME=str(home))) as terminal:
        terminal.wait_for("User:")
        lines = terminal.ask("What is 27 + 15?\r").splitlines()
        start = lines.index("User: What is 27 + 15?")
        assert re.fullmatch(r"thought for \d+\.\d s", lines[start + 1])
        assert lines[start + 2] == "27 + 15 = 42"
        assert "7+5=12" not in terminal.text


@pytest.mark.soak
def test_compare_over_an_address(tmp_path: Path, home: Path) -> None:
    model = write_model_folder(tmp_path / "model")
    rows = write_rows(tmp_path / "rows.jsonl")
    assert main(train_words(model, rows, tmp_path / "run", max_steps=1)) == 0
    port = free_port()
    adapter = ("--adapter", f"fox={tmp_path / 'run'}")
    words = ["chat", "--url", f"http://127.0.0.1:{port}", *GREEDY]
    with (
        serving(["serve", str(model), "--port", port, *adapter]),
        closing(Terminal(words, DANLU_HOME=str(home))) as terminal,
    ):
        lines = terminal.ask("/compare hello\r").splitlines()
        head = next(line for line in lines if "fox" in line and "┃" in line)
        assert "model" in head
        cells = [line.strip("│ ").split("│") for line in lines if line.startswith("│")]
        assert all(any(row[column].strip() for row in cells) for column in (0, 1))
        assert "seed" in terminal.text
        assert terminal.ask("/undo\r").endswith("0 questions are left.\nUser:")


def mode_of(file: Path) -> int:
    """Who may read and write a file."""
    return file.stat().st_mode & 0o777


@pytest.mark.soak
def test_a_history_that_others_may_read_is_its_owners_again(home: Path) -> None:
    history = home / "chat_history.jsonl"
    home.mkdir()
    history.write_text("")
    history.chmod(0o644)  # as an earlier version left it
    with closing(Terminal(["chat", *GREEDY], DANLU_HOME=str(home))) as terminal:
        terminal.ask("/tokens\r")
    assert mode_of(history) == 0o600
