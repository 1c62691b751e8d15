"""Adapters on experts: their names and files, dropout, answers with one and with several."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig as PeftConfig
from peft import PeftModel, get_peft_model
from torch import Tensor

from danlu.errors import DataError
from danlu.files.committed import committed_folder
from danlu.lora.adapter import Adapter, LoraConfig
from danlu.lora.bank import AdapterBank
from danlu.lora.into_base import add_to_base
from danlu.lora.linear import AdapterLinear, Dropout
from danlu.lora.peft_files import load_adapter, write_adapter
from danlu.model.qwen3 import Qwen3
from danlu.weights.safetensors import SafetensorsFile
from tests.helpers.models.hugging_face import segment_logits, transformers_twin
from tests.helpers.models.packed import packed_logits, random_adapter, random_tokens
from tests.helpers.models.tiny_model import EXPERTS, tiny_model

CPU = torch.device("cpu")
EVERYWHERE = replace(EXPERTS, mlp_only_layers=())
LENGTHS = [9, 1, 14]


def written(adapter: Adapter, folder: Path) -> Path:
    with committed_folder(folder) as draft:
        write_adapter(draft, adapter, base_model="Qwen/Qwen3-30B-A3B")
    return folder


def logits(model: Qwen3, adapter: Adapter, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        return packed_logits(model, tokens, [len(tokens)], AdapterLinear(adapter))


def test_files_have_the_names_of_each_expert(tmp_path: Path) -> None:
    config, _model = tiny_model(num_hidden_layers=3, experts=EXPERTS)
    folder = written(random_adapter(LoraConfig(r=4), config), tmp_path / "adapter")
    tensors = SafetensorsFile(folder / "adapter_model.safetensors").tensors
    prefix = "base_model.model.model.layers"
    assert tensors[f"{prefix}.0.mlp.experts.7.gate_proj.lora_A.weight"].shape == (4, 64)
    assert tensors[f"{prefix}.2.mlp.experts.0.down_proj.lora_B.weight"].shape == (64, 4)
    assert tensors[f"{prefix}.1.mlp.up_proj.lora_B.weight"].shape == (96, 4)
    assert not any("mlp.gate." in name for name in tensors)


@pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern:RuntimeWarning")
def test_peft_loads_ours(tmp_path: Path) -> None:
    config, model = tiny_model(experts=EVERYWHERE)
    lora = LoraConfig(r=4, lora_alpha=6.5)
    adapter = random_adapter(lora, config)
    folder = written(adapter, tmp_path / "adapter")
    tokens = random_tokens(config, 11)
    expected = logits(model, adapter, tokens)
    loaded = load_adapter(folder, config, device=CPU, dtype=torch.float32)
    assert torch.equal(logits(model, loaded, tokens), expected)
    wrapped = PeftModel.from_pretrained(transformers_twin(model), str(folder))
    with torch.no_grad():
        theirs = segment_logits(wrapped, tokens, [11])
    torch.testing.assert_close(theirs, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "targets",
    [
        ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
        ["mlp.experts.gate_up_proj"],
        ["mlp.experts.down_proj"],
    ],
    ids=lambda targets: "+".join(target.rpartition(".")[2] for target in targets),
)
def test_we_load_pefts_for_all_experts_at_once(targets: list[str], tmp_path: Path) -> None:
    config, model = tiny_model(num_hidden_layers=3, experts=EXPERTS)
    settings = PeftConfig(
        task_type="CAUSAL_LM",
        r=3,
        lora_alpha=8,
        target_modules=["q_proj"],
        target_parameters=targets,
        init_lora_weights=False,
    )
    wrapped = get_peft_model(transformers_twin(model), settings).eval()
    wrapped.save_pretrained(str(tmp_path), save_embedding_layers=False)
    tokens = random_tokens(config, 11)
    with torch.no_grad():
        expected = segment_logits(wrapped, tokens, [11])
    loaded = load_adapter(tmp_path, config, device=CPU, dtype=torch.float32)
    torch.testing.assert_close(logits(model, loaded, tokens), expected, atol=1e-4, rtol=0)
    plain = load_adapter(tmp_path, config, device=CPU, dtype=torch.float32)
    for _layer, name, _a, b in plain.tensors():
        if "experts" in name:
            b.zero_()
    assert not torch.allclose(logits(model, plain, tokens), expected, atol=1e-2)


def test_matrices_for_all_experts_that_fit_no_rank_are_refused(tmp_path: Path) -> None:
    config, model = tiny_model(experts=EVERYWHERE)
    settings = PeftConfig(r=3, target_modules=[], target_parameters=["mlp.experts.down_proj"])
    wrapped = get_peft_model(transformers_twin(model), settings)
    wrapped.save_pretrained(str(tmp_path), save_embedding_layers=False)
    path = tmp_path / "adapter_config.json"
    fields = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**fields, "r": 5}), encoding="utf-8")
    with pytest.raises(DataError, match="cannot be used") as caught:
        load_adapter(tmp_path, config, device=CPU, dtype=torch.float32)
    assert "experts" in caught.value.why


def test_an_adapter_for_another_number_of_experts_is_refused(tmp_path: Path) -> None:
    for count, other in ((4, 8), (8, 4)):
        config, _model = tiny_model(experts=replace(EVERYWHERE, num_experts=count))
        base, _model = tiny_model(experts=replace(EVERYWHERE, num_experts=other))
        folder = written(random_adapter(LoraConfig(r=4), config), tmp_path / f"of {count}")
        with pytest.raises(DataError, match="another base") as caught:
            load_adapter(folder, base, device=CPU, dtype=torch.float32)
        assert "experts" in caught.value.why


def test_an_adapter_of_a_dense_model_is_refused(tmp_path: Path) -> None:
    dense, _model = tiny_model()
    config, _model = tiny_model(experts=EVERYWHERE)
    folder = written(random_adapter(LoraConfig(r=4), dense), tmp_path / "dense")
    with pytest.raises(DataError, match="another base"):
        load_adapter(folder, config, device=CPU, dtype=torch.float32)


def test_dropout_does_not_depend_on_packing() -> None:
    config, model = tiny_model(num_hidden_layers=3, experts=EXPERTS)
    adapter = random_adapter(LoraConfig(r=4), config)
    tokens = random_tokens(config, sum(LENGTHS))
    segments = [(f"row {n}", length) for n, length in enumerate(LENGTHS)]

    def run(tokens: Tensor, segments: list[tuple[str, int]]) -> Tensor:
        noise = Dropout(probability=0.3, seed=11, step=7, segments=segments)
        lengths = [length for _key, length in segments]
        with torch.no_grad():
            return packed_logits(model, tokens, lengths, AdapterLinear(adapter, noise))

    packed = run(tokens, segments)
    alone = [run(part, [one]) for part, one in zip(tokens.split(LENGTHS), segments, strict=True)]
    torch.testing.assert_close(packed, torch.cat(alone), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(packed, logits(model, adapter, tokens), atol=1e-2)


def test_dropout_has_the_gradients_of_its_value() -> None:
    """Along a direction in which all matrices change, the value changes as the gradients say."""
    config, model = tiny_model(num_hidden_layers=1, experts=EVERYWHERE)
    lora = LoraConfig(r=4, target_modules=("gate_proj", "up_proj", "down_proj"))
    adapter = random_adapter(lora, config)
    parameters = [parameter for _name, parameter in adapter.parameters()]
    tokens = random_tokens(config, sum(LENGTHS))
    segments = [(f"row {n}", length) for n, length in enumerate(LENGTHS)]
    noise = Dropout(probability=0.3, seed=11, step=7, segments=segments)
    linear = AdapterLinear(adapter, noise)
    generator = torch.Generator().manual_seed(3)
    upstream = torch.randn(sum(LENGTHS), config.vocab_size, generator=generator)

    def value() -> Tensor:
        linear.copies.clear()
        return (packed_logits(model, tokens, LENGTHS, linear) * upstream).sum()

    value().backward()
    directions = [torch.randn(p.shape, generator=generator) for p in parameters]
    slopes = [float((p.grad * d).sum()) for p, d in zip(parameters, directions, strict=True)]  # type: ignore[operator]

    def moved(by: float) -> float:
        for parameter, direction in zip(parameters, directions, strict=True):
            parameter.data.add_(direction, alpha=by)
        with torch.no_grad():
            return float(value())

    step = 2e-3
    ahead = moved(step)
    behind = moved(-2 * step)
    assert (ahead - behind) / (2 * step) == pytest.approx(sum(slopes), rel=0.02)


def test_several_adapters_in_one_batch_answer_as_each_alone() -> None:
    config, model = tiny_model(num_hidden_layers=3, experts=EXPERTS)
    few = LoraConfig(r=2, target_modules=("up_proj", "down_proj"))
    adapters = [random_adapter(LoraConfig(r=4), config, 1), None, random_adapter(few, config, 2)]
    tokens = random_tokens(config, sum(LENGTHS))
    bank = AdapterBank(list(zip(adapters, LENGTHS, strict=True)))
    with torch.inference_mode():
        together = packed_logits(model, tokens, LENGTHS, bank)
        alone = [
            packed_logits(model, part, [len(part)], AdapterBank.of_one(adapter))
            for adapter, part in zip(adapters, tokens.split(LENGTHS), strict=True)
        ]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=0)


def test_added_to_the_base_it_answers_alike() -> None:
    config, model = tiny_model(num_hidden_layers=3, experts=EXPERTS)
    adapter = random_adapter(LoraConfig(r=4), config)
    tokens = random_tokens(config, 11)
    expected = logits(model, adapter, tokens)
    add_to_base(model, adapter)
    with torch.no_grad():
        got = packed_logits(model, tokens, [11])
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)
