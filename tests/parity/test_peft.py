"""Adapter folders: PEFT loads ours, we load PEFT's, with equal logits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig as PeftConfig
from peft import PeftModel, get_peft_model
from torch import Tensor
from transformers import Qwen3ForCausalLM

from danlu.files.committed import committed_folder
from danlu.lora.adapter import ALL_TARGETS, LoraConfig
from danlu.lora.linear import AdapterLinear
from danlu.lora.peft_files import load_adapter, read_config, write_adapter
from danlu.model.qwen3 import Qwen3
from tests.helpers.models.hugging_face import segment_logits, transformers_twin
from tests.helpers.models.packed import packed_logits, random_adapter, random_tokens
from tests.helpers.models.tiny_model import tiny_model

LENGTHS = [11]
CPU = torch.device("cpu")


def our_logits(model: Qwen3, folder: Path, tokens: Tensor) -> Tensor:
    adapter = load_adapter(folder, model.config, device=CPU, dtype=torch.float32)
    with torch.no_grad():
        return packed_logits(model, tokens, LENGTHS, AdapterLinear(adapter))


def their_logits(twin: Qwen3ForCausalLM, folder: Path, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        return segment_logits(PeftModel.from_pretrained(twin, str(folder)), tokens, LENGTHS)


@pytest.mark.parametrize("targets", [ALL_TARGETS, ("q_proj", "v_proj"), ("k_proj", "up_proj")])
@pytest.mark.parametrize("rslora", [False, True])
def test_peft_loads_ours(targets: tuple[str, ...], rslora: bool, tmp_path: Path) -> None:
    config, model = tiny_model()
    lora = LoraConfig(r=4, lora_alpha=6.5, use_rslora=rslora, target_modules=targets)
    adapter = random_adapter(lora, config)
    with committed_folder(tmp_path / "adapter") as draft:
        write_adapter(draft, adapter, base_model="Qwen/Qwen3-8B")
    tokens = random_tokens(config, 11)
    with torch.no_grad():
        expected = packed_logits(model, tokens, LENGTHS, AdapterLinear(adapter))
    theirs = their_logits(transformers_twin(model), tmp_path / "adapter", tokens)
    torch.testing.assert_close(theirs, expected, atol=1e-4, rtol=0)
    assert torch.equal(our_logits(model, tmp_path / "adapter", tokens), expected)


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "o_proj"], r".*\.(up|down)_proj"])
@pytest.mark.parametrize("rslora", [False, True])
def test_we_load_pefts(targets: str | list[str], rslora: bool, tmp_path: Path) -> None:
    config, model = tiny_model()
    settings = PeftConfig(
        task_type="CAUSAL_LM",
        r=3,
        lora_alpha=8,
        lora_dropout=0.1,
        use_rslora=rslora,
        target_modules=targets,
        init_lora_weights=False,  # B is random: the adapter changes something
    )
    wrapped = get_peft_model(transformers_twin(model), settings).eval()
    wrapped.peft_config["default"].base_model_name_or_path = "Qwen/Qwen3-0.6B"
    wrapped.save_pretrained(str(tmp_path), save_embedding_layers=False)
    tokens = random_tokens(config, 11)
    with torch.no_grad():
        expected = segment_logits(wrapped, tokens, LENGTHS)
        plain = packed_logits(model, tokens, LENGTHS)
    torch.testing.assert_close(our_logits(model, tmp_path, tokens), expected, atol=1e-4, rtol=0)
    assert not torch.allclose(expected, plain, atol=1e-2)
    lora, base = read_config(tmp_path)
    assert (lora.r, lora.lora_alpha, lora.lora_dropout, base) == (3, 8.0, 0.1, "Qwen/Qwen3-0.6B")


def test_our_settings_are_those_peft_reads(tmp_path: Path) -> None:
    config, _model = tiny_model()
    lora = LoraConfig(r=4, lora_alpha=16, lora_dropout=0.25, target_modules=("q_proj",))
    with committed_folder(tmp_path / "adapter") as draft:
        write_adapter(draft, random_adapter(lora, config), base_model="/models/Qwen3-8B")
    theirs = PeftConfig.from_pretrained(str(tmp_path / "adapter"))
    assert theirs.base_model_name_or_path == "/models/Qwen3-8B"
    assert theirs.target_modules == {"q_proj"}
    assert (theirs.r, theirs.lora_alpha, theirs.lora_dropout) == (4, 16, 0.25)
    assert theirs.inference_mode
    fields = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert fields["lora_alpha"] == 16
