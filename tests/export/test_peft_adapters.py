"""Adapters of every kind that PEFT makes: merged exactly, or refused by name."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from danlu.device.detect import select
from danlu.errors import DanluError, DataError, UsageError
from danlu.export.merge import Ingredient, merge
from danlu.hub.adapters import attach_adapter, find_adapter
from danlu.hub.load import load_model
from danlu.lora.linear import AdapterLinear
from danlu.lora.peft_files import load_adapter
from tests.helpers.models.model_folder import write_model_folder
from tests.helpers.models.packed import packed_logits, random_tokens

CPU = select("cpu")
ATTENTION = ["q_proj", "v_proj"]
# Kinds that the engine computes with as they are, and those that only a merge can use.
PLAIN: dict[str, dict[str, Any]] = {
    "patterns": {
        "target_modules": ["q_proj", "v_proj", "up_proj"],
        "rank_pattern": {"q_proj": 6, r".*layers\.1\.mlp\.up_proj": 2},
        "alpha_pattern": {"v_proj": 32, "layers.0.self_attn.q_proj": 3},
    },
    "patterns and rsLoRA": {
        "target_modules": ATTENTION,
        "use_rslora": True,
        "rank_pattern": {"v_proj": 9},
        "alpha_pattern": {"layers.1.self_attn.v_proj": 1.5},
    },
    "some layers": {
        "target_modules": ATTENTION,
        "layers_to_transform": [1],
        "layers_pattern": "layers",
    },
    "regex": {"target_modules": r".*\.layers\.1\..*(q_proj|down_proj)"},
    "biases that Qwen3 lacks": {"target_modules": ATTENTION, "bias": "all"},
}
MERGED_ONLY: dict[str, dict[str, Any]] = {
    "DoRA": {"target_modules": ["q_proj", "down_proj", "up_proj"], "use_dora": True},
    "DoRA and patterns": {
        "target_modules": ATTENTION,
        "use_dora": True,
        "rank_pattern": {"q_proj": 2},
    },
    "saved modules": {
        "target_modules": ATTENTION,
        "modules_to_save": ["lm_head", "embed_tokens", "input_layernorm", "norm"],
    },
    "saved embedding": {"target_modules": ATTENTION, "modules_to_save": ["embed_tokens"]},
    "saved output": {"target_modules": ATTENTION, "modules_to_save": ["lm_head"]},
    "lm_head": {"target_modules": ["q_proj", "lm_head"]},
    "embed_tokens": {"target_modules": ["q_proj", "embed_tokens"]},
    "both": {"target_modules": ["lm_head", "embed_tokens"]},
}


def base_folder(folder: Path, **overrides: Any) -> Path:
    return write_model_folder(folder, dtype=torch.float32, **overrides)


def peft_logits(folder: Path, base: Path, tokens: Tensor, *, seed: int = 1, **settings: Any) -> Any:
    """Write an adapter with PEFT, all that it trains changed; return its logits [T, V]."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tied weights, which are the point here
        wrapped = get_peft_model(model, config).eval()
        generator = torch.Generator().manual_seed(seed)
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
        wrapped.save_pretrained(str(folder))
    with torch.no_grad():
        return wrapped(tokens[None]).logits[0]


def merged_logits(folder: Path, tokens: Tensor) -> Tensor:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        logits: Tensor = model(tokens[None]).logits[0]
    return logits


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("kind", [*PLAIN, *MERGED_ONLY])
def test_a_merge_equals_pefts_adapter(tmp_path: Path, kind: str, tied: bool) -> None:
    base = base_folder(tmp_path / "base", tie_word_embeddings=tied)
    loaded = load_model(str(base), device=CPU, dtype=torch.float32)
    tokens = random_tokens(loaded.config, 13)
    settings = {**PLAIN, **MERGED_ONLY}[kind]
    expected = peft_logits(tmp_path / "adapter", base, tokens, **settings)
    parts = [Ingredient(source=find_adapter(str(tmp_path / "adapter")))]
    report = merge(str(base), parts, tmp_path / "merged", device=CPU)
    assert report.max_logit_difference < 1e-4
    torch.testing.assert_close(
        merged_logits(tmp_path / "merged", tokens), expected, atol=1e-5, rtol=1e-5
    )
    with torch.no_grad():
        plain = packed_logits(loaded.model, tokens, [13])
    assert not torch.allclose(expected, plain, atol=1e-2)


@pytest.mark.parametrize("kind", PLAIN)
def test_an_adapter_with_ranks_of_its_own_answers_as_in_peft(tmp_path: Path, kind: str) -> None:
    base = base_folder(tmp_path / "base")
    loaded = load_model(str(base), device=CPU, dtype=torch.float32)
    tokens = random_tokens(loaded.config, 13)
    expected = peft_logits(tmp_path / "adapter", base, tokens, **PLAIN[kind])
    adapter = load_adapter(
        tmp_path / "adapter", loaded.config, device=torch.device("cpu"), dtype=torch.float32
    )
    with torch.no_grad():
        ours = packed_logits(loaded.model, tokens, [13], AdapterLinear(adapter))
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["DoRA", "saved output", "lm_head", "embed_tokens"])
def test_what_only_a_merge_can_use_says_so(tmp_path: Path, kind: str) -> None:
    base = base_folder(tmp_path / "base")
    loaded = load_model(str(base), device=CPU, dtype=torch.float32)
    folder = tmp_path / "an adapter"
    peft_logits(folder, base, random_tokens(loaded.config, 3), **MERGED_ONLY[kind])
    with pytest.raises(UsageError, match="only be used merged") as caught:
        attach_adapter(find_adapter(str(folder)), loaded)
    words = shlex.split(caught.value.fix.partition(": ")[2])
    assert words[:4] == ["danlu", "merge", "--adapter", str(folder)]
    parts = [Ingredient(source=find_adapter(words[3]))]
    assert merge(str(base), parts, Path(words[5]), device=CPU).num_merged_tensors
    # Weights and other adapters have no exact meaning beside it.
    with pytest.raises(UsageError, match="alone and whole"):
        merge(
            str(base), [Ingredient(source=parts[0].source, weight=0.5)], tmp_path / "no", device=CPU
        )


