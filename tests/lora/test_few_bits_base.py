"""An adapter over weights in few bits: its outputs and gradients, and what the weights take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from danlu.lora.adapter import Adapter, LoraConfig
from danlu.lora.linear import AdapterLinear
from danlu.model.config import WeightForm
from danlu.model.layout import PROJECTIONS
from danlu.model.quantized import fits, quantized_bytes
from danlu.model.qwen3 import Qwen3
from danlu.model.recompute import POLICIES, Recompute
from danlu.ops import QuantizedWeight
from danlu.plan.job import Job
from tests.helpers.models.few_bits import floats_of
from tests.helpers.models.packed import packed_attention, random_adapter, random_tokens
from tests.helpers.models.tiny_model import EXPERTS, TINY, quantized_tiny, tiny_model

LENGTHS = [9, 1, 14]
ALL = LoraConfig(r=4)
SOME = LoraConfig(r=4, target_modules=("q_proj", "up_proj"))
# Widths that nf4 can have.
WIDE = {"intermediate_size": 128}
# Experts in two of three layers.
WITH_EXPERTS = {
    **WIDE,
    "num_hidden_layers": 3,
    "experts": replace(EXPERTS, moe_intermediate_size=64),
}
every_form = pytest.mark.parametrize("form", ["int8", "int4", "nf4"])


def as_floats(model: Qwen3, shape: Mapping[str, Any] = WIDE) -> Qwen3:
    """A plain model with the numbers that the quantised weights stand for."""
    _config, plain = tiny_model(**shape)
    for ours, theirs in zip(plain.layers, model.layers, strict=True):
        for name in PROJECTIONS:
            weight = getattr(theirs, name)
            floats = floats_of(weight.form, (weight.values, weight.scales))
            getattr(ours, name).data.copy_(floats[: weight.outputs, : weight.inputs])
    return plain


def gradients(
    model: Qwen3, adapter: Adapter, recompute: Recompute = "none"
) -> tuple[Tensor, list[Tensor]]:
    tokens = random_tokens(model.config, sum(LENGTHS))
    linear = AdapterLinear(adapter, keeps_normed=recompute not in ("selective", "gate_up"))
    parameters = [parameter for _name, parameter in adapter.parameters()]
    for parameter in parameters:
        parameter.grad = None
    hidden = model(tokens, packed_attention(model.config, LENGTHS), linear, recompute)
    hidden.backward(torch.randn(hidden.shape, generator=torch.Generator().manual_seed(2)))
    return hidden.detach(), [p.grad.clone() for p in parameters if p.grad is not None]


@every_form
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("lora", [ALL, SOME], ids=["all", "some"])
def test_outputs_and_gradients_are_those_over_the_same_floats(
    form: WeightForm, policy: Recompute, lora: LoraConfig
) -> None:
    config, plain = tiny_model(**WIDE)
    model = quantized_tiny(plain, form)
    adapter = random_adapter(lora, config)
    y, found = gradients(model, adapter, policy)
    expected_y, expected = gradients(as_floats(model), adapter, policy)
    # The C++ kernels multiply numbers of 16 bits.
    torch.testing.assert_close(y, expected_y, rtol=1e-3, atol=1e-3 * expected_y.abs().max())
    assert len(found) == len(expected) == len(list(adapter.parameters()))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * other.abs().max())


@every_form
@pytest.mark.parametrize("policy", ["none", "gate_up", "block"])
@pytest.mark.parametrize("lora", [ALL, LoraConfig(r=4, target_modules=("q_proj",))])
@pytest.mark.parametrize("at_once", [False, True], ids=["by expert", "at once"])
def test_experts_in_few_bits_learn_as_those_over_the_same_floats(
    form: WeightForm, policy: Recompute, lora: LoraConfig, at_once: bool
) -> None:
    """With adapters on them, or below others only; at once, as on a card, where none are taken."""
    config, plain = tiny_model(**WITH_EXPERTS)
    model = quantized_tiny(plain, form)
    for module in model.modules() if at_once else ():
        if isinstance(module, QuantizedWeight):
            module.form = module.form._replace(cut=None)
    adapter = random_adapter(lora, config)
    y, found = gradients(model, adapter, policy)
    expected_y, expected = gradients(as_floats(model, WITH_EXPERTS), adapter, policy)
    torch.testing.assert_close(y, expected_y, rtol=2e-3, atol=2e-3 * expected_y.abs().max())
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-3, atol=2e-3 * other.abs().max())


@every_form
@pytest.mark.parametrize("shape", [WIDE, WITH_EXPERTS], ids=["dense", "experts"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_only_projections_are_quantised_and_take_what_was_planned(
    form: WeightForm, tied: bool, dtype: torch.dtype, shape: Mapping[str, Any]
) -> None:
    config, plain = tiny_model(tie_word_embeddings=tied, **shape)
    model = quantized_tiny(plain.to(dtype), form)
    modules = [
        name for name, module in model.named_modules() if isinstance(module, QuantizedWeight)
    ]
    assert len(modules) == config.num_hidden_layers * len(PROJECTIONS)
    assert (model.head.lm_head is model.embed_tokens) == tied
    assert isinstance(model.head.lm_head, nn.Parameter)
    taken = sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
    job = Job(config=config, number_bytes=dtype.itemsize, ranks={"q_proj": 8}, base_form=form)
    assert taken == job.weight_bytes("cpu")
    assert taken == quantized_bytes(config, dtype, form, keeps_head=True)


def test_widths_that_a_form_cannot_have() -> None:
    assert fits(TINY, "int8")
    assert fits(TINY, "int4")
    assert not fits(TINY, "nf4")  # 96 inputs of the last projection
    assert fits(replace(TINY, intermediate_size=128), "nf4")
    assert not fits(replace(TINY, intermediate_size=100), "int4")
