"""Whole jobs: going on with an adapter or checkpoint, TensorBoard, evaluations, early failures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from danlu.errors import UsageError
from danlu.runs.checkpoints import list_checkpoints
from danlu.runs.manifest import is_run, read_manifest
from danlu.runs.metrics import read_metrics
from danlu.train.events import Evaluated, StepDone
from danlu.train.job.finetune import Finetune
from danlu.train.job.setup import prepare_run
from danlu.train.settings import TrainSettings
from tests.helpers.models.model_folder import write_model_folder
from tests.helpers.program import SHORT, write_rows


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_model_folder(tmp_path / "model")
    write_rows(tmp_path / "rows.jsonl")
    return tmp_path


def settings(place: Path, name: str, **changes: Any) -> TrainSettings:
    given = {
        **SHORT,
        "model_name_or_path": str(place / "model"),
        "dataset": str(place / "rows.jsonl"),
        "output_dir": str(place / name),
        "lora_dropout": 0.0,
        **changes,
    }
    return TrainSettings(**given)


def test_training_goes_on_with_an_adapter(place: Path) -> None:
    list(
        Finetune(prepare_run(settings(place, "first", val_size=8, max_steps=30, lora_rank=4))).run()
    )
    before = read_manifest(place / "first").results["eval_loss"]
    more = settings(
        place, "more", val_size=8, adapter_name_or_path=str(place / "first"), eval_on_start=True
    )
    events = list(Finetune(prepare_run(more)).run())
    first = next(event for event in events if isinstance(event, Evaluated))
    assert first.loss == pytest.approx(before, rel=1e-6)
    assert list_checkpoints(place / "first")  # what it started from is left alone
    # The rank is the adapter's, whatever lora_rank says.
    assert read_manifest(place / "more").settings["adapter_name_or_path"] == str(place / "first")
    with pytest.raises(UsageError, match="full"):
        Finetune(prepare_run(more.model_copy(update={"finetuning_type": "full"})))


def test_a_run_goes_on_from_the_checkpoint_that_is_named(place: Path) -> None:
    whole = settings(place, "run", save_steps=2)
    list(Finetune(prepare_run(whole)).run())
    losses = [r["loss"] for r in read_metrics(place / "run")]
    final = (place / "run" / "adapter_model.safetensors").read_bytes()
    for name in ("checkpoint-2", str(place / "run" / "checkpoint-2")):
        again = whole.model_copy(update={"resume_from_checkpoint": name})
        events = list(Finetune(prepare_run(again)).run())
        assert [e.step for e in events if isinstance(e, StepDone)] == [3, 4, 5, 6]
        assert [r["loss"] for r in read_metrics(place / "run")] == losses
        assert (place / "run" / "adapter_model.safetensors").read_bytes() == final
    missing = str(place / "elsewhere" / "checkpoint-2")
    for name, told in (("checkpoint-3", "no checkpoint"), (missing, f"{missing} does not exist")):
        with pytest.raises(UsageError, match=told):
            list(
                Finetune(
                    prepare_run(whole.model_copy(update={"resume_from_checkpoint": name}))
                ).run()
            )


def test_tensorboard_shows_the_losses(place: Path) -> None:
    from tensorboardX.proto.event_pb2 import Event

    job = settings(
        place, "run", val_size=4, eval_steps=3, logging_steps=2, logging_dir=str(place / "tb")
    )
    list(Finetune(prepare_run(job)).run())
    (file,) = (place / "tb").iterdir()
    seen: dict[str, list[int]] = {}
    data = file.read_bytes()
    while data:  # TFRecord: length, its checksum, the event, its checksum
        length = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + length])
        for value in event.summary.value:
            seen.setdefault(value.tag, []).append(event.step)
        data = data[12 + length + 4 :]
    assert seen["train/loss"] == seen["train/learning_rate"] == [2, 4, 6]
    assert seen["eval/loss"] == [3, 6]


def test_no_tensorboard_unless_there_is_a_place_for_it(place: Path) -> None:
    list(Finetune(prepare_run(settings(place, "run"))).run())
    assert not list(place.rglob("events*"))


@pytest.mark.parametrize("name", ["load_best_model_at_end", "early_stopping_patience"])
def test_what_needs_held_out_rows_says_so(place: Path, name: str) -> None:
    with pytest.raises(UsageError, match=name):
        Finetune(prepare_run(settings(place, "run", **{name: 1})))


@pytest.mark.parametrize(
    ("given", "evaluated"),
    [
        ({"eval_strategy": "epoch"}, [3, 6, 9]),
        ({"eval_strategy": "steps", "logging_steps": 4}, [4, 8, 9]),
        ({"eval_steps": 0.5}, [5, 9]),
        ({"eval_strategy": "no", "eval_steps": 2}, [9]),
        ({}, [1, 2, 3, 4, 5, 6, 7, 8, 9]),
    ],
)
def test_when_it_evaluates(place: Path, given: dict[str, Any], evaluated: list[int]) -> None:
    job = settings(place, "run", val_size=28, max_steps=9, **given)
    events = list(Finetune(prepare_run(job)).run())
    assert [e.step for e in events if isinstance(e, Evaluated)] == evaluated


def test_what_fails_before_the_first_step_leaves_no_run_that_died(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_given: object) -> None:
        raise MemoryError("no room for the gradients")

    with monkeypatch.context() as patched:
        patched.setattr("danlu.train.job.finetune.trainer_of", fails)
        with pytest.raises(MemoryError):
            list(Finetune(prepare_run(settings(place, "run"))).run())
    assert not is_run(place / "run")
    list(Finetune(prepare_run(settings(place, "run"))).run())  # its folder can be used again
    assert read_manifest(place / "run").state == "finished"
