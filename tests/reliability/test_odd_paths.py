"""Folders named as people name them."""

from __future__ import annotations

from pathlib import Path

import pytest

from danlu.cli.main import main
from tests.helpers.program import leftovers
from tests.helpers.training.whole_run import RESUME, Place

NAMES = ["two\nlines, 丹炉 微调, 100%{x}", "-dash"]


@pytest.mark.parametrize("name", NAMES)
def test_a_run_in_a_folder_of_any_name(place: Place, tmp_path: Path, name: str) -> None:
    run = tmp_path / name / f"{name} run"
    words = place.words("unused", output_dir=run, max_steps=3, save_steps=2)
    assert main(words) == 0
    result = (run / "adapter_model.safetensors").read_bytes()
    (run / "checkpoint-3" / "progress.json").write_text("damaged")
    assert main([*words, *RESUME]) == 0
    assert (run / "adapter_model.safetensors").read_bytes() == result
    assert main([*words, "--overwrite_output_dir", "true"]) == 0
    assert (run / "adapter_model.safetensors").read_bytes() == result
    assert len(list((run.parent / ".trash").iterdir())) == 1
    assert leftovers(tmp_path) == []
