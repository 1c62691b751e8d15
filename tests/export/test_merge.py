"""A merged model answers like base and adapter, or is not written at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from danlu.device.detect import select
from danlu.errors import CapacityError, DataError, UsageError
from danlu.export import merge as merge_module
from danlu.export.merge import Ingredient, merge
from danlu.files import os_errors as faults
from danlu.files.committed import committed_folder, verify
from danlu.hub.adapters import base_of, find_adapter
from danlu.hub.load import load_model
from danlu.hub.prompting import prompting_of_model
from danlu.lora.adapter import Adapter, LoraConfig
from danlu.lora.peft_files import write_adapter
from tests.helpers.models.model_folder import write_model_folder

CPU = select("cpu")


def whole(folder: Path, weight: float = 1.0) -> Ingredient:
    return Ingredient(source=find_adapter(str(folder)), weight=weight)


def write_random_adapter(folder: Path, base: Path, scale: float = 0.05) -> Path:
    config = load_model(str(base), device=CPU).config
    lora = LoraConfig(r=4, lora_alpha=8)
    adapter = Adapter(lora, config, device=torch.device("cpu"), dtype=torch.float32)
    adapter.initialise(0)
    generator = torch.Generator().manual_seed(1)
    for _layer, _name, _a, b in adapter.tensors():
        b.normal_(std=scale, generator=generator)
    with committed_folder(folder) as draft:
        write_adapter(draft, adapter, base_model=str(base))
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_merge_verifies_and_equals_peft(tmp_path: Path, dtype: torch.dtype) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = write_model_folder(tmp_path / "base", dtype=dtype)
    adapter = write_random_adapter(tmp_path / "adapter", base)
    report = merge(str(base), [whole(adapter)], tmp_path / "merged", device=CPU)
    assert report.max_logit_difference < (1e-4 if dtype == torch.float32 else 0.05)
    assert report.top1_agreement > 0.9
    assert not report.base_is_proven
    verify(tmp_path / "merged")
    theirs = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base, dtype=dtype), str(adapter)
    ).merge_and_unload()
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=dtype)
    state = ours.state_dict()
    for name, tensor in theirs.state_dict().items():
        torch.testing.assert_close(state[name], tensor, atol=0.002, rtol=0.01)


def test_merged_model_remembers_how_to_be_prompted(tmp_path: Path) -> None:
    base = write_model_folder(tmp_path / "base")
    adapter = write_random_adapter(tmp_path / "adapter", base)
    merge(str(base), [whole(adapter)], tmp_path / "merged", device=CPU)
    path = tmp_path / "merged" / "merge_report.json"
    fields = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(fields | {"enable_thinking": False}), encoding="utf-8")
    assert prompting_of_model(str(tmp_path / "merged")).enable_thinking is False


def test_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    base = write_model_folder(tmp_path / "base")
    other = write_model_folder(tmp_path / "other", num_hidden_layers=3)
    adapter = write_random_adapter(tmp_path / "adapter", other)
    with pytest.raises(DataError, match="another base model"):
        merge(str(base), [whole(adapter)], tmp_path / "merged", device=CPU)
    assert not (tmp_path / "merged").exists()


def test_full_disk_is_noticed_before_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = write_model_folder(tmp_path / "base")
    adapter = write_random_adapter(tmp_path / "adapter", base)
    monkeypatch.setattr(faults, "free_bytes", lambda _path: 1000)
    with pytest.raises(CapacityError, match="No space left"):
        merge(str(base), [whole(adapter)], tmp_path / "merged", device=CPU)
    assert not (tmp_path / "merged").exists()


def test_a_merge_that_answers_differently_is_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = write_model_folder(tmp_path / "base")
    adapter = write_random_adapter(tmp_path / "adapter", base, scale=0.5)
    real = merge_module.write_folder

    def forget_the_adapter(draft, plans, fetch, **others):  # type: ignore[no-untyped-def]
        from danlu.weights.sharded import WeightFolder

        files = WeightFolder(base).files
        real(draft, plans, lambda name: files[name].read(name), **others)

    monkeypatch.setattr(merge_module, "write_folder", forget_the_adapter)
    with pytest.raises(DataError, match="nothing was written"):
        merge(str(base), [whole(adapter)], tmp_path / "merged", device=CPU)
    assert not (tmp_path / "merged").exists()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    base = write_model_folder(tmp_path / "base")
    adapter = write_random_adapter(tmp_path / "adapter", base)
    target = tmp_path / "merged"
    target.mkdir()
    (target / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match="not empty"):
        merge(str(base), [whole(adapter)], target, device=CPU)
    assert (target / "thesis.txt").read_text(encoding="utf-8") == "mine"


def write_peft_adapter(folder: Path, base: Path, **settings: Any) -> Path:
    """Write an adapter as PEFT does, with changes that can be seen."""
    from peft import LoraConfig as PeftConfig
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = PeftConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **settings)
    model = get_peft_model(model, config)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.05, generator=generator)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": r".*\.layers\.1\..*(q_proj|v_proj)"},
        {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [0]},
        {"target_modules": ["layers.0.self_attn.q_proj", "layers.1.mlp.up_proj"]},
    ],
    ids=str,
)
def test_an_adapter_on_some_layers_is_merged_as_peft_does(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = write_model_folder(tmp_path / "base", dtype=torch.float32)
    adapter = write_peft_adapter(tmp_path / "adapter", base, **settings)
    report = merge(str(base), [whole(adapter)], tmp_path / "merged", device=CPU)
    assert report.num_merged_tensors == 2
    theirs = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), str(adapter)
    ).merge_and_unload()
    state = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").state_dict()
    for name, tensor in theirs.state_dict().items():
        torch.testing.assert_close(state[name], tensor)


def test_an_adapter_that_diverged_is_called_so(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    base = write_model_folder(tmp_path / "base")
    adapter = write_peft_adapter(tmp_path / "adapter", base, target_modules=["q_proj"])
    tensors = load_file(adapter / "adapter_model.safetensors")
    tensors[sorted(tensors)[0]][0, 0] = float("nan")
    save_file(tensors, adapter / "adapter_model.safetensors")
    with pytest.raises(DataError, match="not finite") as caught:
        merge(str(base), [whole(adapter)], tmp_path / "merged", device=CPU)
    assert "diverged" in caught.value.fix
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("name", ["someone/qwen3-0.6b-bnb-4bit", ""])
def test_a_base_that_is_not_here_is_named(tmp_path: Path, name: str) -> None:
    base = write_model_folder(tmp_path / "base")
    adapter = write_random_adapter(tmp_path / "adapter", base)
    path = adapter / "adapter_config.json"
    fields = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(fields | {"base_model_name_or_path": name}), encoding="utf-8")
    with pytest.raises(UsageError, match="is not found") as caught:
        base_of(find_adapter(str(adapter)))
    assert name in caught.value.why
    assert "--model_name_or_path" in caught.value.fix
