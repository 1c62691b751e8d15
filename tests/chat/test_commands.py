"""Commands, typed by a program: what they do to conversation, files and the next answer."""

from __future__ import annotations

import io
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from danlu.cli.main import main
from danlu.engine.engine import Engine
from tests.helpers.models.model_folder import write_model_folder
from tests.helpers.program import train_words, write_rows

Talk = Callable[..., str]
GREEDY = ["--do_sample", "false", "--max_new_tokens", "12"]


@pytest.fixture
def talk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Talk:
    """Type lines into a chat in an empty folder, and return what it prints."""
    monkeypatch.chdir(tmp_path)

    def typed(*lines: str, words: tuple[str, ...] = ()) -> str:
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        assert main(["chat", *GREEDY, *words]) == 0
        return capsys.readouterr().out

    return typed


def saved(path: Path) -> list[dict[str, str]]:
    messages = json.loads(path.read_text(encoding="utf-8"))["messages"]
    assert isinstance(messages, list)
    return messages


def test_a_pipe_gets_the_answer_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("你好\n"))
    assert main(["chat", "-", *GREEDY]) == 0
    said = capsys.readouterr()
    assert said.out.strip()
    assert len(said.out.splitlines()) == 1
    assert "Model starter" in said.err


def test_retry_undo_and_export(talk: Talk, tmp_path: Path) -> None:
    talk("/system Be kind.", "你好", "/retry", "hello", "/undo", "/export json out.json")
    system, question, answer = saved(tmp_path / "out.json")
    assert system == {"role": "system", "content": "Be kind."}
    assert question == {"role": "user", "content": "你好"}
    assert answer["role"] == "assistant"
    talk("你好", "/export md out.md")
    assert (tmp_path / "out.md").read_text(encoding="utf-8").startswith("## User\n\n你好\n\n## As")


def test_an_answer_that_was_cut_goes_on_as_it_would_have(talk: Talk, tmp_path: Path) -> None:
    talk("你好", "/export json whole.json")
    talk("/set max_new_tokens 2", "你好", "/set max_new_tokens 10", "/continue",
         "/export json parts.json")  # fmt: skip
    assert saved(tmp_path / "parts.json") == saved(tmp_path / "whole.json")


def test_save_and_load(talk: Talk, tmp_path: Path) -> None:
    talk("/system s", "你好", "/save kept.json")
    output = talk("/load kept.json", "/undo", "/export json out.json")
    assert "0 questions are left" in output
    assert saved(tmp_path / "out.json") == [{"role": "system", "content": "s"}]
    assert "kept.json exists already." in talk("你好", "/save kept.json")
    assert "no conversation" in talk("/load out.json")


def test_a_file_goes_with_the_next_question(talk: Talk, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("红色\n", encoding="utf-8")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\xff")
    output = talk("/file notes.txt", "/file picture.png", "颜色？", "/export json out.json")
    assert "picture.png cannot be read." in output
    assert saved(tmp_path / "out.json")[0]["content"] == "notes.txt:\n```\n红色\n```\n\n颜色？"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/sett", "Did you mean /set?"),
        ("/set temperature hot", "temperature"),
        ("/set top_p 2", "top_p"),
        ("/set colour red", "It takes one of these names"),
        ("/think maybe", "thinking_budget"),
        ("/retry", "There is nothing yet."),
        ("/continue", "There is nothing yet."),
        ("/undo", "There is nothing yet."),
        ("/export pdf", "/export md"),
        ("/load", "/load needs a file."),
        ("/load missing.json", "missing.json"),
        ("/copy", "There is nothing yet."),
    ],
)
def test_a_command_that_cannot_be_done_says_why_and_the_chat_goes_on(
    talk: Talk, line: str, said: str
) -> None:
    output = talk(line, "/tokens")
    assert said in output
    assert "context 0 of" in output


def test_think_and_set_change_the_next_answer(talk: Talk) -> None:
    assert "<think>" in talk("/think on", "2+3=?", words=("--template", "qwen3_thinking"))
    output = talk("/set temperature 0.5", "/think 7", "/think", "clear", "exit", "not asked")
    assert "temperature = 0.5" in output
    assert output.count("Thinking: on") == 2
    assert output.endswith("A new conversation.\n")


