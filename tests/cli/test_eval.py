"""`danlu eval`: the report again, scores on a data set, and what happens with bad input."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from danlu.cli.main import main
from danlu.data.datasets import Row
from danlu.dialog.assistant import open_assistant
from danlu.dialog.settings import ModelSettings
from danlu.engine.request import SamplingSettings
from danlu.workflows.evaluation import PREDICTIONS_FILE, RESULTS_FILE, EvaluationProgress, evaluate
from danlu.workflows.held_out import read_dataset
from danlu.workflows.report import measure
from danlu.workflows.scores import score
from tests.helpers.models.model_folder import write_model_folder
from tests.helpers.program import train_words, write_rows

Screen = pytest.CaptureFixture[str]
SHORT = ["--max_new_tokens", "16", "--dtype", "float32", "--device", "cpu"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model, rows and a run on them that does not think."""
    folder = tmp_path_factory.mktemp("place")
    model = write_model_folder(folder / "model")
    rows = write_rows(folder / "rows.jsonl")
    words = train_words(model, rows, folder / "run", max_steps=30, enable_thinking=False)
    assert main([*words, "--val_size", "4", "--eval_steps", "10"]) == 0
    return folder


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_the_report_is_written_again(
    place: Path, capsys: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "SAMPLING", SamplingSettings(temperature=0.0, max_tokens=16))
    words = ["eval", str(place / "run"), "--device", "cpu", "--dtype", "float32"]
    assert main(words) == 0
    output = capsys.readouterr().out
    assert "held-out loss, 4 of 4 rows: " in output
    assert f"Report: {place / 'run' / 'report.html'}" in output
    before = (place / "run" / "report.html").stat().st_mtime_ns
    assert main([*words, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (place / "run" / "report.html").stat().st_mtime_ns > before
    assert record["markdown"] == str(place / "run" / "report.md")
    assert record["loss"][1] < record["loss"][0]
    assert record["rows"] == record["answered"] == 4


def test_scores_on_a_data_set(place: Path, capsys: Screen) -> None:
    folder = place / "scored"
    words = ["eval", "--adapter", str(place / "run"), "--dataset", str(place / "rows.jsonl")]
    assert main([*words, "--max_samples", "6", "--output_dir", str(folder), *SHORT]) == 0
    output = capsys.readouterr().out
    assert "loss: 6 of 6" in output
    assert "answers: 6 of 6" in output
    assert str(folder / PREDICTIONS_FILE) in output
    predictions = lines_of(folder / PREDICTIONS_FILE)
    rows = lines_of(place / "rows.jsonl")[:6]
    assert [line["label"] for line in predictions] == [row["output"] for row in rows]
    for line, row in zip(predictions, rows, strict=True):
        assert line.keys() == {"prompt", "predict", "label"}
        assert line["prompt"] == (
            f"<|im_start|>user\n{row['instruction']}<|im_end|>\n"
            "<|im_start|>assistant\n<think>\n\n</think>\n\n"
        )
    results = json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))
    found = score([p["predict"] for p in predictions], [p["label"] for p in predictions])
    assert results["predict_rouge-1"] == round(found.rouge_1, 4)
    assert results["predict_rouge-l"] == round(found.rouge_l, 4)
    assert results["predict_bleu-4"] == round(found.bleu_4, 4)
    assert results["predict_exact_match"] == round(found.exact_match, 4)
    assert results["predict_samples"] == 6
    assert (results["template"], results["enable_thinking"]) == ("qwen3", False)
    assert "tok:13a" in results["predict_bleu_signature"]


def test_a_run_is_scored_as_its_adapter_is(place: Path, capsys: Screen) -> None:
    data = ["--dataset", str(place / "rows.jsonl"), "--max_samples", "3", "--json", *SHORT]
    records = []
    for number, words in enumerate(([str(place / "run")], ["--adapter", str(place / "run")])):
        output = ["--output_dir", str(place / f"same-{number}")]
        assert main(["eval", *words, *data, *output]) == 0
        record = json.loads(capsys.readouterr().out)
        record.pop("predict_runtime")
        records.append(record)
    assert records[0] == records[1]
    assert (
        main(["eval", "--model", str(place / "model"), *data, "--output_dir", str(place / "b")])
        == 0
    )
    assert json.loads(capsys.readouterr().out)["predict_loss"] > records[0]["predict_loss"]


def test_answers_go_into_a_new_folder_of_the_run(place: Path, capsys: Screen) -> None:
    words = ["eval", str(place / "run"), "--dataset", str(place / "rows.jsonl")]
    assert main([*words, "--max_samples", "1", *SHORT]) == 0
    capsys.readouterr()
    (folder,) = (place / "run").glob("eval-*")
    assert {file.name for file in folder.iterdir()} == {PREDICTIONS_FILE, RESULTS_FILE}


