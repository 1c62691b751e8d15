"""Models with experts as folders: files of either kind, what is wrong in them, few bits."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from danlu.cli.main import main
from danlu.device.detect import select
from danlu.device.variants import NATIVE
from danlu.errors import DataError, UsageError
from danlu.files.committed import committed_folder
from danlu.hub.load import load_for_answers, load_model
from danlu.hub.save import write_model
from danlu.model.config import Quantization, load_config
from danlu.model.quantized import floats_bytes
from danlu.model.qwen3 import ExpertLayer
from danlu.model.sizes import num_active_parameters, num_parameters
from danlu.ops import QuantizedWeight, packing_for
from danlu.ops.frozen.packed import PACKED_LINEAR
from danlu.weights.safetensors import SafetensorsFile, header_bytes, tensor_bytes
from tests.helpers.models.hugging_face import segment_logits
from tests.helpers.models.logits import logits
from tests.helpers.models.model_folder import write_model_folder
from tests.helpers.models.tiny_engine import random_adapter
from tests.helpers.models.tiny_model import EXPERTS

CPU = select("cpu")
TOKENS = list(range(5, 45))
SHAPE = {"num_hidden_layers": 3, "experts": replace(EXPERTS, norm_topk_prob=True)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model_folder(tmp_path / "model", dtype=torch.float32, **SHAPE)


def rewritten(folder: Path, tensors: dict[str, Tensor]) -> Path:
    """Replace the weights of a model's folder."""
    parts = [header_bytes((name, t.dtype, tuple(t.shape)) for name, t in tensors.items())]
    parts += [bytes(tensor_bytes(tensor)) for tensor in tensors.values()]
    (folder / "model.safetensors").write_bytes(b"".join(parts))
    return folder


def tensors_of(folder: Path) -> dict[str, Tensor]:
    file = SafetensorsFile(folder / "model.safetensors")
    return {name: file.read(name) for name in file.tensors}


