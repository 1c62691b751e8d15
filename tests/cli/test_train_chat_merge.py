"""The way of a user: train, look at the result, ask it, merge it, chat."""

from __future__ import annotations

import io
import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from danlu.cli.main import main
from danlu.dialog.assistant import Assistant
from danlu.errors import UsageError
from danlu.files.committed import verify
from danlu.runs.manifest import read_manifest
from danlu.text.conversation import Conversation
from tests.helpers.models.model_folder import write_model_folder
from tests.helpers.program import SHORT, train_words, write_rows
from tests.helpers.terminal import Terminal

QUESTION = "What is the name of fox 3?"
GREEDY = ["--do_sample", "false", "--max_new_tokens", "16"]
Screen = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, rows, a run trained by flags, and its merge."""
    folder = tmp_path_factory.mktemp("place")
    model = write_model_folder(folder / "model")
    rows = write_rows(folder / "rows.jsonl")
    assert main(train_words(model, rows, folder / "run", max_steps=30, enable_thinking=False)) == 0
    return folder


@pytest.fixture(scope="module")
def merged(place: Path) -> Path:
    words = ["merge", "--adapter", str(place / "run"), "--export_dir", str(place / "merged")]
    assert main(words) == 0
    return place / "merged"


def read_json(screen: Screen) -> dict[str, object]:
    """What a program reads: standard output is one JSON object and nothing else."""
    record = json.loads(screen.readouterr().out)
    assert isinstance(record, dict)
    return record


def test_training_says_what_it_does_and_where_the_result_is(place: Path, capsys: Screen) -> None:
    changes = {"val_size": 0.1, "plot_loss": "true"}
    words = train_words(place / "model", place / "rows.jsonl", place / "said", **changes)
    assert main([*words, "--eval_steps", "3", "--logging_steps", "2"]) == 0
    output = capsys.readouterr().out
    for part in (
        "36 rows to learn",
        "4 held out",
        "6 steps of 4 rows",
        "2/6  epoch",
        "held-out loss",
    ):
        assert part in output
    assert f"danlu chat --adapter {place / 'said'}" in output
    assert (place / "said" / "loss.png").read_bytes().startswith(b"\x89PNG")
    verify(place / "said" / "final")


@pytest.mark.parametrize(
    "fault", [RuntimeError("a card fell out"), MemoryError(), UsageError("w", why="y", fix="f")]
)
def test_a_report_that_fails_leaves_the_run_finished(
    fault: Exception, place: Path, tmp_path: Path, capsys: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_words: object, **_named: object) -> Iterator[None]:
        raise fault
        yield

    monkeypatch.setattr("danlu.workflows.report.report.write_report", broken)
    run = tmp_path / "run"
    words = train_words(place / "model", place / "rows.jsonl", run, max_steps=1, report="true")
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "The report could not be written" in said
    assert f"danlu eval {run}" in said
    assert read_manifest(run).state == "finished"


def test_yaml_with_words_trains_the_same_as_flags(
    place: Path, capsys: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = {**SHORT, "model_name_or_path": "model", "dataset": "rows.jsonl", "max_steps": 30}
    lines = [f"{name}: {value}\n" for name, value in {**recipe, "learning_rate": 0.1}.items()]
    (place / "recipe.yaml").write_text("".join(lines), encoding="utf-8")
    monkeypatch.chdir(place)
    words = ["learning_rate=0.005", "output_dir=by-yaml", "--enable-thinking", "false"]
    assert main(["train", "recipe.yaml", *words]) == 0
    file = "final/adapter_model.safetensors"
    assert (place / "by-yaml" / file).read_bytes() == (place / "run" / file).read_bytes()


def test_full_training_gives_a_model(place: Path, capsys: Screen) -> None:
    words = train_words(place / "model", place / "rows.jsonl", place / "full", lora_dropout=0.0)
    assert main([*words, "--finetuning_type", "full"]) == 0
    capsys.readouterr()
    model = str(place / "full" / "final")
    assert main(["generate", "hello", "--model", model, *GREEDY, "--json"]) == 0
    assert read_json(capsys)["completion_tokens"]
    run = str(place / "full")
    assert main(["export", run, "--export_dir", str(place / "gguf")]) == 0
    assert (place / "gguf" / "full-bf16.gguf").is_file()
    for words in ([run], ["--adapter", run]):
        capsys.readouterr()
        assert main(["merge", *words, "--export_dir", str(place / "no")]) == 2
        what, why, fix = capsys.readouterr().err.splitlines()
        assert (run in what, "nothing has to be merged" in why) == (True, True)
        assert shlex.split(fix)[1:] == ["chat", "--model", model]


def test_info_tells_what_a_folder_holds(place: Path, capsys: Screen) -> None:
    facts = {}
    for name in ("run", "model", "run/final"):
        assert main(["info", str(place / name), "--json"]) == 0
        facts[name] = read_json(capsys)
        assert main(["info", str(place / name)]) == 0
        shown = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in shown] == list(facts[name])
    run, model, adapter = facts.values()
    assert (run["kind"], run["state"], run["checkpoints"]) == (
        "run (lora)",
        "finished 30 steps",
        [30],
    )
    assert (run["template"], run["thinking"]) == ("qwen3", False)
    assert run["base"] == adapter["base"] == model["folder"] == str(place / "model")
    assert (model["kind"], model["layers"], model["vocab_size"]) == ("model", 2, 384)
    assert (adapter["kind"], adapter["rank"], adapter["alpha"]) == ("adapter", 8, 16.0)


def test_info_shows_the_machine(capsys: Screen) -> None:
    assert main(["info", "--json"]) == 0
    assert {"device", "memory", "danlu", "torch", "python", "home"} <= read_json(capsys).keys()


def test_merged_answers_as_base_and_adapter(place: Path, merged: Path, capsys: Screen) -> None:
    verify(merged)
    answers = []
    for which in (["--adapter", str(place / "run")], ["--model", str(merged)]):
        assert main(["generate", QUESTION, *which, *GREEDY, "--dtype", "float32", "--json"]) == 0
        answers.append(read_json(capsys))
    base = ["--model", str(place / "model")]
    assert main(["generate", QUESTION, *base, *GREEDY, "--dtype", "float32", "--json"]) == 0
    untrained = read_json(capsys)
    for answer in (*answers, untrained):
        answer.pop("model")
    # The same text, and the same prompt: the merged model remembers that it does not think.
    assert answers[0] == answers[1] != untrained
    assert str(answers[0]["content"]).startswith("The name is ")
    assert answers[0]["finish_reason"] in ("stop", "length")


def test_merge_reports_to_programs(place: Path, capsys: Screen) -> None:
    target = place / "merged-json"
    words = ["--model_name_or_path", str(place / "model"), "--export_dir", str(target), "--json"]
    assert main(["merge", "--adapter_name_or_path", str(place / "run" / "final"), *words]) == 0
    report = read_json(capsys)
    assert report == json.loads((target / "merge_report.json").read_text(encoding="utf-8"))
    assert report["num_merged_tensors"] == 14
    assert report["base_is_proven"] is True


def test_a_prompt_on_standard_input(
    place: Path, capsys: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    which = ["--adapter", str(place / "run"), *GREEDY]
    assert main(["generate", QUESTION, *which]) == 0
    by_word = capsys.readouterr().out
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{QUESTION}\n"))
    assert main(["generate", *which]) == 0
    assert capsys.readouterr().out == by_word
    assert by_word.startswith("The name is ")
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert main(["generate", *which]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 3


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The roles and texts of every conversation that was answered."""
    seen: list[list[str]] = []
    real = Assistant.answer

    def answer(
        self: Assistant, conversation: Conversation, *values: object, **named: object
    ) -> object:
        seen.append([f"{message.role}: {message.content}" for message in conversation.messages])
        return real(self, conversation, *values, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Assistant, "answer", answer)
    return seen


