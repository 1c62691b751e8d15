"""A merged model answers like base and adapter, or is not written at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from danlu.device.detect import select
from danlu.errors import CapacityError, DataError, UsageError
from danlu.export import merge as merge_module
from danlu.export.merge import merge
from danlu.files import os_errors as faults
from danlu.files.committed import committed_folder, verify
from danlu.hub.adapters import find_adapter, prompting_of_model
from danlu.hub.load import load_model
from danlu.lora.adapter import Adapter, LoraConfig
from danlu.lora.peft_files import write_adapter
from tests.helpers.models.model_folder import write_model_folder

CPU = select("cpu")


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
    report = merge(str(base), find_adapter(str(adapter)), tmp_path / "merged", device=CPU)
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
    merge(str(base), find_adapter(str(adapter)), tmp_path / "merged", device=CPU)
    path = tmp_path / "merged" / "merge_report.json"
    fields = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(fields | {"enable_thinking": False}), encoding="utf-8")
    assert prompting_of_model(str(tmp_path / "merged")).enable_thinking is False


def test_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    base = write_model_folder(tmp_path / "base")
    other = write_model_folder(tmp_path / "other", num_hidden_layers=3)
    adapter = write_random_adapter(tmp_path / "adapter", other)
    with pytest.raises(DataError, match="another base model"):
        merge(str(base), find_adapter(str(adapter)), tmp_path / "merged", device=CPU)
    assert not (tmp_path / "merged").exists()


def test_full_disk_is_noticed_before_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = write_model_folder(tmp_path / "base")
    adapter = write_random_adapter(tmp_path / "adapter", base)
    monkeypatch.setattr(faults, "free_bytes", lambda _path: 1000)
    with pytest.raises(CapacityError, match="No space left"):
        merge(str(base), find_adapter(str(adapter)), tmp_path / "merged", device=CPU)
    assert not (tmp_path / "merged").exists()


def test_a_merge_that_answers_differently_is_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = write_model_folder(tmp_path / "base")
    adapter = write_random_adapter(tmp_path / "adapter", base, scale=0.5)
    real = merge_module.write_folder

    def forget_the_adapter(draft, plans, fetch, *, like, at_once):  # type: ignore[no-untyped-def]
        from danlu.weights.sharded import WeightFolder

        files = WeightFolder(base).files
        real(draft, plans, lambda name: files[name].read(name), like=like, at_once=at_once)

    monkeypatch.setattr(merge_module, "write_folder", forget_the_adapter)
    with pytest.raises(DataError, match="nothing was written"):
        merge(str(base), find_adapter(str(adapter)), tmp_path / "merged", device=CPU)
    assert not (tmp_path / "merged").exists()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    base = write_model_folder(tmp_path / "base")
    adapter = write_random_adapter(tmp_path / "adapter", base)
    target = tmp_path / "merged"
    target.mkdir()
    (target / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match="not empty"):
        merge(str(base), find_adapter(str(adapter)), target, device=CPU)
    assert (target / "thesis.txt").read_text(encoding="utf-8") == "mine"