def test_several_adapters_add_up_by_their_weights(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    base = base_folder(tmp_path / "base")
    tokens = random_tokens(load_model(str(base), device=CPU).config, 13)
    kinds = [PLAIN["patterns"], PLAIN["some layers"]]
    parts = []
    for number, (settings, weight) in enumerate(zip(kinds, (0.7, -0.3), strict=True)):
        folder = tmp_path / f"adapter-{number}"
        peft_logits(folder, base, tokens, seed=number, **settings)
        alone = Ingredient(source=find_adapter(str(folder)))
        merge(str(base), [alone], tmp_path / f"alone-{number}", device=CPU)
        parts.append(Ingredient(source=alone.source, weight=weight))
    report = merge(str(base), parts, tmp_path / "merged", device=CPU)
    assert report.weights == {str(p.source.folder): p.weight for p in parts}
    folders = [base, tmp_path / "alone-0", tmp_path / "alone-1", tmp_path / "merged"]
    plain, first, second, merged = (
        AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in folders
    )
    for name, tensor in merged.items():
        changes = 0.7 * (first[name] - plain[name]) - 0.3 * (second[name] - plain[name])
        torch.testing.assert_close(tensor, plain[name] + changes, atol=1e-6, rtol=1e-5)


def adapter_of(tmp_path: Path, **settings: Any) -> tuple[Path, Path]:
    base = base_folder(tmp_path / "base")
    tokens = random_tokens(load_model(str(base), device=CPU).config, 3)
    peft_logits(tmp_path / "adapter", base, tokens, **{"target_modules": ATTENTION, **settings})
    return base, tmp_path / "adapter"


@pytest.mark.parametrize(
    "fields",
    [
        {"lora_bias": True},
        {"ensure_weight_tying": True},
        {"trainable_token_indices": [1]},
        {"init_lora_weights": "pissa"},
        {"rank_pattern": {r"(\w+\.?)+x": 4}},
        {"alpha_pattern": {"q_proj": 1e300}},
        {"alpha_pattern": {"(": 1}},
        {"rank_pattern": ["q_proj"]},
        {"modules_to_save": "lm_head"},
    ],
    ids=str,
)
def test_what_cannot_be_read_exactly_is_refused_by_name(
    tmp_path: Path, fields: dict[str, Any]
) -> None:
    base, adapter = adapter_of(tmp_path)
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | fields), encoding="utf-8")
    with pytest.raises(DanluError) as caught:
        merge(
            str(base), [Ingredient(source=find_adapter(str(adapter)))], tmp_path / "no", device=CPU
        )
    assert next(iter(fields)) in caught.value.why
    assert not (tmp_path / "no").exists()


def test_a_copy_of_another_bases_weights_is_noticed(tmp_path: Path) -> None:
    _base, adapter = adapter_of(tmp_path, target_modules=["q_proj", "lm_head"])
    other = base_folder(tmp_path / "other", seed=5)
    with pytest.raises(DataError, match="another base model") as caught:
        merge(
            str(other), [Ingredient(source=find_adapter(str(adapter)))], tmp_path / "no", device=CPU
        )
    assert "base_layer" in caught.value.why


def test_the_command_for_an_older_format_converts_it(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    base, adapter = adapter_of(tmp_path)
    newer = adapter / "adapter_model.safetensors"
    tensors = load_file(newer)
    write = (
        "import sys, torch; from safetensors.torch import load_file; "
        "torch.save(load_file(sys.argv[1]), sys.argv[2])"
    )
    words = [sys.executable, "-c", write, str(newer), str(adapter / "adapter_model.bin")]
    subprocess.run(words, check=True)
    newer.unlink()
    with pytest.raises(DataError, match=r"weights in adapter_model\.bin") as caught:
        find_adapter(str(adapter))
    # A program of its own, in which only danlu's own requirements can be counted on.
    words = shlex.split(caught.value.fix.partition(": ")[2])
    assert words[0] == sys.executable
    assert "safetensors.torch" not in words[2]
    subprocess.run(words, check=True)
    assert load_file(newer).keys() == tensors.keys()
    for name, tensor in load_file(newer).items():
        assert torch.equal(tensor, tensors[name])
    parts = [Ingredient(source=find_adapter(str(adapter)))]
    assert merge(str(base), parts, tmp_path / "merged", device=CPU).num_merged_tensors == 4


@pytest.mark.parametrize("name", ["lora_B", "magnitude", "lm_head.weight"])
def test_every_number_must_be_finite(tmp_path: Path, name: str) -> None:
    from safetensors.torch import load_file, save_file

    base, adapter = adapter_of(tmp_path, use_dora=True, modules_to_save=["lm_head"])
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors[next(key for key in tensors if name in key)].view(-1)[-1] = float("nan")
    save_file(tensors, path)
    with pytest.raises(DataError, match="not finite") as caught:
        merge(
            str(base), [Ingredient(source=find_adapter(str(adapter)))], tmp_path / "no", device=CPU
        )
    assert name in caught.value.why
    assert not (tmp_path / "no").exists()
