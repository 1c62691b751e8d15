"""A resumed run computes as the run before it did."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from danlu.ops import ops_table
from danlu.ops.adamw import ADAMW
from danlu.runs.manifest import read_manifest, write_manifest
from danlu.train.events import Resumed
from danlu.train.job.finetune import Finetune
from danlu.train.job.setup import prepare_run
from danlu.train.settings import TrainSettings
from tests.helpers.models.model_folder import write_model_folder
from tests.helpers.models.variants import taken
from tests.helpers.program import write_rows


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def settings_of(tmp_path: Path) -> TrainSettings:
    return TrainSettings(
        model_name_or_path=str(write_model_folder(tmp_path / "model")),
        dataset=str(write_rows(tmp_path / "rows.jsonl", 8)),
        output_dir=str(tmp_path / "run"),
        max_steps=2,
        dtype="float32",
        device="cpu",
    )


def test_the_recorded_number_of_threads_is_used_again(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    list(Finetune(prepare_run(settings)).run())
    manifest = read_manifest(tmp_path / "run")
    recorded = {**manifest.arithmetic.model_dump(), "threads": 2}
    write_manifest(tmp_path / "run", manifest.changed(arithmetic=recorded))
    torch.set_num_threads(1)
    job = Finetune(prepare_run(settings.model_copy(update={"resume_from_checkpoint": True})))
    list(job.run())
    assert torch.get_num_threads() == job.device.threads == 2
    assert read_manifest(tmp_path / "run").arithmetic.threads == 2


@pytest.mark.parametrize(
    ("recorded", "computed", "others"),
    [
        ("unfused", "unfused", ()),
        ("of_a_later_version", "fused", ("adamw: of_a_later_version -> fused",)),
    ],
)
def test_a_resumed_run_computes_with_the_variants_that_it_has_recorded(
    tmp_path: Path, recorded: str, computed: str, others: tuple[str, ...]
) -> None:
    settings = settings_of(tmp_path)
    list(Finetune(prepare_run(settings)).run())
    manifest = read_manifest(tmp_path / "run")
    table = ops_table(torch.device("cpu"))
    assert manifest.arithmetic.ops == table.chosen
    ops = {**manifest.arithmetic.ops, "adamw": recorded}
    arithmetic = {**manifest.arithmetic.model_dump(), "ops": ops}
    write_manifest(tmp_path / "run", manifest.changed(arithmetic=arithmetic))
    job = Finetune(prepare_run(settings.model_copy(update={"resume_from_checkpoint": True})))
    with taken(ADAMW, "fused"):
        [resumed] = [event for event in job.run() if isinstance(event, Resumed)]
        assert ADAMW.name_on(torch.device("cpu")) == computed
    assert resumed.other_ops == others
    assert read_manifest(tmp_path / "run").arithmetic.ops["adamw"] == computed
