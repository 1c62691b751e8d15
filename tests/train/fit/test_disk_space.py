"""The disk that a run needs is known before it starts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from danlu.cli.main import main
from danlu.errors import CapacityError
from danlu.files import os_errors as faults
from danlu.hub.load import check_model
from danlu.hub.names import STARTER
from danlu.lora.adapter import LoraConfig
from danlu.train.events import Saved
from danlu.train.fit.disk_space import check_space, checkpoint_bytes
from danlu.train.job.finetune import Finetune
from danlu.train.job.setup import prepare_run
from danlu.train.recipe import Recipe
from danlu.train.schedule import Schedule
from danlu.train.settings import TrainSettings
from tests.helpers.models.model_folder import write_model_folder
from tests.helpers.program import train_words, write_rows
from tests.helpers.timing import processor_time


@pytest.mark.parametrize(
    ("kind", "dtype", "rank"),
    [("lora", "bfloat16", 8), ("lora", "float32", 32), ("full", "bfloat16", 8)],
)
def test_the_prediction_is_within_two_percent(
    tmp_path: Path, kind: str, dtype: str, rank: int
) -> None:
    write_rows(tmp_path / "rows.jsonl", 4)
    settings = TrainSettings(
        dataset=str(tmp_path / "rows.jsonl"),
        output_dir=str(tmp_path / "run"),
        finetuning_type=kind,  # type: ignore[arg-type]
        dtype=dtype,  # type: ignore[arg-type]
        lora_rank=rank,
        max_steps=1,
        report=False,
        plot_loss=False,
    )
    saved = next(
        event for event in Finetune(prepare_run(settings)).run() if isinstance(event, Saved)
    )
    real = sum(path.stat().st_size for path in saved.folder.iterdir())
    lora = LoraConfig(r=rank) if kind == "lora" else None
    predicted = checkpoint_bytes(check_model(STARTER), lora, getattr(torch, dtype))
    assert predicted == pytest.approx(real, rel=0.02)


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_model_folder(tmp_path / "model")
    rows = write_rows(tmp_path / "rows.jsonl")
    monkeypatch.setattr(faults.shutil, "disk_usage", lambda _path: type("Usage", (), {"free": 9}))
    with processor_time() as spent:
        assert main(train_words(model, rows, tmp_path / "run")) == 4
    assert spent.seconds < 1
    lines = capsys.readouterr().err.splitlines()
    assert "too small" in lines[0]
    assert "9 bytes are free" in lines[1]
    assert "--save_total_limit" not in lines[2]  # nine bytes are too few for that, too
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("limit", "free", "is_advised"),
    [(None, 900, True), (None, 250, False), (1, 250, False), (5, 500, True)],
)
def test_fewer_checkpoints_are_advised_where_that_helps(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    limit: int | None,
    free: int,
    is_advised: bool,
) -> None:
    monkeypatch.setattr(
        faults.shutil, "disk_usage", lambda _path: type("Usage", (), {"free": free})
    )
    recipe = Recipe(
        total_steps=50,
        rows_per_step=1,
        schedule=Schedule(name="constant", peak=1e-3, warmup_steps=0),
        max_grad_norm=1.0,
        seed=0,
        save_steps=5,
        save_total_limit=limit,
    )
    with pytest.raises(CapacityError) as refused:
        check_space(tmp_path, 100, recipe)
    assert ("--save_total_limit 1" in refused.value.fix) == is_advised
