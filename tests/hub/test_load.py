"""Loading by name, and every way in which a model folder can be wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from danlu.device.detect import select
from danlu.errors import CapacityError, DataError, UsageError
from danlu.hub.load import load_model
from tests.helpers.models.model_folder import write_model_folder

CPU = select("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model_folder(tmp_path / "model")


def test_loads_into_the_wanted_dtype(folder: Path) -> None:
    as_stored = load_model(str(folder), device=CPU, dtype=torch.bfloat16)
    converted = load_model(str(folder), device=CPU, dtype=torch.float32)
    pairs = zip(as_stored.model.hf_tensors(), converted.model.hf_tensors(), strict=True)
    for (name, stored), (_same, wide) in pairs:
        assert torch.equal(stored.float(), wide), name


def test_fingerprint_follows_the_weights(folder: Path, tmp_path: Path) -> None:
    same = write_model_folder(tmp_path / "same")
    other = write_model_folder(tmp_path / "other", seed=1)
    prints = [load_model(str(f), device=CPU).fingerprint for f in (folder, same, other)]
    assert prints[0] == prints[1] != prints[2]


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        load_model(str(tmp_path / "nowhere"), device=CPU)


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a model folder"):
        load_model(str(tmp_path), device=CPU)


def test_missing_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(UsageError, match="holds no weights"):
        load_model(str(folder), device=CPU)


def test_truncated_weights_name_the_file(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match=r"model\.safetensors"):
        load_model(str(folder), device=CPU)


def test_tokenizer_of_a_larger_model(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["vocab_size"] = 32
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(DataError, match="do not belong together"):
        load_model(str(folder), device=CPU)


def test_other_architecture(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["model_type"] = "llama"
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UsageError, match="not supported"):
        load_model(str(folder), device=CPU)


def test_a_config_of_another_size_is_noticed_before_memory_is_taken(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["vocab_size"] = 10**6
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(DataError, match=r"model\.embed_tokens\.weight"):
        load_model(str(folder), device=CPU)


def test_too_little_memory_is_said_before_loading(folder: Path) -> None:
    with pytest.raises(CapacityError, match="does not fit"):
        load_model(str(folder), device=replace(CPU, memory_bytes=1000))
