"""An adapter over weights in fp8: its outputs and gradients, and what the weights take."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from danlu.device.detect import select
from danlu.hub.load import load_model
from danlu.hub.names import STARTER
from danlu.lora import linear as lora_linear
from danlu.lora.adapter import Adapter, LoraConfig
from danlu.lora.linear import AdapterLinear
from danlu.model.layout import PROJECTIONS
from danlu.model.quantized import Fp8Weight, fits, quantized_bytes
from danlu.model.qwen3 import Layer, Linear, Qwen3, plain_linear
from danlu.model.recompute import POLICIES, Recompute
from danlu.ops import reference
from danlu.ops.frozen.fp8 import FP8_LINEAR
from danlu.plan.job import Job
from danlu.workflows.demo import DATA
from tests.helpers.models.packed import packed_attention, random_adapter, random_tokens
from tests.helpers.models.tiny_model import TINY, in_fp8, tiny_model

CPU = torch.device("cpu")
LENGTHS = [9, 1, 14]
ALL = LoraConfig(r=4)
SOME = LoraConfig(r=4, target_modules=("q_proj", "up_proj"))


def as_floats(model: Qwen3, *, columns: bool = False) -> Qwen3:
    """A plain model with the numbers that the fp8 weights stand for, as products read them."""
    _config, plain = tiny_model()
    for ours, theirs in zip(plain.layers, model.layers, strict=True):
        for name in PROJECTIONS:
            weight = getattr(theirs, name)
            numbers = weight.values.float() * weight.scales[:, None]
            if columns:
                numbers = (weight.columns.float() * weight.column_scales[:, None]).t()
            getattr(ours, name).data.copy_(numbers)
    return plain


def gradients(
    model: Qwen3, adapter: Adapter, recompute: Recompute = "none"
) -> tuple[Tensor, list[Tensor]]:
    tokens = random_tokens(TINY, sum(LENGTHS))
    keeps = recompute not in ("selective", "gate_up")
    linear = AdapterLinear(adapter, keeps_normed=keeps)
    parameters = [parameter for _name, parameter in adapter.parameters()]
    for parameter in parameters:
        parameter.grad = None
    hidden = model(tokens, packed_attention(TINY, LENGTHS), linear, recompute)
    upstream = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(2))
    hidden.backward(upstream)
    return hidden.detach(), [p.grad.clone() for p in parameters if p.grad is not None]


def share_off(found: list[Tensor], expected: list[Tensor]) -> float:
    """The distance of all numbers together, as a share of their length."""
    a, b = (torch.cat([tensor.flatten() for tensor in each]) for each in (found, expected))
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("lora", [ALL, SOME], ids=["all", "some"])
def test_outputs_and_gradients_are_near_those_over_plain_weights(lora: LoraConfig) -> None:
    _config, plain = tiny_model()
    adapter = random_adapter(lora, TINY)
    y, found = gradients(in_fp8(plain), adapter)
    exact_y, exact = gradients(plain, adapter)
    # Every operand is off by up to 6 %, on average 3 to 4 %, and layers follow each other.
    assert share_off([y], [exact_y]) < 0.1
    assert len(found) == len(exact) == len(list(adapter.parameters()))
    assert share_off(found, exact) < 0.15


def test_without_the_rounding_of_what_is_multiplied_both_directions_are_exact(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The output by the weight's rows; the gradient by its columns."""

    def unrounded(x: Tensor, values: Tensor, scales: Tensor) -> Tensor:
        return x @ (values.float() * scales[:, None]).t()

    monkeypatch.setitem(_fp8_chosen(), "cpu", ("unrounded", unrounded))
    model = in_fp8(tiny_model()[1])
    linear = AdapterLinear(random_adapter(ALL, TINY))
    x = torch.randn(5, TINY.intermediate_size * 2, generator=torch.Generator().manual_seed(3))
    x.requires_grad_()
    forward, backward = as_floats(model), as_floats(model, columns=True)
    y = linear(model.layers[0], "down_proj", x)
    torch.testing.assert_close(y, linear(forward.layers[0], "down_proj", x))
    (dx,) = torch.autograd.grad(y.sum(), x)
    other = linear(backward.layers[0], "down_proj", x)
    torch.testing.assert_close(dx, torch.autograd.grad(other.sum(), x)[0])


def _fp8_chosen() -> dict[str, object]:
    FP8_LINEAR.on(CPU)
    return FP8_LINEAR._chosen  # type: ignore[return-value]


