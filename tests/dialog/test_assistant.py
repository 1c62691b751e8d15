"""What is said of what answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from danlu.device.detect import Device
from danlu.dialog import assistant
from danlu.dialog.settings import ModelSettings
from danlu.ops import OpsTable
from tests.helpers.models.model_folder import write_model_folder


def test_kernels_that_a_card_lacks_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CPU's are named by `danlu info`: without them it is slower, not several times."""
    model = write_model_folder(tmp_path / "tiny")
    opened = assistant.open_assistant(ModelSettings(model_name_or_path=str(model), device="cpu"))
    table = OpsTable(chosen={}, off=(), not_built=("no kernels",))
    monkeypatch.setattr(assistant, "ops_table", lambda _device: table)
    assert "no kernels" not in opened.describe()
    monkeypatch.setattr(Device, "has_host", property(lambda _device: True))
    assert "no kernels" in opened.describe()
