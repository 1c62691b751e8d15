"""The way of a user with --device npu: train, resume, ask, merge, ask the merged model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from danlu.cli.main import main
from danlu.runs.manifest import read_manifest
from danlu.runs.metrics import read_metrics
from tests.helpers.models.model_folder import write_model_folder
from tests.helpers.program import train_words, write_rows
from tests.sim.memory import MEMORY
from tests.sim.torch_npu import DESCRIPTION

QUESTION = "What is the name of fox 3?"
GREEDY = ["--do_sample", "false", "--max_new_tokens", "16", "--dtype", "float32", "--json"]
Screen = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, rows, and the same run on either device."""
    folder = tmp_path_factory.mktemp("place")
    model, rows = write_model_folder(folder / "model"), write_rows(folder / "rows.jsonl")
    for device in ("cpu", "npu"):
        changes = {"device": device, "max_steps": 30, "val_size": 4, "eval_steps": 10}
        assert main(train_words(model, rows, folder / device, **changes)) == 0
    return folder


def read_json(screen: Screen) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(screen.readouterr().out)
    return record


def losses(run: Path, field: str) -> list[float]:
    return [record[field] for record in read_metrics(run) if field in record]


def test_the_run_is_that_of_the_cpu_and_says_where_it_was(place: Path) -> None:
    for field, count in (("loss", 30), ("eval_loss", 3)):
        assert losses(place / "npu", field) == losses(place / "cpu", field)
        assert len(losses(place / "npu", field)) == count
    file = "final/adapter_model.safetensors"
    assert (place / "npu" / file).read_bytes() == (place / "cpu" / file).read_bytes()
    arithmetic = read_manifest(place / "npu").arithmetic
    assert (arithmetic.device, arithmetic.dtype) == ("npu", "float32")
    assert arithmetic.device_description == DESCRIPTION


def test_the_adapter_answers_alike_on_either_device(place: Path, capsys: Screen) -> None:
    answers = []
    for device in ("cpu", "npu"):
        which = ["--adapter", str(place / "npu"), "--device", device]
        assert main(["generate", QUESTION, *which, *GREEDY]) == 0
        answers.append(read_json(capsys))
    assert answers[0] == answers[1]
    assert answers[0]["completion_tokens"] > 5


def test_the_merge_is_that_of_the_cpu(place: Path, capsys: Screen) -> None:
    reports = {}
    for device in ("cpu", "npu"):
        target = ["--export_dir", str(place / f"merged-{device}"), "--device", device, "--json"]
        assert main(["merge", "--adapter", str(place / "npu"), *target]) == 0
        reports[device] = read_json(capsys)
    assert reports["npu"] == reports["cpu"]
    files = [place / f"merged-{device}" / "model.safetensors" for device in reports]
    assert files[0].read_bytes() == files[1].read_bytes()
    model = ["--model", str(place / "merged-npu"), "--device", "npu"]
    assert main(["generate", QUESTION, *model, *GREEDY]) == 0
    assert read_json(capsys)["completion_tokens"] > 5


def test_a_finished_run_goes_on_only_on_its_device(place: Path, capsys: Screen) -> None:
    words = train_words(
        place / "model", place / "rows.jsonl", place / "npu", max_steps=30, device="cpu"
    )
    assert main([*words, "--resume_from_checkpoint", "true"]) == 2
    assert "device: npu -> cpu" in capsys.readouterr().err


def test_full_training_in_the_devices_own_precision(place: Path, capsys: Screen) -> None:
    """Without --dtype and --device: the NPU is found, and computes in bf16."""
    words = train_words(
        *(place / "model", place / "rows.jsonl", place / "full"),
        device="auto",
        dtype="auto",
        lora_dropout=0.0,
        finetuning_type="full",
    )
    assert main(words) == 0
    arithmetic = read_manifest(place / "full").arithmetic
    assert (arithmetic.device, arithmetic.dtype) == ("npu", "bfloat16")
    capsys.readouterr()
    assert main(["generate", "hello", "--model", str(place / "full" / "final"), *GREEDY]) == 0
    assert read_json(capsys)["completion_tokens"]


def test_a_model_that_does_not_fit_is_refused_with_both_sizes(place: Path, capsys: Screen) -> None:
    with MEMORY.limited_to(100_000):
        assert main(["generate", "hello", "--model", str(place / "model")]) == 4
    said = capsys.readouterr().err
    assert f"{DESCRIPTION} has 97.7 KiB" in said


def test_info_names_the_device(capsys: Screen) -> None:
    assert main(["info", "--json"]) == 0
    assert DESCRIPTION in read_json(capsys)["device"]


def test_the_starter_model_answers_alike_on_either_device(capsys: Screen) -> None:
    """The built-in model, as trained: 16 tokens of its own answer."""
    answers = []
    for device in ("cpu", "npu"):
        assert main(["generate", "Who are you?", "--device", device, *GREEDY]) == 0
        answers.append(read_json(capsys))
    assert answers[0] == answers[1]
