"""Adapter folders that cannot be used, and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from danlu.errors import DataError, UsageError
from danlu.files.committed import committed_folder
from danlu.lora.adapter import LoraConfig
from danlu.lora.peft_files import load_adapter, read_config, write_adapter
from danlu.weights.safetensors import header_bytes
from tests.helpers.models.packed import random_adapter
from tests.helpers.models.tiny_model import tiny_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    adapter = random_adapter(LoraConfig(r=4), tiny_model()[0])
    with committed_folder(tmp_path / "adapter") as draft:
        write_adapter(draft, adapter, base_model="Qwen/Qwen3-8B")
    return tmp_path / "adapter"


def load(folder: Path, **overrides: Any) -> None:
    config, _model = tiny_model(**overrides)
    load_adapter(folder, config, device=torch.device("cpu"), dtype=torch.float32)


def change(folder: Path, **fields: Any) -> None:
    path = folder / "adapter_config.json"
    old = json.loads(path.read_text(encoding="utf-8"))
    kept = {name: value for name, value in (old | fields).items() if value is not ...}
    path.write_text(json.dumps(kept), encoding="utf-8")


def test_settings_survive(folder: Path) -> None:
    assert read_config(folder) == (LoraConfig(r=4), "Qwen/Qwen3-8B")


def test_loads_into_another_dtype(folder: Path) -> None:
    config, _model = tiny_model()
    device = torch.device("cpu")
    exact = load_adapter(folder, config, device=device, dtype=torch.float32)
    short = load_adapter(folder, config, device=device, dtype=torch.bfloat16)
    for (*_a, a, b), (*_b, short_a, short_b) in zip(exact.tensors(), short.tensors(), strict=True):
        assert torch.equal(a.bfloat16(), short_a)
        assert torch.equal(b.bfloat16(), short_b)


def test_a_folder_without_an_adapter(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not an adapter folder"):
        read_config(tmp_path)


def test_weights_in_the_older_format_are_called_so(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(DataError, match=r"adapter_model\.bin") as caught:
        load(folder)
    assert "weights_only=True" in caught.value.fix


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": r".*\.layers\.[01]\..*_proj"},
        {"layers_to_transform": [0, 1]},
        {"target_modules": ["layers.0.mlp.up_proj", "layers.1.mlp.up_proj"]},
    ],
    ids=str,
)
def test_layers_that_an_adapter_leaves_out_change_nothing(
    folder: Path, fields: dict[str, Any]
) -> None:
    config, _model = tiny_model(num_hidden_layers=3)
    change(folder, **fields)
    adapter = load_adapter(folder, config, device=torch.device("cpu"), dtype=torch.float32)
    changed = {layer for layer, _target, a, b in adapter.tensors() if a.any() and b.any()}
    assert changed == {0, 1}
    assert not any(a.any() or b.any() for layer, _t, a, b in adapter.tensors() if layer == 2)
    # More layers than the model has still belong to another one.
    with pytest.raises(DataError, match="another base model"):
        load(folder, num_hidden_layers=1)


def test_half_a_pair_is_never_taken_for_a_layer_left_out(folder: Path) -> None:
    change(folder, layers_to_transform=[0, 1])
    path = folder / "adapter_model.safetensors"
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    path.write_bytes(header_bytes([(name, torch.float32, (4, 64))]) + bytes(4 * 4 * 64))
    with pytest.raises(DataError) as caught:
        load(folder)
    assert f"{name} stands alone" in caught.value.why


def test_a_promised_copy_or_length_that_is_missing_is_named(folder: Path) -> None:
    change(folder, modules_to_save=["embed_tokens"])
    with pytest.raises(DataError) as caught:
        load(folder)
    assert "modules_to_save names embed_tokens" in caught.value.why
    change(folder, modules_to_save=None, use_dora=True)
    with pytest.raises(DataError) as caught:
        load(folder)
    assert "has no lora_magnitude_vector" in caught.value.why


def test_missing_weights_name_the_file(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(DataError, match=r"adapter_model\.safetensors"):
        load(folder)


@pytest.mark.parametrize(
    "overrides",
    [{"hidden_size": 128}, {"num_hidden_layers": 3}, {"num_hidden_layers": 1}, {"head_dim": 16}],
    ids=str,
)
def test_another_base_is_told_by_shape(folder: Path, overrides: dict[str, int]) -> None:
    with pytest.raises(DataError, match="another base model") as caught:
        load(folder, **overrides)
    assert "lora_" in caught.value.why
    assert "Qwen/Qwen3-8B" in caught.value.fix


@pytest.mark.parametrize(
    "fields",
    [
        {"fan_in_fan_out": True},
        {"peft_type": "IA3"},
        {"init_lora_weights": "pissa_niter_16"},
        {"alora_invocation_tokens": [1, 2]},
    ],
    ids=str,
)
def test_other_kinds_are_refused_by_name(folder: Path, fields: dict[str, Any]) -> None:
    change(folder, **fields)
    with pytest.raises(UsageError, match="not supported") as caught:
        load(folder)
    assert next(iter(fields)) in caught.value.why


@pytest.mark.parametrize(
    "fields",
    [{"r": ...}, {"r": "four"}, {"r": None}, {"lora_alpha": ...}, {"lora_dropout": "much"}],
    ids=str,
)
def test_malformed_settings_are_an_error_of_the_file(folder: Path, fields: dict[str, Any]) -> None:
    change(folder, **fields)
    with pytest.raises(DataError, match=r"adapter_config\.json") as caught:
        load(folder)
    assert caught.value.why


@pytest.mark.parametrize("r", [0, -1, 5, 10**30, float("inf")])
def test_a_rank_that_the_tensors_do_not_have(folder: Path, r: float) -> None:
    change(folder, r=r)
    with pytest.raises(DataError, match=r"adapter_.*cannot be used"):
        load(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_settings_that_are_no_json_object(folder: Path, content: bytes) -> None:
    (folder / "adapter_config.json").write_bytes(content)
    with pytest.raises(DataError, match=r"adapter_config\.json"):
        load(folder)


@pytest.mark.parametrize(
    "name",
    [
        "base_model.model.lm_head.lora_A.weight",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector",
        "base_model.model.model.layers.0.mlp.experts.0.up_proj.lora_A.weight",
    ],
)
def test_foreign_tensors_are_named(folder: Path, name: str) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(header_bytes([(name, torch.float32, (1,))]) + bytes(4))
    with pytest.raises(DataError) as caught:
        load(folder)
    assert name in caught.value.why


def test_an_adapter_without_tensors(folder: Path) -> None:
    (folder / "adapter_model.safetensors").write_bytes(header_bytes([]))
    with pytest.raises(DataError, match=r"adapter_model\.safetensors"):
        load(folder)