def test_predictions_are_written_as_they_come(place: Path) -> None:
    rows = read_dataset(str(place / "rows.jsonl"), place, max_samples=5)
    assistant = open_assistant(
        ModelSettings(model_name_or_path=str(place / "model"), device="cpu"), enable_thinking=False
    )
    file = place / "growing" / PREDICTIONS_FILE
    seen = []
    for event in evaluate(assistant, rows, file.parent, max_new_tokens=8):
        if isinstance(event, EvaluationProgress) and event.stage == "answers":
            seen.append((event.done, len(lines_of(file))))
            assert not (file.parent / RESULTS_FILE).exists()
    assert seen == [(n, n) for n in range(1, 6)]


def test_reasoning_stands_in_the_file_and_not_in_the_scores(place: Path) -> None:
    row = {"instruction": "你好", "output": "<think>\n想一想\n</think>\n\n你好！"}
    file = place / "thought.jsonl"
    file.write_text(json.dumps(row), encoding="utf-8")
    (only,) = read_dataset(str(file), place, max_samples=None)
    assert isinstance(only, Row)
    assistant = open_assistant(ModelSettings(model_name_or_path=str(place / "model")))
    events = list(evaluate(assistant, [only], place / "thought", max_new_tokens=4))
    (line,) = lines_of(place / "thought" / PREDICTIONS_FILE)
    assert line["label"] == row["output"]
    assert line["prompt"].endswith("<|im_start|>assistant\n")
    results = events[-1].results  # type: ignore[union-attr]
    assert "tok:zh" in results["predict_bleu_signature"]


def failed(words: list[str], code: int, screen: Screen) -> str:
    """Run a command that must fail with three lines and leave nothing behind."""
    assert main(["eval", *words]) == code
    lines = screen.readouterr().err.splitlines()
    assert len(lines) == 3, lines
    return " ".join(lines)


def test_bad_input_is_explained(place: Path, capsys: Screen) -> None:
    (place / "empty.jsonl").write_text("", encoding="utf-8")
    model = ["--model", str(place / "model")]
    for words, code, part in (
        ([], 2, "danlu eval my-run"),
        (model, 2, "danlu eval my-run"),
        ([str(place / "nowhere")], 2, "There is no run"),
        ([str(place / "model")], 2, "Neither a run nor a data set is named"),
        ([*model, "--dataset", str(place / "none.jsonl")], 2, "none.jsonl"),
        ([*model, "--dataset", str(place / "empty.jsonl")], 5, "empty.jsonl"),
        ([str(place / "run"), "--adapter", str(place / "run")], 2, "brings its own adapter"),
        ([str(place / "run"), "--output_dir", "x"], 2, "--output_dir has no meaning"),
        ([str(place / "run"), "--enable_thinking", "true"], 2, "--enable_thinking has no meaning"),
        ([str(place / "run"), "--report_seconds", "0"], 2, "it must be more than 0"),
        ([*model, "--dataset", "x", "--max_new_tokens", "0"], 2, "it must be 1 or more"),
        ([*model, "--dataset", "x", "--max_samples", "-1"], 2, "it must be 1 or more"),
    ):
        assert part in failed(words, code, capsys), words
    assert not list(place.glob("eval-*"))


def test_broken_rows_are_listed(place: Path, capsys: Screen) -> None:
    file = place / "broken.jsonl"
    file.write_text('{"instruction": "a", "output": ""}\n', encoding="utf-8")
    assert "broken.jsonl:1" in failed(["--dataset", str(file)], 5, capsys)


def test_earlier_answers_are_not_mixed_with_new_ones(place: Path, capsys: Screen) -> None:
    words = ["--model", str(place / "model"), "--dataset", str(place / "rows.jsonl")]
    words += ["--max_samples", "1", "--output_dir", str(place / "twice"), *SHORT]
    assert main(["eval", *words]) == 0
    capsys.readouterr()
    kept = (place / "twice" / PREDICTIONS_FILE).read_bytes()
    assert "exists already" in failed(words, 2, capsys)
    assert (place / "twice" / PREDICTIONS_FILE).read_bytes() == kept


def test_a_missing_library_is_said_before_anything_is_computed(
    place: Path, capsys: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics.bleu", None)
    words = ["--model", str(place / "model"), "--dataset", str(place / "rows.jsonl"), *SHORT]
    folder = place / "no-library"
    assert "pip install sacrebleu" in failed([*words, "--output_dir", str(folder)], 3, capsys)
    assert not folder.exists()