def test_what_is_taught_is_trained_on_by_the_command_that_is_printed(
    talk: Talk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = talk("hello", "/teach Good day, Anna.", "and you?", "/teach I am fine.", "/teach")
    rows = (tmp_path / "corrections.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(rows[0])["messages"] == [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "Good day, Anna."},
    ]
    # What came before is the correction, and is not learned twice.
    assert json.loads(rows[1])["messages"][1] == {
        "role": "assistant", "content": "Good day, Anna.", "weight": 0,
    }  # fmt: skip
    assert len(rows) == 2
    said, command = output.splitlines()[-2:]
    assert said == "2 corrected answers are in corrections.jsonl. To learn them:"
    words = shlex.split(command)
    assert words[0] == "danlu"
    assert main([*words[1:], "--report", "false"]) == 0
    assert "2 rows to learn" in capsys.readouterr().out
    output = talk("/adapter", "/model", "hello", "and you?", words=("--adapter", "taught"))
    assert "base, taught\n" in output
    assert "Good day, Anna." in output
    assert "I am fine." in output
    assert str(tmp_path / "taught" / "final") in output


def test_adapters_and_models_are_changed_in_a_chat(talk: Talk, tmp_path: Path) -> None:
    model = write_model_folder(tmp_path / "model", seed=3)
    rows = write_rows(tmp_path / "rows.jsonl")
    assert main(train_words(model, rows, tmp_path / "run", max_steps=1)) == 0
    output = talk(
        "/adapter none", "/adapter fox=run", "/adapter fox=run", "/compare hello",
        "/export json a.json", "/adapter base", "/model starter", "/model nowhere", "/new", "你好",
        "/export json b.json",
        words=(str(model),),
    )  # fmt: skip
    assert "There is no adapter none here." in output
    assert "The names that are taken: base, fox" in output
    assert "[base]\n" in output
    assert "[fox]\n" in output
    assert saved(tmp_path / "a.json")[0] == {"role": "user", "content": "hello"}
    assert "nowhere does not exist" in output  # and the starter goes on answering
    assert output.count("Model starter on") == 1
    assert "好" in saved(tmp_path / "b.json")[-1]["content"]


@pytest.mark.parametrize("words", [("a=run", "a=run"), ("run", "other"), ("base=run",)])
def test_adapters_without_names_of_their_own_are_refused(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["chat", "--adapter", *words]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_a_conversation_that_runs_out_of_memory_is_kept(
    talk: Talk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three lines say where; what was said before stays, and shorter questions are answered."""
    forward = Engine._forward

    def short_of_memory(engine: Engine, batch: Any) -> Any:
        if sum(batch.values()) > 100:
            raise MemoryError("no room for 8 GiB")
        return forward(engine, batch)

    monkeypatch.setattr(Engine, "_forward", short_of_memory)
    output = talk("你好", "long " * 200, "hello", "/export json out.json")
    kept = next(tmp_path.glob("chat-*.json"))
    lines = output.splitlines()
    start = lines.index("The memory ran out.")
    assert lines[start + 1] == "no room for 8 GiB"
    assert lines[start + 2].endswith(f"/load {kept}")
    questions = [m["content"] for m in saved(tmp_path / "out.json") if m["role"] == "user"]
    assert questions == ["你好", "hello"]
    assert "1 questions from" in talk(f"/load {kept}")


def test_a_conversation_outlives_a_fault(
    talk: Talk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def broken(_chat: Any, _argument: str) -> None:
        raise KeyError("a fault of ours")

    monkeypatch.setattr("danlu.chat.commands.table._stats", broken)
    monkeypatch.setattr(sys, "stdin", io.StringIO("你好\n/stats\n"))
    assert main(["chat", *GREEDY]) == 1
    kept = next(tmp_path.glob("chat-*.json"))
    assert f"/load {kept}" in capsys.readouterr().out
    assert "1 questions from" in talk(f"/load {kept}")
