"""`danlu generate --input`: every row is answered once, whatever happens on the way."""

from __future__ import annotations

import io
import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from danlu.cli.main import main
from danlu.workflows.answer_file import AnswerFile
from tests.helpers.models.model_folder import write_model_folder
from tests.helpers.program import start

Screen = pytest.CaptureFixture[str]
NUM_ROWS = 24
# So many steps of the engine that there is a middle to be killed in.
SLOW = (
    "import sys, time\n"
    "from danlu.engine.engine import Engine\n"
    "step = Engine.step\n"
    "Engine.step = lambda self: (time.sleep(0.03), step(self))[1]\n"
    "from danlu.cli.main import main\n"
    "sys.exit(main(sys.argv[1:]))\n"
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights, rows, and the answers to all of them."""
    folder = tmp_path_factory.mktemp("rows")
    write_model_folder(folder / "model", dtype=torch.float32)
    rows = [{"id": n, "prompt": f"What is {n} + 1?"} for n in range(NUM_ROWS)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert main(words(folder, folder / "whole.jsonl")) == 0
    return folder


def words(place: Path, output: Path, **changes: Any) -> list[str]:
    settings = {
        "model": place / "model", "input": place / "rows.jsonl", "output": output,
        "max_new_tokens": 24, "seed": 5, "device": "cpu", **changes,
    }  # fmt: skip
    return [
        "generate",
        *(w for k, v in settings.items() if v is not None for w in (f"--{k}", f"{v}")),
    ]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def cut(place: Path, output: Path, size: int) -> Path:
    """Leave the first bytes of all answers, as a killed process would."""
    whole = place / "whole.jsonl"
    output.write_bytes(whole.read_bytes()[:size])
    made_with = whole.with_name("whole.jsonl.made_with.json").read_bytes()
    output.with_name(f"{output.name}.made_with.json").write_bytes(made_with)
    return output


def test_a_line_has_its_rows_fields_and_the_answer(place: Path) -> None:
    found = lines(place / "whole.jsonl")
    assert [line["id"] for line in found] == list(range(NUM_ROWS))
    assert all(line["prompt"] == f"What is {line['id']} + 1?" for line in found)
    assert all(line["finish_reason"] in ("stop", "length") for line in found)
    assert all(0 < line["completion_tokens"] <= 24 for line in found)
    assert len({line["answer"] for line in found}) > NUM_ROWS // 2


@pytest.mark.parametrize("share", [0.0, 0.1, 0.55, 0.999])
def test_a_batch_that_was_cut_goes_on_as_it_would_have(
    place: Path, tmp_path: Path, share: float
) -> None:
    """Cut in the middle of a line: it is not there, and is answered again with the same draws."""
    whole = (place / "whole.jsonl").read_bytes()
    output = cut(place, tmp_path / "out.jsonl", int(len(whole) * share))
    assert main(words(place, output)) == 0
    assert output.read_bytes() == whole


def test_a_seed_that_nobody_gave_is_kept_for_going_on(place: Path, tmp_path: Path) -> None:
    first = tmp_path / "first.jsonl"
    assert main(words(place, first, seed=None)) == 0
    whole = first.read_bytes()
    assert whole != (place / "whole.jsonl").read_bytes()
    first.write_bytes(whole[: len(whole) // 2])
    assert main(words(place, first, seed=None)) == 0
    assert first.read_bytes() == whole


def test_another_setting_is_named_as_its_flag(place: Path, capsys: Screen) -> None:
    changed = words(place, place / "whole.jsonl", max_new_tokens=5)
    assert main(changed) == 2
    assert "max_new_tokens" in capsys.readouterr().err


def test_a_prompt_that_lacks_is_asked_for_in_the_command_that_was_typed(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: Screen
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    typed = ["generate", "--model", str(place / "model"), "--max_new_tokens", "3"]
    assert main([*typed, "-"]) == 2
    fix = shlex.split(capsys.readouterr().err.splitlines()[-1])
    assert fix[1:] == [*typed, "..."]
    assert main(fix[1:]) == 0


def test_killed_in_the_middle_it_goes_on(place: Path, tmp_path: Path, capsys: Screen) -> None:
    output = tmp_path / "out.jsonl"
    with start(words(place, output), program=SLOW, stdout=subprocess.DEVNULL) as process:
        wait_for_lines(process, output)
        assert main(words(place, output)) == 2
        assert f"{output} is in use." in capsys.readouterr().err
        process.kill()
    assert 0 < len(output.read_bytes().splitlines()) < NUM_ROWS
    assert main(words(place, output)) == 0
    assert output.read_bytes() == (place / "whole.jsonl").read_bytes()


def test_ctrl_c_keeps_what_is_there_and_prints_the_command_that_goes_on(
    place: Path, tmp_path: Path
) -> None:
    output = tmp_path / "my out.jsonl"
    with start(words(place, output), program=SLOW, stderr=subprocess.PIPE, text=True) as process:
        wait_for_lines(process, output)
        process.send_signal(signal.SIGINT)
        said = process.communicate()[1]
    assert process.returncode == 130
    count = len(lines(output))
    assert f"{count} of {NUM_ROWS} rows have their answers" in said
    command = shlex.split(said.splitlines()[-1].partition("Go on with: ")[2])
    assert command[0].endswith("danlu")
    assert main(command[1:]) == 0
    assert output.read_bytes() == (place / "whole.jsonl").read_bytes()


def test_ctrl_c_right_behind_a_line_counts_it(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Screen
) -> None:
    output, add = tmp_path / "out.jsonl", AnswerFile.add

    def add_and_stop(*given: Any) -> None:
        add(*given)
        raise KeyboardInterrupt

    monkeypatch.setattr(AnswerFile, "add", add_and_stop)
    assert main(words(place, output)) == 130
    assert len(lines(output)) == 1
    assert f"1 of {NUM_ROWS} rows have their answers" in capsys.readouterr().err


def wait_for_lines(process: subprocess.Popen[Any], output: Path) -> None:
    while not output.exists() or not output.read_bytes().count(b"\n"):
        assert process.poll() is None
        time.sleep(0.01)


def test_a_bad_row_is_named_and_stops_no_other(place: Path, tmp_path: Path, capsys: Screen) -> None:
    rows, output = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    long = "word " * 5000
    rows.write_text(
        '{"prompt": "hello"}\n{"text": "hello"}\n{"prompt": \n'
        + json.dumps({"prompt": long})
        + '\n{"prompt": "\\ud800"}\n{"prompt": "hello", "answer": "right", "error": 3}\n'
    )
    for _again in range(2):
        assert main(words(place, output, input=rows, do_sample="false")) == 5
        said = capsys.readouterr().out
        assert "could not be answered: 4;" in said
    first, unknown, broken, too_long, half, last = lines(output)
    assert first["answer"] == last["answer"]
    assert last["input_answer"] == "right"
    assert last["input_error"] == 3
    assert unknown["text"] == "hello"
    assert "prompt" in unknown["error"]
    assert "JSON" in broken["error"]
    assert "do not fit" in too_long["error"]
    assert half["prompt"] == "\ud800"
    assert all(line["answer"] is None for line in (unknown, broken, too_long, half))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 6}, "seed 5; this command says 6"),
        ({"temperature": 0.5}, "temperature"),
        ({"system": "Be kind."}, "system"),
        ({"enable_thinking": "false"}, "enable_thinking"),
        ({"model": "starter"}, "model"),
    ],
    ids=str,
)
def test_answers_of_two_kinds_are_not_mixed(
    place: Path, tmp_path: Path, changes: dict[str, Any], said: str, capsys: Screen
) -> None:
    output = cut(place, tmp_path / "out.jsonl", 1000)
    before = output.read_bytes().rpartition(b"\n")[0] + b"\n"
    assert main(words(place, output, **changes)) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 3
    assert said in error[1]
    assert output.read_bytes() == before


def test_other_settings_are_refused_when_nothing_is_left_to_answer_too(
    place: Path, tmp_path: Path, capsys: Screen
) -> None:
    output = tmp_path / "out.jsonl"
    assert main(words(place, output)) in (0, 5)
    before = output.read_bytes()
    assert main(words(place, output, temperature=0.5)) == 2
    assert "temperature" in capsys.readouterr().err.splitlines()[1]
    assert output.read_bytes() == before


@pytest.mark.parametrize("kind", ["other rows", "fewer rows", "a file of the user", "itself"])
def test_a_file_that_is_no_answer_to_these_rows_is_left_alone(
    place: Path, tmp_path: Path, kind: str, capsys: Screen
) -> None:
    rows, output = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    kept = (place / "rows.jsonl").read_text().splitlines(keepends=True)
    if kind == "a file of the user":
        output.write_text('{"answer": 1}\n')
    else:
        cut(place, output, (place / "whole.jsonl").stat().st_size)
    rows.write_text("".join({"other rows": kept[::-1], "fewer rows": kept[:3]}.get(kind, kept)))
    output = rows if kind == "itself" else output
    before = output.read_bytes()
    assert main(words(place, output, input=rows)) == 2
    assert len(capsys.readouterr().err.splitlines()) == 3
    assert output.read_bytes() == before


@pytest.mark.parametrize(
    "flags",
    [
        ["--input", "rows.jsonl"],
        ["--output", "out.jsonl"],
        ["--input", "nowhere.jsonl", "--output", "out.jsonl"],
        ["hello", "--input", "rows.jsonl", "--output", "out.jsonl"],
    ],
    ids=" ".join,
)
def test_words_that_do_not_fit_together(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Screen
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "hello"}\n')
    assert main(["generate", *flags]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 3
    assert not (tmp_path / "out.jsonl").exists()