@pytest.mark.parametrize("policy", [policy for policy in POLICIES if policy != "none"])
@pytest.mark.parametrize("lora", [ALL, SOME], ids=["all", "some"])
def test_what_is_computed_again_gives_the_same_gradients(
    policy: Recompute, lora: LoraConfig
) -> None:
    model, adapter = in_fp8(tiny_model()[1]), random_adapter(lora, TINY)
    _y, expected = gradients(model, adapter)
    _y, found = gradients(model, adapter, policy)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_an_adapter_reads_what_is_not_rounded() -> None:
    model = in_fp8(tiny_model()[1])
    adapter = random_adapter(ALL, TINY)
    layer = model.layers[0]
    x = torch.randn(5, TINY.q_size, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        with_adapter = AdapterLinear(adapter)(layer, "o_proj", x)
        alone = plain_linear(layer, "o_proj", x)
    addition = adapter.additions[0, "o_proj"]
    added = x @ addition.a.t() @ addition.parts[0].b.t() * adapter.config.scaling
    torch.testing.assert_close(with_adapter - alone, added, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_only_projections_are_in_fp8_and_take_what_was_planned(tied: bool) -> None:
    config, plain = tiny_model(tie_word_embeddings=tied)
    model = in_fp8(plain)
    modules = [name for name, module in model.named_modules() if isinstance(module, Fp8Weight)]
    assert len(modules) == config.num_hidden_layers * len(PROJECTIONS)
    assert (model.head.lm_head is model.embed_tokens) == tied
    assert isinstance(model.head.lm_head, nn.Parameter)
    tensors = [*model.parameters(), *model.buffers()]
    taken = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    job = Job(config=config, number_bytes=4, ranks={"q_proj": 8}, base_form="fp8")
    assert taken == job.weight_bytes("cpu")
    assert taken == quantized_bytes(config, torch.float32, "fp8")


def test_widths_that_fp8_cannot_multiply() -> None:
    assert fits(TINY, "fp8")
    assert not fits(replace(TINY, intermediate_size=100), "fp8")
    assert not fits(replace(TINY, head_dim=28, num_key_value_heads=1), "fp8")


def test_evaluation_computes_as_training_does() -> None:
    model, adapter = in_fp8(tiny_model()[1]), random_adapter(ALL, TINY)
    linear: Linear = AdapterLinear(adapter)
    tokens, attend = random_tokens(TINY, sum(LENGTHS)), packed_attention(TINY, LENGTHS)
    with torch.no_grad():
        evaluated = model(tokens, attend, linear)
    assert torch.equal(evaluated, model(tokens, attend, linear).detach())


def test_gradients_of_a_real_step_lose_half_as_much_in_e4m3_as_in_e5m2(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Why gradients are e4m3: with a scale a row its range is enough, and it has a bit more."""
    base = load_model(STARTER, device=select("cpu"), dtype=torch.float32)
    text = (DATA / "rows.json").read_text(encoding="utf-8")[:1500]
    tokens = torch.tensor(base.tokenizer.encode_text(text))
    errors: dict[torch.dtype, list[float]] = {torch.float8_e4m3fn: [], torch.float8_e5m2: []}

    def measured(layer: Layer, name: str, dy: Tensor) -> Tensor:
        exact = dy @ getattr(layer, name)
        for dtype, found in errors.items():
            scales = dy.abs().amax(dim=1, keepdim=True).clamp(min=1e-30) / torch.finfo(dtype).max
            rounded = (dy / scales).to(dtype).float() * scales
            found.append(share_off([rounded @ getattr(layer, name)], [exact]))
        return exact

    monkeypatch.setattr(lora_linear, "product_gradient", measured)
    adapter = random_adapter(ALL, base.config)
    linear = AdapterLinear(adapter)
    hidden = base.model(tokens, packed_attention(base.config, [len(tokens)]), linear)
    logits = linear(base.model.head, "lm_head", hidden)
    F.cross_entropy(logits[:-1], tokens[1:]).backward()
    e4m3, e5m2 = (torch.tensor(found) for found in errors.values())
    assert len(e4m3) == base.config.num_hidden_layers * len(PROJECTIONS) - 1  # none of the first x
    assert (e4m3 < 0.6 * e5m2).all()
    assert e4m3.max() < 0.025


def test_rounding_by_rows_is_what_a_weight_holds() -> None:
    weight = torch.randn(32, 48, generator=torch.Generator().manual_seed(3))
    module = Fp8Weight(weight, CPU)
    module.fill(weight)
    for (values, scales), whole in (
        ((module.values, module.scales), weight),
        ((module.columns, module.column_scales), weight.t()),
    ):
        expected, expected_scales = reference.quantized_rows(whole)
        assert torch.equal(values.float(), expected.float())
        assert torch.equal(scales, expected_scales)