def test_chat_remembers_until_it_starts_over(
    place: Path, capsys: Screen, monkeypatch: pytest.MonkeyPatch, asked: list[list[str]]
) -> None:
    lines = ["hello", "", "again \udcff", "again", "/clear", "hello"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines)))
    which = ["--adapter", str(place / "run"), *GREEDY, "--system", "Be kind."]
    assert main(["chat", *which]) == 0
    output = capsys.readouterr().out
    assert str(place / "run" / "final") in output
    assert "The text is not UTF-8" in output  # and the conversation goes on
    first, _broken, second, third = asked
    assert first == third == ["system: Be kind.", "user: hello"]
    assert second[:2] == first
    assert [text.split(":")[0] for text in second[2:]] == ["assistant", "user"]
    answer = second[2].removeprefix("assistant: ")
    assert answer
    assert output.count(answer) >= 2


def test_chat_in_a_terminal(place: Path) -> None:
    """Ctrl-C stops the answer and leaves the chat open; Ctrl-D leaves."""
    words = ["chat", "--model", str(place / "model"), "--do_sample", "false"]
    with closing(Terminal([*words, "--plain"])) as terminal:
        terminal.wait_for("User:")
        terminal.type("hello\r")
        terminal.wait_for("User: hello\n", more=8)
        terminal.type("\x03")
        terminal.wait_for("\nUser:", times=2)
        terminal.type("\x04")
        assert terminal.exit_code() == 0
        # The hint for Ctrl-C at an empty prompt: the answer would have been over before.
        assert "Ctrl-C again leaves" not in terminal.text
