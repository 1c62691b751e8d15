"""Training on a base in fp8: what it costs the loss, who may, what is recorded, going on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.device_check.fp8 import GATE, trained
from danlu.cli.main import main
from danlu.errors import EnvironmentFault, UsageError
from danlu.ops.choice import VARIABLE
from danlu.runs.manifest import read_manifest, write_manifest
from danlu.settings.resolve import resolve
from danlu.train.events import StepDone
from danlu.train.job.dry_run import forecast
from danlu.train.job.finetune import Finetune
from danlu.train.job.plan_shown import plan_lines
from danlu.train.job.setup import prepare_run
from danlu.train.settings import TrainSettings, check_settings
from danlu.weights.sharded import WeightFolder
from tests.helpers.models.model_folder import write_model_folder
from tests.helpers.program import write_rows

TWIN = "fp8_linear=reference"


@pytest.fixture(autouse=True)
def _twin(monkeypatch: pytest.MonkeyPatch) -> None:
    """This CPU computes in fp8 by the twin: the same rounding as a card's."""
    monkeypatch.setenv(VARIABLE, TWIN)


def settings_of(tmp_path: Path, **changes: object) -> TrainSettings:
    model = tmp_path / "model"
    return TrainSettings(
        model_name_or_path=str(model if model.is_dir() else write_model_folder(model)),
        dataset=str(write_rows(tmp_path / "rows.jsonl", 8)),
        output_dir=str(tmp_path / "run"),
        max_steps=4,
        save_steps=2,
        dtype="float32",
        device="cpu",
        report=False,
        **{"fp8": True, **changes},
    )


def words_of(settings: TrainSettings) -> list[str]:
    names = ("model_name_or_path", "dataset", "output_dir", "device", "dtype", "max_steps")
    return [f"--{name}={getattr(settings, name)}" for name in names]


def losses(settings: TrainSettings) -> list[float]:
    events = Finetune(prepare_run(settings)).run()
    return [event.loss for event in events if isinstance(event, StepDone)]


def mean(numbers: list[float]) -> float:
    return sum(numbers) / len(numbers)


@pytest.mark.soak
def test_thirty_steps_lose_as_much_as_without() -> None:
    (plain, _held), (in_fp8, _held8) = (
        trained("cpu", 30, {"fp8": on}, rows=2) for on in (False, True)
    )
    assert in_fp8 != plain
    assert mean(in_fp8[-10:]) <= (1 + GATE) * mean(plain[-10:])


@pytest.mark.soak
def test_the_loss_after_a_hundred_steps_is_within_a_hundredth() -> None:
    (plain, held), (in_fp8, held8) = (trained("cpu", 100, {"fp8": on}) for on in (False, True))
    assert held < 0.2 * plain[0]
    assert mean(in_fp8[-10:]) <= (1 + GATE) * mean(plain[-10:])
    assert held8 <= (1 + GATE) * held


def test_a_run_records_it_and_goes_on_with_it(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    whole = losses(settings)
    manifest = read_manifest(tmp_path / "run")
    assert manifest.settings["fp8"] is True
    assert manifest.arithmetic.ops["fp8_linear"] == "reference"
    going_on = {"resume_from_checkpoint": "checkpoint-2"}
    assert losses(settings.model_copy(update=going_on)) == whole[2:]
    without = settings.model_copy(update={**going_on, "fp8": False})
    with pytest.raises(UsageError) as caught:
        losses(without)
    assert "fp8: True -> False" in caught.value.why


def test_a_run_that_is_older_than_the_setting_goes_on_without(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, fp8=False)
    whole = losses(settings)
    manifest = read_manifest(tmp_path / "run")
    older = {name: value for name, value in manifest.settings.items() if name != "fp8"}
    write_manifest(tmp_path / "run", manifest.changed(settings=older))
    going_on = settings.model_copy(update={"resume_from_checkpoint": "checkpoint-2"})
    assert losses(going_on) == whole[2:]


def test_what_it_taught_is_merged_into_the_model_as_it_was(tmp_path: Path) -> None:
    losses(settings_of(tmp_path))
    folders = ["--adapter", str(tmp_path / "run"), "--export_dir", str(tmp_path / "merged")]
    assert main(["merge", *folders]) == 0
    before, merged = (_dtypes(tmp_path / name) for name in ("model", "merged"))
    assert merged == before


def _dtypes(folder: Path) -> dict[str, object]:
    files = WeightFolder(folder).files
    return {name: file.tensors[name].dtype for name, file in files.items()}


def test_a_device_without_fp8_is_refused_with_the_cards_that_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(VARIABLE)
    settings = settings_of(tmp_path)
    with pytest.raises(EnvironmentFault, match="does not multiply in fp8") as caught:
        prepare_run(settings)
    assert "8.9 and newer" in caught.value.why
    assert caught.value.fix == "--fp8 false"
    assert not (tmp_path / "run").exists()
    words = [*words_of(settings), "--report=false"]
    assert main(["train", *words, "--fp8", "true"]) != 0
    assert "--fp8 false" in capsys.readouterr().err
    assert main(["train", *words, "--fp8", "false"]) == 0


def test_every_weight_cannot_be_trained_in_fp8(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--fp8 cannot be used with") as caught:
        check_settings(settings_of(tmp_path, finetuning_type="full"))
    assert caught.value.fix == "--finetuning_type lora"


@pytest.mark.parametrize("words", ["quantization_bit=4", "quantization_bit=8"])
def test_fewer_bits_besides_are_refused(tmp_path: Path, words: str) -> None:
    settings = resolve(TrainSettings, ["--fp8=true", f"--{words}"], {}).values
    wanted = settings_of(tmp_path, quantization_bit=settings.quantization_bit)
    with pytest.raises(UsageError, match="exclude each other"):
        check_settings(wanted)


def test_widths_that_fp8_cannot_multiply_are_refused(tmp_path: Path) -> None:
    write_model_folder(tmp_path / "model", intermediate_size=104)
    with pytest.raises(UsageError, match="cannot be kept in fp8") as caught:
        losses(settings_of(tmp_path))
    assert caught.value.fix == "--fp8 false"


# test_quantized_base.py asks the same of nf4 in every change.
@pytest.mark.soak
def test_the_plan_the_run_and_its_report_say_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_of(tmp_path)
    plan = prepare_run(settings).plan
    assert plan is not None
    assert any("32 bits, base in fp8" in line for line in plan_lines(plan, "model"))
    assert main(["train", *words_of(settings), "--fp8", "true"]) == 0
    assert "(float32, base in fp8, " in capsys.readouterr().out
    report = (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    assert re.search("precision.*float32, base in fp8", report)


def test_a_card_is_planned_with_its_rate_in_fp8_and_one_without_is_refused(tmp_path: Path) -> None:
    """Without the model or the card: Qwen3-8B by its shape."""
    settings = settings_of(tmp_path).model_copy(
        update={"model_name_or_path": "Qwen3-8B", "dtype": "auto", "per_device_train_batch_size": 8}
    )
    plain = forecast(settings.model_copy(update={"fp8": False}), "h200-141g")
    in_fp8 = forecast(settings, "h200-141g")
    assert in_fp8.chosen.memory.weights == pytest.approx(plain.chosen.memory.weights, rel=0.002)
    assert 0.5 < in_fp8.chosen.step_s / plain.chosen.step_s < 0.95
    with pytest.raises(EnvironmentFault, match=r"A100, .*does not multiply in fp8"):
        forecast(settings, "a100-80g")
