"""The program's frame: commands, exit codes, three lines for every error."""

from __future__ import annotations

import shlex
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from danlu.cli.main import main
from danlu.errors import CapacityError, DataError, EnvironmentFault, UsageError
from danlu.program import COMMANDS


def run_program(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "danlu.cli.main", *words],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[list[str]], int]], None]:
    """Put a function in place of the command `info`."""

    def put(run: Callable[[list[str]], int]) -> None:
        module = types.ModuleType("danlu.cli.machine.info")
        module.run = run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "danlu.cli.machine.info", module)

    return put


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["--help"], ["-h"], ["help"]):
        assert main(words) == 0
        text = capsys.readouterr().out
        assert all(f"  {name} " in text for name in COMMANDS)


def test_an_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    text = capsys.readouterr().err
    assert "danlu train?" in text
    assert len(text.splitlines()) == 3


def test_a_flag_in_the_place_of_a_command_is_not_guessed_at(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--lang", "zh"]) == 2
    assert "danlu --help" in capsys.readouterr().err.splitlines()[2]


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (["scripts"], "Write behind the command: install FOLDER"),
        (["scripts", "install"], "Write behind the command: install FOLDER"),
        (["bundle"], "Write behind the command: FOLDER"),
        (["pull"], "Write behind the command: NAME"),
    ],
)
def test_a_word_that_is_missing_is_asked_for_as_a_word(
    words: list[str], fix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert capsys.readouterr().err.splitlines()[2] == fix


@pytest.mark.parametrize(
    ("name", "advice"), [("Qwen3-9B", "danlu pull Qwen3-8B"), ("gpt2", "danlu models")]
)
def test_a_model_that_is_not_published_is_guessed_only_where_it_is_like_one(
    name: str, advice: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pull", name]) == 2
    assert capsys.readouterr().err.splitlines()[2].endswith(advice)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_fault(closed: str) -> None:
    for words in ("--version", "generate --max_new_tokens 2 Hi"):
        command = f"{shlex.quote(sys.executable)} -m danlu.cli.main {words} {closed}"
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
        assert done.returncode == 0
        assert "Traceback" not in done.stderr
        assert "mistake" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_an_output_whose_disk_is_full_is_no_mistake_of_ours() -> None:
    command = f"{shlex.quote(sys.executable)} -m danlu.cli.main --help > /dev/full"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert done.stderr.splitlines()[0] == "No space left on the disk to write the output."


def test_data_without_their_flag_are_recognised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "my rows.jsonl"
    rows.touch()
    assert main(["train", str(rows)]) == 2
    assert capsys.readouterr().err.splitlines()[2] == f"--dataset '{rows}'"


def test_a_command_gets_its_words_and_gives_the_exit_code(
    install: Callable[[Callable[[list[str]], int]], None],
) -> None:
    seen: list[str] = []

    def run(argv: list[str]) -> int:
        seen.extend(argv)
        return 7

    install(run)
    assert main(["info", "a", "--debug", "--", "--debug"]) == 7
    assert seen == ["a", "--", "--debug"]


@pytest.mark.parametrize(
    ("fault", "code", "lines"),
    [
        (UsageError("what", why="why", fix="fix"), 2, ["what", "why", "fix"]),
        (EnvironmentFault("what", why="why", fix="fix"), 3, ["what", "why", "fix"]),
        (CapacityError("what", why="why", fix="fix"), 4, ["what", "why", "fix"]),
        (DataError("what", why="why", fix="fix"), 5, ["what", "why", "fix"]),
        (KeyboardInterrupt(), 130, ["interrupted"]),
    ],
)
def test_errors_become_lines_and_codes(
    install: Callable[[Callable[[list[str]], int]], None],
    capsys: pytest.CaptureFixture[str],
    fault: BaseException,
    code: int,
    lines: list[str],
) -> None:
    def run(argv: list[str]) -> int:
        raise fault

    install(run)
    assert main(["info"]) == code
    assert capsys.readouterr().err.splitlines() == lines
    assert main(["info", "--debug"]) == code
    assert "Traceback" in capsys.readouterr().err


def test_a_bug_is_told_apart(
    install: Callable[[Callable[[list[str]], int]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def run(argv: list[str]) -> int:
        raise ZeroDivisionError("division by zero")

    install(run)
    assert main(["info"]) == 1
    text = capsys.readouterr().err
    assert "ZeroDivisionError" in text
    assert "--debug" in text
    assert "Traceback" not in text


def test_a_reader_that_leaves_early_is_told_in_the_exit_code_alone() -> None:
    program = (
        "import sys, types\n"
        "module = types.ModuleType('danlu.cli.machine.info')\n"
        "module.run = lambda argv: [print('x' * 100) for _ in range(10000)] and 0\n"
        "sys.modules['danlu.cli.machine.info'] = module\n"
        "from danlu.cli.main import main\n"
        "sys.exit(main(['info']))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141  # what a shell says of others: 128 + SIGPIPE


def test_an_error_that_nobody_reads_keeps_its_exit_code() -> None:
    words = [sys.executable, "-m", "danlu.cli.main", "nothing"]
    with subprocess.Popen(words, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        process.stderr.close()
    assert process.returncode == 2


def test_the_program_answers() -> None:
    assert run_program("--version").stdout.startswith("danlu ")
    assert run_program("nothing").returncode == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_cards_that_are_not_here_are_said_before_they_are_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = "train --dataset rows.jsonl --output_dir run --device cuda --num_devices 2"
    assert main(words.split()) == 3
    said = capsys.readouterr().err
    assert said.startswith("The device cuda cannot be used.")
    assert "danlu doctor" in said