def joined(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights with those of all experts in one, as transformers 5 has them in memory."""
    rest = {name: t for name, t in tensors.items() if ".experts." not in name}
    for layer in {name.rpartition(".experts.")[0] for name in tensors if ".experts." in name}:
        gate, up, down = (
            torch.stack([tensors[f"{layer}.experts.{n}.{kind}_proj.weight"] for n in range(8)])
            for kind in ("gate", "up", "down")
        )
        rest[f"{layer}.experts.gate_up_proj"] = torch.cat((gate, up), dim=1)
        rest[f"{layer}.experts.down_proj"] = down
    return rest


@pytest.mark.parametrize("language", ["en", "zh"])
def test_danlu_info_knows_all_weights_and_active_ones(
    language: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DANLU_LANG", language)
    assert main(["info", str(folder), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    config = load_config(folder)
    assert facts["parameters"] == num_parameters(config)
    assert facts["active_parameters"] == num_active_parameters(config) < facts["parameters"]
    assert (facts["experts"], facts["experts_per_token"]) == (8, 2)
    assert main(["info", str(folder)]) == 0
    assert f"{facts['active_parameters']:,}" in capsys.readouterr().out


def test_transformers_loads_what_we_write_and_answers_alike(folder: Path) -> None:
    model = load_model(str(folder), device=CPU, dtype=torch.float32).model
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        expected = segment_logits(theirs, torch.tensor(TOKENS), [len(TOKENS)])
    torch.testing.assert_close(logits(model, TOKENS), expected, atol=1e-4, rtol=0)


def test_we_load_what_transformers_writes(folder: Path, tmp_path: Path) -> None:
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    theirs.save_pretrained(tmp_path / "theirs")
    for path in folder.glob("*.json"):
        if not path.name.startswith(("config", "model", "generation")):
            shutil.copy(path, tmp_path / "theirs")
    ours = load_model(str(folder), device=CPU, dtype=torch.float32)
    again = load_model(str(tmp_path / "theirs"), device=CPU, dtype=torch.float32)
    assert again.config.experts == ours.config.experts
    assert torch.equal(logits(again.model, TOKENS), logits(ours.model, TOKENS))


def test_experts_that_are_stored_as_one_are_the_same_model(folder: Path, tmp_path: Path) -> None:
    before = load_model(str(folder), device=CPU, dtype=torch.float32)
    rewritten(folder, joined(tensors_of(folder)))
    again = load_model(str(folder), device=CPU, dtype=torch.float32)
    assert torch.equal(logits(again.model, TOKENS), logits(before.model, TOKENS))
    with committed_folder(tmp_path / "again") as draft:
        write_model(draft, again.model, like=folder)
    assert "model.layers.0.mlp.experts.7.up_proj.weight" in tensors_of(tmp_path / "again")


def test_experts_that_are_stored_as_one_in_another_shape_are_refused(folder: Path) -> None:
    tensors = joined(tensors_of(folder))
    name = "model.layers.2.mlp.experts.down_proj"
    rewritten(folder, {**tensors, name: tensors[name].transpose(1, 2)})
    with pytest.raises(DataError, match=r"model\.safetensors") as caught:
        load_model(str(folder), device=CPU)
    assert name in caught.value.why


def test_a_missing_expert_is_named(folder: Path) -> None:
    tensors = tensors_of(folder)
    name = "model.layers.2.mlp.experts.5.up_proj.weight"
    del tensors[name]
    with pytest.raises(DataError, match="do not match") as caught:
        load_model(str(rewritten(folder, tensors)), device=CPU)
    assert name in caught.value.why


def test_one_expert_more_is_named(folder: Path) -> None:
    tensors = tensors_of(folder)
    name = "model.layers.2.mlp.experts.8.up_proj.weight"
    tensors[name] = tensors["model.layers.2.mlp.experts.7.up_proj.weight"]
    with pytest.raises(DataError, match="do not match") as caught:
        load_model(str(rewritten(folder, tensors)), device=CPU)
    assert name in caught.value.why


@pytest.mark.skipif(
    packing_for(torch.bfloat16, torch.device("cpu")) is None,
    reason="this processor has no bf16 products of its own",
)
def test_packed_they_answer_alike(tmp_path: Path) -> None:
    folder = str(write_model_folder(tmp_path / "model", **SHAPE))
    exact = load_model(folder, device=CPU, dtype=torch.float32).model
    plain = load_model(folder, device=CPU, dtype=torch.bfloat16).model
    loaded = load_for_answers(folder, device=CPU, dtype=torch.bfloat16, quantization=None)
    layer = loaded.model.layers[0]
    assert isinstance(layer, ExpertLayer)
    is_native = PACKED_LINEAR.name_on(torch.device("cpu")) == NATIVE
    assert isinstance(layer.down_proj, Tensor) != is_native
    for adapter in (None, random_adapter(1, like=plain)):
        wanted = logits(exact, TOKENS, adapter)
        error, usual = (
            ((logits(model, TOKENS, adapter) - wanted).norm() / wanted.norm()).item()
            for model in (loaded.model, plain)
        )
        # Another choice of experts, where two are nearly alike, is no fault of either.
        assert error <= 2 * usual + 1e-3


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_in_few_bits_they_answer_nearly_alike(quantization: Quantization, tmp_path: Path) -> None:
    shape = {"num_hidden_layers": 3, "experts": replace(EXPERTS, num_experts_per_tok=8)}
    folder = str(write_model_folder(tmp_path / "model", **shape))
    plain = load_model(folder, device=CPU, dtype=torch.float32).model
    few = load_model(folder, device=CPU, dtype=torch.float32, quantization=quantization).model
    adapter = random_adapter(1, like=plain)
    exact, without = logits(plain, TOKENS, adapter), logits(plain, TOKENS)
    error = (logits(few, TOKENS, adapter) - exact).norm() / exact.norm()
    assert 0 < error < (0.02 if quantization == "int8" else 0.2)
    assert (without - exact).norm() / exact.norm() > 3 * error  # the adapter is what was added


def test_without_a_product_for_them_floats_are_made_and_counted(
    folder: Path,
) -> None:
    """As on a card whose kernel was switched off: the floats are those of a layer's experts."""
    few = load_model(str(folder), device=CPU, dtype=torch.float32, quantization="int8").model
    assert floats_bytes(few) == 0
    expected = logits(few, TOKENS)
    for module in few.modules():
        if isinstance(module, QuantizedWeight):
            module.form = module.form._replace(cut=None)
    gate_up = 8 * 2 * EXPERTS.moe_intermediate_size * few.config.hidden_size
    assert floats_bytes(few) >= gate_up * few.dtype.itemsize
    torch.testing.assert_close(logits(few, TOKENS), expected, atol=0.02, rtol=0.02)


def test_a_form_that_experts_do_not_have_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="fp8") as caught:
        load_model(str(folder), device=CPU, quantization="fp8")
    assert caught.value.fix == "--fp8 false"
